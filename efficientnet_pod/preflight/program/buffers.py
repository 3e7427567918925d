"""Owns what a program keeps in device memory: which arrays are alive when it holds most."""

import re
from collections import Counter
from dataclasses import dataclass

from efficientnet_pod.preflight.program.attribution import OTHER, Place, Places
from efficientnet_pod.preflight.program.hlo import Computation, Instruction, Module
from efficientnet_pod.preflight.program.shapes import Array, arrays, elements

_WHAT_ARGUMENTS_ARE = {
    "state.params": "parameters",
    "variables['params']": "parameters",
    "state.opt_state": "optimizer state",
    "state.ema": "averaged weights",
    "state.batch_stats": "BN statistics",
    "variables['batch_stats']": "BN statistics",
    "batch": "batch",
}
_IN_PLACE = ("bitcast", "while", "optimization-barrier")
_UPDATES = ("dynamic-update-slice", "scatter")  # of operand 0, in its place


@dataclass(frozen=True)
class Buffer:
    """An array in a device's main memory.

    Attributes:
      name: of the instruction that makes it; of an argument its path, such as ``state.params['stem_conv']``.
      kind: ``argument``, ``temporary`` or ``output``.
      layer: where it is made, see `attribution.Place`; of an argument what it is: ``parameters``,
        ``optimizer state``, ``averaged weights``, ``BN statistics``, ``batch`` or ``other``.
      part: likewise; "" of an argument.
      direction: likewise; "" of an argument.
      array: dtype and shape, as ``bf16[32,112,112,32]``.
      bytes: as it lies in memory, padded to whole tiles.
    """

    name: str
    kind: str
    layer: str
    part: str
    direction: str
    array: str
    bytes: int


@dataclass(frozen=True)
class Memory:
    """What a program holds in a device's main memory when it holds most.

    It is a lower bound: the compiler's allocator also needs gaps between arrays and scratch for some
    instructions, and the program's code comes besides.

    Attributes:
      argument_bytes: of everything passed in.
      output_bytes: of results that do not take the place of a donated argument.
      temporary_bytes: of the temporaries alive at the fullest moment.
      fullest: where in the step that is.
      buffers: all that is alive then, the largest first.
    """

    argument_bytes: int
    output_bytes: int
    temporary_bytes: int
    fullest: Place
    buffers: tuple[Buffer, ...]

    @property
    def peak_bytes(self) -> int:
        """Bytes of everything alive at the fullest moment."""
        return self.argument_bytes + self.output_bytes + self.temporary_bytes


@dataclass(slots=True, eq=False)
class _Held:
    """An array in memory, and from which to which place in the schedule it must be kept."""

    maker: Instruction
    array: Array
    first: int
    last: int
    kind: str = "temporary"

    @property
    def bytes(self) -> int:
        # Constants are part of the code; memory other than the main one is fast and on the chip.
        if self.maker.opcode == "constant" or self.array.memory_space:
            return 0
        return self.array.padded_bytes


@dataclass(frozen=True, slots=True)
class _Fullest:
    """The moment in a computation when its temporaries take most: bytes, place, what is alive."""

    bytes: int
    where: Place
    alive: tuple[tuple[_Held, Computation], ...]


_NOTHING = _Fullest(0, OTHER, ())


def memory_of(module: Module, places: Places) -> Memory | None:
    """Returns what is alive when the program holds most, if it runs in the order of its text.

    None where the module is not scheduled: then the order of its text means nothing.
    """
    if "is_scheduled=true" not in module.header:
        return None
    entry = module.entry
    donated = {int(i) for i in re.findall(r"\{(\d+)\}: \(\d+, \{", module.header)}
    held = _Arrays(module).of(entry, donated=donated)
    fullest = _fullest(held, entry, module, places)
    lasting = tuple((h, entry) for h in held if h.kind in ("argument", "output"))
    buffers = [_buffer(h, where, places) for h, where in lasting + fullest.alive if h.bytes]
    return Memory(
        argument_bytes=sum(h.bytes for h in held if h.kind == "argument"),
        output_bytes=sum(h.bytes for h in held if h.kind == "output"),
        temporary_bytes=fullest.bytes,
        fullest=fullest.where,
        buffers=tuple(sorted(buffers, key=lambda b: (-b.bytes, b.name))),
    )


def _buffer(held: _Held, computation: Computation, places: Places) -> Buffer:
    array = f"{held.array.dtype}[{','.join(map(str, held.array.dims))}]"
    if held.kind == "argument":
        name = held.maker.op_name
        whats = (what for prefix, what in _WHAT_ARGUMENTS_ARE.items() if name.startswith(prefix))
        return Buffer(name or held.maker.name, "argument", next(whats, "other"), "", "", array, held.bytes)
    place = places.of(held.maker, computation)
    return Buffer(held.maker.name, held.kind, place.layer, place.part, place.direction, array, held.bytes)


