"""Owns how often the instructions of a program run: loops times their trip count, branches, calls."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from efficientnet_pod.preflight.program.hlo import Computation, Instruction, Module


@dataclass(frozen=True, slots=True)
class Executed:
    """An instruction that runs, with its computation and how often a call of the program runs it."""

    instruction: Instruction
    computation: Computation
    times: int


class Execution:
    """What a call of a program runs.

    Of a conditional it is the branch with most estimated cycles; where the compiler gives none, the one with
    most instructions. Fused instructions are their fusion, not listed. A loop whose trip count nobody tells
    counts once, and is named in `unknown_loops`.
    """

    def __init__(self, module: Module):
        self._module = module
        self._own: dict[str, list[Executed]] = {}
        self.unknown_loops: set[str] = set()
        self.instructions: list[Executed] = self._of(module.entry)

    def _of(self, computation: Computation) -> list[Executed]:
        if computation.name not in self._own:
            self._own[computation.name] = list(self._walk(computation))
        return self._own[computation.name]

    def _walk(self, computation: Computation) -> Iterator[Executed]:
        for instruction in computation.instructions.values():
            yield Executed(instruction, computation, 1)
            match instruction.opcode:
                case "while":
                    yield from self._loop(instruction, computation)
                case "conditional":
                    branches = [self._of(self._module.computations[name]) for name in instruction.called]
                    yield from max(branches, key=lambda steps: (cycles(steps) or 0, len(steps)))
                case "call" | "async-start":
                    for name in instruction.called:
                        yield from self._of(self._module.computations[name])

    def _loop(self, loop: Instruction, computation: Computation) -> Iterator[Executed]:
        trips = trip_count(loop, computation, self._module)
        if trips is None:
            self.unknown_loops.add(loop.name)
            trips = 1
        for attribute, times in (("condition", trips + 1), ("body", trips)):
            name = (loop.attribute(attribute) or "").lstrip("%")
            for step in self._of(self._module.computations[name]):
                yield Executed(step.instruction, step.computation, step.times * times)


def own_cycles(instruction: Instruction) -> int | None:
    """Returns the cycles the compiler expects of one run of an instruction; None where it says nothing.

    XLA's TPU compiler notes them as ``"estimated_cycles":"1234"`` in the window configuration.
    """
    text = instruction.attributes
    start = text.find('"estimated_cycles":')
    if start < 0:
        return None
    digits = text[start + len('"estimated_cycles":') :].lstrip('" ')
    end = next((i for i, c in enumerate(digits) if not c.isdigit()), len(digits))
    return int(digits[:end]) if end else None  # a negative number is no estimate


def cycles(steps: list[Executed]) -> int | None:
    """Returns the sum of the instructions' cycles times their runs; None if none has any."""
    known = [(own_cycles(step.instruction), step.times) for step in steps]
    counted = [count * times for count, times in known if count is not None]
    return sum(counted) if counted else None


def trip_count(loop: Instruction, computation: Computation, module: Module) -> int | None:
    """Returns how often the body of a ``while`` runs, or None if the text does not tell.

    The compiler may have noted it. Else the condition compares a counter with a constant, the counter starts
    at a constant and the body adds one to it, all three constants.
    """
    noted = loop.backend_config.get("known_trip_count", {}).get("n")
    if noted is not None:
        return int(noted)
    names = {part: (loop.attribute(part) or "").lstrip("%") for part in ("condition", "body")}
    condition, body = (module.computations.get(names[part]) for part in ("condition", "body"))
    start = computation.instructions.get(loop.operands[0])
    if condition is None or body is None or start is None or start.opcode != "tuple":
        return None

    def initial(index: int) -> int | None:
        return _constant(start.operands[index], computation)

    compared = _comparison(condition, module)
    if compared is None:
        return None
    direction, sides = compared
    counter, limit = sides
    if isinstance(limit, tuple) and not isinstance(counter, tuple):  # written the other way round
        counter, limit = limit, counter
        direction = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}.get(direction, direction)
    if not isinstance(counter, tuple):
        return None
    last = initial(limit[0]) if isinstance(limit, tuple) else limit
    first, step = initial(counter[0]), _step(body, counter[0])
    if first is None or last is None or step is None:
        return None
    upward, downward = step > 0 and direction in ("LT", "LE"), step < 0 and direction in ("GT", "GE")
    if not (upward or downward):
        return None
    inclusive = direction in ("LE", "GE")
    return max(0, math.ceil((last - first + inclusive * (1 if upward else -1)) / step))


def _comparison(condition: Computation, module: Module) -> tuple[str, list[int | tuple[int] | None]] | None:
    """Returns the direction of the comparison in a condition and its sides.

    A side is a number, or (index,) of an element of what the loop carries.
    """
    root, outer = condition.root, None
    if root.opcode == "fusion":
        outer, root = root, module.computations[root.called[0]].root
    if root.opcode != "compare":
        return None

    def side(name: str) -> int | tuple[int] | None:
        where = condition
        if outer is not None:
            where = module.computations[outer.called[0]]
            if (inner := where.instructions[name]).opcode == "parameter":
                name, where = outer.operands[int(inner.operands[0])], condition
        return _element(name, where) or _constant(name, where)

    return root.attribute("direction") or "", [side(name) for name in root.operands]


def _element(name: str, computation: Computation) -> tuple[int] | None:
    """Returns (index,) if an instruction takes that element of its computation's parameter."""
    instruction = _behind_copies(name, computation)
    if instruction is None or instruction.opcode != "get-tuple-element":
        return None
    source = computation.instructions[instruction.operands[0]]
    return (int(instruction.attribute("index") or -1),) if source.opcode == "parameter" else None


def _step(body: Computation, index: int) -> int | None:
    """Returns what the body adds to an element of what the loop carries."""
    root = body.root
    new = body.instructions.get(root.operands[index]) if root.opcode == "tuple" else None
    if new is None or not (new.opcode == "add" or (new.opcode == "fusion" and "add" in new.name)):
        return None
    numbers = [_constant(name, body) for name in new.operands]
    carried = [_element(name, body) for name in new.operands]
    steps = [n for n in numbers if n is not None]
    return steps[0] if len(steps) == 1 and (index,) in carried and len(numbers) == 2 else None


def _constant(name: str, computation: Computation) -> int | None:
    instruction = _behind_copies(name, computation)
    if instruction is None or instruction.opcode != "constant":
        return None
    try:
        return int(instruction.operands[0].strip("{} "))
    except ValueError:
        return None


def _behind_copies(name: str, computation: Computation) -> Instruction | None:
    instruction = computation.instructions.get(name)
    while instruction is not None and instruction.opcode in ("copy", "bitcast", "reshape"):
        instruction = computation.instructions.get(instruction.operands[0])
    return instruction
