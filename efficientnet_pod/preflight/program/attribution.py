"""Owns the names of what a step consists of: which layer and part an instruction of a program belongs to."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from efficientnet_pod.preflight.program.hlo import Computation, Instruction, Module

PARTS = (
    "expand",
    "depthwise",
    "squeeze-excite",
    "project",
    "BN",
    "swish",
    "shortcut",  # the residual sum and stochastic depth
    "stem",
    "head",  # with the pooling behind it
    "classifier",  # with dropout
    "input",
    "loss",
    "optimizer",  # with the averaged weights, and the choice between new state and old
    "statistics",  # of BN, averaged over groups
    "metrics",
    "checks",  # that all is finite, that nobody stops
    "other",
)
STEP = "step"  # the layer of what is in no layer
BETWEEN = ""  # the layer of what stands between the layers, until its neighbours tell

_LAYER = re.compile(r"(block\d+[a-z]+|stem|head|classifier|Dropout)(?:_(\w+))?$")
_OF_SUBMODULE = {
    "expand_conv": "expand",
    "depthwise_conv": "depthwise",
    "project_conv": "project",
    "se_reduce": "squeeze-excite",
    "se_expand": "squeeze-excite",
    "squeeze_excite": "squeeze-excite",
    "stochastic_depth": "shortcut",
}

# The named scopes of a step, each of which is the part it is called by.
_SCOPES = ("input", "loss", "metrics", "optimizer", "statistics", "checks")
_DIFFERENTIATED = ("input", "loss", "metrics")
_TRANSFORMED = re.compile(r"^(?:(?:jvp|transpose)\()*(\w+)\)*$")
_HEROES = ("convolution", "dot")
_SOURCELESS = ("parameter", "constant")


@dataclass(frozen=True, order=True, slots=True)
class Place:
    """Where in a step something belongs.

    Attributes:
      layer: ``stem``, ``block3b``, ``head``, ``classifier`` or ``step`` for what is outside the network.
      part: one of `PARTS`.
      direction: ``forward``, ``backward``, or ``update`` for what follows the gradient.
    """

    layer: str
    part: str
    direction: str


OTHER = Place(STEP, "other", "update")


def place_of(op_name: str) -> Place | None:
    """Returns where an operation belongs by its path, or None where that does not tell.

    Args:
      op_name: such as ``jit(f)/shard_map/transpose(jvp(EfficientNet))/block3b/expand_bn/mul``. The transpose
        of a forward pass is the backward one; what ``jax.checkpoint`` computes again is of it.
    """
    path = op_name.partition(";")[0].split("/")
    backward = any("transpose(" in step or step == "rematted_computation" for step in path)
    direction = "backward" if backward else "forward"
    for i, step in enumerate(path):
        if found := _LAYER.match(step):
            return _in_layer(found.group(1), found.group(2) or "", path[i + 1 :], direction)
    if any("EfficientNet" in step for step in path):
        return Place(BETWEEN, "swish" if "silu" in op_name else "", direction)
    for step in reversed(path):
        scope = _TRANSFORMED.match(step)
        if scope and scope[1] in _SCOPES:
            return Place(STEP, scope[1], direction if scope[1] in _DIFFERENTIATED else "update")
    return None


def _in_layer(layer: str, suffix: str, path: list[str], direction: str) -> Place:
    if layer in ("classifier", "Dropout"):
        return Place("classifier", "classifier", direction)
    if not layer.startswith("block"):
        return Place(layer, "BN" if suffix == "bn" else layer, direction)
    inside = path[0] if path else ""
    if inside.endswith("_bn"):
        return Place(layer, "BN", direction)
    if inside in _OF_SUBMODULE:
        return Place(layer, _OF_SUBMODULE[inside], direction)
    return Place(layer, "swish" if "silu" in inside else "shortcut", direction)


class Places:
    """Where each instruction of a module belongs."""

    def __init__(self, module: Module):
        self._module = module
        self._known: dict[str, Place] = {}

    def of(self, instruction: Instruction, computation: Computation) -> Place:
        """Returns the place of an instruction of a computation; `OTHER` where nothing tells.

        Its own name says it. Where that does not, those of the instructions fused in it do: a convolution's
        first, else the place that writes most bytes; then the instruction it reads, then one that reads it.
        What stands between the layers belongs to the one before it.
        """
        key = f"{computation.name}/{instruction.name}"
        if key not in self._known:
            place = self._named(instruction) or self._fused(instruction)
            if place is None:
                place = self._near(instruction, computation, backward=False, between=True) or OTHER
            if place.layer == BETWEEN:
                place = self._beside(place, instruction, computation)
            self._known[key] = place
        return self._known[key]

    def _beside(self, place: Place, instruction: Instruction, computation: Computation) -> Place:
        """Returns the place of something between the layers: in a backward pass what comes next is before."""
        backward = place.direction == "backward"
        near = self._near(instruction, computation, backward=backward, between=False)
        layer = near.layer if near and near.layer != STEP else "stem"
        return Place(
            layer, place.part or ("shortcut" if layer.startswith("block") else layer), place.direction
        )

    def _named(self, instruction: Instruction) -> Place | None:
        op_name = instruction.op_name
        return place_of(op_name) if op_name else None

    def _fused(self, instruction: Instruction) -> Place | None:
        if instruction.opcode != "fusion":
            return None
        bytes_of: Counter[Place] = Counter()
        for name in instruction.called:
            for part in self._module.computations[name].instructions.values():
                if part.opcode in _SOURCELESS:
                    continue
                place = self._named(part) or self._fused(part)
                if place and part.opcode in _HEROES:
                    return place
                if place:
                    bytes_of[place] += sum(array.padded_bytes for array in part.results)
        return max(bytes_of, key=lambda place: (bytes_of[place], place)) if bytes_of else None

    def _near(
        self, instruction: Instruction, computation: Computation, *, backward: bool, between: bool
    ) -> Place | None:
        """Returns the place of the nearest instruction that feeds this one or, failing that, is fed by it.

        Args:
          instruction: whose neighbours to ask.
          computation: that it is in.
          backward: ask those it feeds first.
          between: whether places between the layers are an answer, or outside of them.
        """
        operands = lambda i: i.operands  # noqa: E731
        users = lambda i: self._users[computation.name].get(i.name, ())  # noqa: E731
        for neighbours in (users, operands) if backward else (operands, users):
            seen, waiting = {instruction.name}, [instruction]
            for at in waiting:
                for name in neighbours(at):
                    other = computation.instructions.get(name)
                    if other is None or name in seen or other.opcode in _SOURCELESS:
                        continue
                    place = self._named(other) or self._fused(other)
                    if place and (between or place.layer not in (BETWEEN, STEP)):
                        return place
                    seen.add(name)
                    if place is None or place.layer == BETWEEN:
                        waiting.append(other)
        return None

    @cached_property
    def _users(self) -> dict[str, dict[str, list[str]]]:
        users: dict[str, dict[str, list[str]]] = {}
        for computation in self._module.computations.values():
            of = users.setdefault(computation.name, {})
            for instruction in computation.instructions.values():
                for operand in instruction.operands:
                    of.setdefault(operand, []).append(instruction.name)
        return users
