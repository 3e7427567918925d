"""The arrays in a device's memory at the moment of a program when they take most.

They are a lower bound of what the compiler needs: its allocator leaves gaps between arrays and takes scratch
for some instructions, and the program's code comes on top. Tried instead, for TPU topologies: jaxlib 0.10.2's
``memory_analysis()`` has the peak, but its ``serialized_buffer_assignment_proto`` is empty.
"""

import re
from collections import Counter
from dataclasses import dataclass

from efficientnet_pod.preflight.program.attribution import Place, Places
from efficientnet_pod.preflight.program.hlo import Computation, Instruction, Module
from efficientnet_pod.preflight.program.shapes import Array, arrays, elements

_ARGUMENTS = {
    "state.params": "parameters",
    "variables['params']": "parameters",
    "state.opt_state": "optimizer state",
    "state.ema": "averaged weights",
    "state.batch_stats": "BN statistics",
    "variables['batch_stats']": "BN statistics",
    "batch": "batch",
}
_IN_PLACE = ("bitcast", "while", "optimization-barrier")
_UPDATES = ("dynamic-update-slice", "scatter")  # they write into operand 0


@dataclass(frozen=True)
class Buffer:
    """An array in a device's main memory.

    Attributes:
      name: the instruction that makes it; for an argument its path, such as ``state.params['stem_conv']``.
      kind: ``argument``, ``temporary`` or ``output``.
      place: where it is made; the layer of an argument is its content: ``parameters``, ``optimizer state``,
        ``averaged weights``, ``BN statistics``, ``batch`` or ``other``.
      array: dtype and shape, such as ``bf16[32,112,112,32]``.
      bytes: size in memory, padded to whole tiles.
    """

    name: str
    kind: str
    place: Place
    array: str
    bytes: int


@dataclass(slots=True, eq=False)
class _Held:
    """An array in memory, and the first and last place in the schedule between which it is kept."""

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


# Arrays that are alive at one moment, each with the computation that makes it.
_Alive = list[tuple[_Held, Computation]]


def buffers_of(module: Module, places: Places) -> tuple[Buffer, ...]:
    """Returns the arrays that are alive when the program holds most, the largest first.

    Results that take the place of a donated argument are not listed. Nothing is known, and nothing returned,
    where the module is not scheduled: then its text is not in the order of execution.
    """
    if "is_scheduled=true" not in module.header:
        return ()
    entry = module.entry
    donated = {int(i) for i in re.findall(r"\{(\d+)\}: \(\d+, \{", module.header)}
    held = _arrays_of(entry, donated)
    alive: _Alive = [(h, entry) for h in held if h.kind in ("argument", "output")]
    alive += _peak(held, entry, module)
    buffers = [_buffer(h, computation, places) for h, computation in alive if h.bytes]
    return tuple(sorted(buffers, key=lambda buffer: (-buffer.bytes, buffer.name)))


def _buffer(held: _Held, computation: Computation, places: Places) -> Buffer:
    array = f"{held.array.dtype}[{','.join(map(str, held.array.dims))}]"
    if held.kind == "argument":
        name = held.maker.op_name
        contents = (content for prefix, content in _ARGUMENTS.items() if name.startswith(prefix))
        place = Place(next(contents, "other"), "", "")
        return Buffer(name or held.maker.name, "argument", place, array, held.bytes)
    place = places.of(held.maker, computation)
    return Buffer(held.maker.name, held.kind, place, array, held.bytes)


def _peak(held: list[_Held], computation: Computation, module: Module) -> _Alive:
    """Returns the temporaries of a computation, and of those it calls, at the moment they take most."""
    temporaries = [h for h in held if h.kind == "temporary" and h.bytes]
    change: Counter[int] = Counter()
    for h in temporaries:
        change[h.first] += h.bytes
        change[h.last + 1] -= h.bytes
    alive, most, peak = 0, -1, (0, _Alive())
    for moment, instruction in enumerate(computation.instructions.values()):
        alive += change[moment]
        inside = _peak_inside(instruction, module)
        if alive + _size(inside) > most:
            most, peak = alive + _size(inside), (moment, inside)
    moment, inside = peak
    return [(h, computation) for h in temporaries if h.first <= moment <= h.last] + inside


def _peak_inside(instruction: Instruction, module: Module) -> _Alive:
    """Returns the temporaries of a loop, branch or call at its peak, without its arguments."""
    peaks = [_Alive()]
    if instruction.opcode in ("while", "conditional", "call"):
        for name in instruction.called:
            computation = module.computations[name]
            held = _arrays_of(computation)  # its results are the caller's, and counted there
            peaks.append(_peak(held, computation, module))
    return max(peaks, key=_size)


def _size(alive: _Alive) -> int:
    return sum(held.bytes for held, _ in alive)


def _arrays_of(computation: Computation, donated: frozenset[int] | set[int] = frozenset()) -> list[_Held]:
    """Returns all arrays that a computation makes or is given, with the times between which they are needed.

    Its results with the numbers in ``donated`` take an argument's place: their kind is "donated".
    """
    values: dict[str, list[_Held]] = {}
    everything: list[_Held] = []
    end = len(computation.instructions)
    for moment, instruction in enumerate(computation.instructions.values()):
        operands = [values.get(name, []) for name in instruction.operands]
        for held in (h for leaves in operands for h in leaves):
            held.last = moment
        leaves = _leaves(instruction, operands, moment, computation)
        values[instruction.name] = leaves
        everything += [h for h in leaves if h.maker is instruction]
        if instruction.opcode == "parameter":
            for held in leaves:
                held.first, held.last, held.kind = 0, end, "argument"
    for i, held in enumerate(values[computation.root.name]):
        held.last = end
        if held.kind == "temporary":
            held.kind = "donated" if i in donated else "output"
    return everything


def _leaves(
    instruction: Instruction, operands: list[list[_Held]], moment: int, computation: Computation
) -> list[_Held]:
    """Returns the arrays of an instruction's result in order: those of operands where they share memory."""
    opcode = instruction.opcode
    if opcode == "tuple":
        return [held for leaves in operands for held in leaves]
    if opcode in _IN_PLACE:
        return operands[0]
    if opcode == "get-tuple-element":
        shapes = elements(computation.instructions[instruction.operands[0]].shape)
        sizes = [len(arrays(shape)) for shape in shapes]
        index = int(instruction.attribute("index") or 0)
        start = sum(sizes[:index])
        return operands[0][start : start + sizes[index]]
    if opcode.endswith("-done"):
        return _finished(instruction, operands[0])
    leaves = [_Held(instruction, array, moment, moment) for array in instruction.results]
    for output, held in _shared(instruction, operands):
        if output < len(leaves) and held.array.memory_space == leaves[output].array.memory_space:
            leaves[output] = held
    return leaves


def _finished(done: Instruction, started: list[_Held]) -> list[_Held]:
    """Returns the results of an asynchronous operation: the last arrays it holds with their shapes."""
    results, rest = [], list(started)
    for array in reversed(done.results):
        held = next((h for h in reversed(rest) if h.array == array), None)
        if held is None:  # its start does not have that shape: take the first ones
            return started[: len(done.results)]
        rest.remove(held)
        results.insert(0, held)
    return results


def _shared(instruction: Instruction, operands: list[list[_Held]]) -> list[tuple[int, _Held]]:
    """Returns the arrays of a result, by number, that lie in the place of an operand's array.

    XLA's TPU compiler lists sets of places, the operands numbered first and the results behind them; other
    compilers write ``output_to_operand_aliasing={{0}: (1, {})}``. A copy's start also passes its source on.
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