def _fullest(held: list[_Held], computation: Computation, module: Module, places: Places) -> _Fullest:
    """Returns when the temporaries of a computation, and of those it calls, take most memory."""
    temporaries = [h for h in held if h.kind == "temporary" and h.bytes]
    change: Counter[int] = Counter()
    for h in temporaries:
        change[h.first] += h.bytes
        change[h.last + 1] -= h.bytes
    alive, best = 0, (-1, 0, computation.root, _NOTHING)
    for at, instruction in enumerate(computation.instructions.values()):
        alive += change[at]
        inside = _inside(instruction, module, places)
        if alive + inside.bytes > best[0]:
            best = (alive + inside.bytes, at, instruction, inside)
    size, at, instruction, inside = best
    where = inside.where if inside.alive else places.of(instruction, computation)
    return _Fullest(
        size, where, (*((h, computation) for h in temporaries if h.first <= at <= h.last), *inside.alive)
    )


def _inside(instruction: Instruction, module: Module, places: Places) -> _Fullest:
    """Returns the fullest moment of what a loop, branch or call runs, beside what it is given."""
    found = [_NOTHING]
    if instruction.opcode in ("while", "conditional", "call"):
        for name in instruction.called:
            computation = module.computations[name]
            held = _Arrays(module).of(computation)
            for h in held:  # its results are the caller's, counted there
                h.kind = "argument" if h.kind == "output" else h.kind
            found.append(_fullest(held, computation, module, places))
    return max(found, key=lambda fullest: fullest.bytes)


class _Arrays:
    """Follows the arrays of a computation: which are new, which lie in the place of an operand."""

    def __init__(self, module: Module):
        self._module = module

    def of(self, computation: Computation, donated: frozenset[int] | set[int] = frozenset()) -> list[_Held]:
        """Returns all arrays of a computation with the times between which they are needed.

        Its results with the numbers in ``donated`` take an argument's place: their kind is "donated".
        """
        values: dict[str, list[_Held]] = {}
        everything: list[_Held] = []
        end = len(computation.instructions)
        for at, instruction in enumerate(computation.instructions.values()):
            operands = [values.get(name, []) for name in instruction.operands]
            for held in (h for leaves in operands for h in leaves):
                held.last = at
            leaves = self._leaves(instruction, operands, at, computation)
            values[instruction.name] = leaves
            everything += [h for h in leaves if h.maker is instruction]
            if instruction.opcode == "parameter":
                for h in leaves:
                    h.first, h.last, h.kind = 0, end, "argument"
        for i, h in enumerate(values[computation.root.name]):
            h.last = end
            if h.kind == "temporary":
                h.kind = "donated" if i in donated else "output"
        return everything

    def _leaves(
        self, instruction: Instruction, operands: list[list[_Held]], at: int, computation: Computation
    ) -> list[_Held]:
        """Returns the arrays of an instruction's result, in order; those of operands where they share."""
        opcode = instruction.opcode
        if opcode == "tuple":
            return [held for leaves in operands for held in leaves]
        if opcode in _IN_PLACE:
            return operands[0]
        if opcode == "get-tuple-element":
            sizes = [
                len(arrays(text))
                for text in elements(computation.instructions[instruction.operands[0]].shape)
            ]
            index = int(instruction.attribute("index") or 0)
            start = sum(sizes[:index])
            return operands[0][start : start + sizes[index]]
        if opcode.endswith("-done"):
            return _finished(instruction, operands[0])
        leaves = [_Held(instruction, array, at, at) for array in instruction.results]
        for output, held in _shared(instruction, operands):
            if output < len(leaves) and held.array.memory_space == leaves[output].array.memory_space:
                leaves[output] = held
        return leaves


def _finished(done: Instruction, started: list[_Held]) -> list[_Held]:
    """Returns what an asynchronous operation leaves: of what it holds, the last arrays of the same shapes."""
    left, rest = [], list(started)
    for array in reversed(done.results):
        found = next((h for h in reversed(rest) if h.array == array), None)
        if found is None:  # its start does not say: take what is there
            return started[: len(done.results)]
        rest.remove(found)
        left.insert(0, found)
    return left


def _shared(instruction: Instruction, operands: list[list[_Held]]) -> list[tuple[int, _Held]]:
    """Returns which arrays of a result lie in the place of an operand's.

    XLA's TPU compiler lists sets of places, the operands numbered first and the results behind them; others
    write ``output_to_operand_aliasing={{0}: (1, {})}``. A copy's start also passes its source on.
    """
    opcode, flat = instruction.opcode, [h for leaves in operands for h in leaves]
    if opcode in _UPDATES:
        return [(0, operands[0][0])] if operands and operands[0] else []
    if opcode == "copy-start":
        return [(1, flat[0])] if flat else []
    if opcode.endswith("-start") and opcode != "all-reduce-start":
        return list(enumerate(flat))
    attributes, shared = instruction.attributes, []
    if "output_to_operand_aliasing=" in attributes:
        text = attributes[attributes.index("output_to_operand_aliasing=") :]
        for output, operand in re.findall(r"\{(\d*)\}: \((\d+), \{\}", text[: text.find(")}") + 2]):
            shared += [(int(output or 0), h) for h in operands[int(operand)][:1]]
    start = attributes.find('"aliasing_operands":')
    if start >= 0:
        for indices in re.findall(r'"indices":\[([^\]]*)\]', attributes[start:]):
            numbers = [int(n) for n in indices.replace('"', "").split(",")]
            sources = [n for n in numbers if n < len(flat)]
            if sources:
                shared += [(n - len(flat), flat[sources[0]]) for n in numbers if n >= len(flat)]
    return shared
