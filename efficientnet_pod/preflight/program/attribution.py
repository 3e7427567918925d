"""The place of an instruction in a step: the layer and part of the network, or the part of training."""

import re
from collections import Counter
from dataclasses import dataclass

from efficientnet_pod.preflight.program.hlo import Computation, Instruction, Module

STEP = "step"  # the layer of everything outside the network
BETWEEN = ""  # the layer of what stands between two layers, until its neighbours tell

_LAYER = re.compile(r"(block\d+[a-z]+|stem|head|auxiliary|classifier|Dropout)(?:_(\w+))?$")
_OF_CELL = re.compile(r"(state\d|input|before)(?:_left|_right)?$")  # of AmoebaNet
_OF_SUBMODULE = {
    "expand_conv": "expand",
    "depthwise_conv": "depthwise",
    "project_conv": "project",
    "se_reduce": "squeeze-excite",
    "se_expand": "squeeze-excite",
    "squeeze_excite": "squeeze-excite",
    "stochastic_depth": "shortcut",
}

# The named scopes of a step; a part outside the network has the name of its scope.
_SCOPES = ("input", "loss", "metrics", "optimizer", "statistics", "checks")
_DIFFERENTIATED = ("input", "loss", "metrics")
_TRANSFORMED = re.compile(r"^(?:(?:jvp|transpose)\()*(\w+)\)*$")
_HEROES = ("convolution", "dot")
_SOURCELESS = ("parameter", "constant")


@dataclass(frozen=True, order=True, slots=True)
class Place:
    """Where in a step something belongs.

    Attributes:
      layer: ``stem``, ``block3b``, ``head``, ``auxiliary``, ``classifier`` or, outside the network, ``step``.
      part: in a block ``expand``, ``depthwise``, ``squeeze-excite``, ``project``, ``swish`` or ``shortcut``
        (the residual sum and stochastic depth), or the state or input of a cell; in any layer ``BN``;
        ``stem``, ``head`` (with the pooling) and ``classifier`` (with dropout); in the step ``input``,
        ``loss``, ``metrics``, ``optimizer`` (with the averaged weights), ``statistics`` (of BN, averaged over
        groups), ``checks`` (for finite values and for stops) and ``other``.
      direction: ``forward``, ``backward``, or ``update`` for what follows the gradient.
    """

    layer: str
    part: str
    direction: str


OTHER = Place(STEP, "other", "update")


def place_of(op_name: str) -> Place | None:
    """Returns the place of an operation by its path; None where the path does not tell.

    A path is such as ``jit(f)/shard_map/transpose(jvp(EfficientNet))/block3b/expand_bn/mul``. The transpose
    of a forward pass is the backward pass, and so is what ``jax.checkpoint`` computes again.
    """
    path = op_name.partition(";")[0].split("/")
    backward = any("transpose(" in scope or scope == "rematted_computation" for scope in path)
    direction = "backward" if backward else "forward"
    for i, scope in enumerate(path):
        if layer := _LAYER.match(scope):
            return _in_layer(layer[1], layer[2] or "", path[i + 1 :], direction)
    if any("EfficientNet" in scope for scope in path):
        return Place(BETWEEN, "swish" if "silu" in op_name else "", direction)
    for scope in reversed(path):
        name = _TRANSFORMED.match(scope)
        if name and name[1] in _SCOPES:
            return Place(STEP, name[1], direction if name[1] in _DIFFERENTIATED else "update")
    return None


def _in_layer(layer: str, suffix: str, path: list[str], direction: str) -> Place:
    if layer in ("classifier", "Dropout"):
        return Place("classifier", "classifier", direction)
    if not layer.startswith("block"):
        return Place(layer, "BN" if suffix == "bn" else layer, direction)
    submodule = path[0] if path else ""
    if cell := _OF_CELL.match(submodule):
        return Place(layer, "BN" if "bn" in path else cell[1], direction)
    if submodule.endswith("_bn"):
        return Place(layer, "BN", direction)
    part = _OF_SUBMODULE.get(submodule) or ("swish" if "silu" in submodule else "shortcut")
    return Place(layer, part, direction)


class Places:
    """The place of each instruction of a module."""

    def __init__(self, module: Module):
        self._module = module
        self._known: dict[Instruction, Place] = {}

    def of(self, instruction: Instruction, computation: Computation) -> Place:
        """Returns the place of an instruction of a computation; `OTHER` where nothing tells.

        Its own name comes first, then the instructions fused in it: a convolution, else the place that writes
        most bytes. Next comes the instruction it reads, then one that reads it. Instructions between two
        layers belong to the layer before them.
        """
        if instruction not in self._known:
            place = self._own(instruction)
            place = place or self._near(instruction, computation, users_first=False, between=True) or OTHER
            if place.layer == BETWEEN:
                place = self._behind_a_layer(place, instruction, computation)
            self._known[instruction] = place
        return self._known[instruction]

    def _behind_a_layer(self, place: Place, instruction: Instruction, computation: Computation) -> Place:
        """Returns the place of something between two layers; a backward pass runs through them in reverse."""
        backward = place.direction == "backward"
        near = self._near(instruction, computation, users_first=backward, between=False)
        layer = near.layer if near else "stem"
        part = place.part or ("shortcut" if layer.startswith("block") else layer)
        return Place(layer, part, place.direction)

    def _own(self, instruction: Instruction) -> Place | None:
        """Returns the place by an instruction's own name or what is fused in it; None if neither tells."""
        if place := place_of(instruction.op_name):
            return place
        if instruction.opcode != "fusion":
            return None
        bytes_of: Counter[Place] = Counter()
        for name in instruction.called:
            for fused in self._module.computations[name].instructions.values():
                place = None if fused.opcode in _SOURCELESS else self._own(fused)
                if place and fused.opcode in _HEROES:
                    return place
                if place:
                    bytes_of[place] += sum(array.padded_bytes for array in fused.results)
        return max(bytes_of, key=lambda place: (bytes_of[place], place)) if bytes_of else None

    def _near(
        self, instruction: Instruction, computation: Computation, *, users_first: bool, between: bool
    ) -> Place | None:
        """Returns the place of the nearest instruction that feeds this one or, failing that, reads it.

        ``users_first`` asks the readers first; ``between`` accepts places between two layers and outside the
        network.
        """
        for ask_users in (users_first, not users_first):
            seen, waiting = {instruction.name}, [instruction]
            for current in waiting:
                names = computation.users.get(current.name, ()) if ask_users else current.operands
                for name in names:
                    other = computation.instructions.get(name)
                    if other is None or name in seen or other.opcode in _SOURCELESS:
                        continue
                    place = self._own(other)
                    if place and (between or place.layer not in (BETWEEN, STEP)):
                        return place
                    seen.add(name)
                    if place is None or place.layer == BETWEEN:
                        waiting.append(other)
        return None
