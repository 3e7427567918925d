"""Runs of each instruction in a call of a program: through loops, branches and calls."""

from collections.abc import Iterator
from dataclasses import dataclass

from efficientnet_pod.preflight.program.hlo import Computation, Instruction, Module


@dataclass(frozen=True, slots=True)
class Executed:
    """An instruction with its computation and the number of its runs in a call of the program."""

    instruction: Instruction
    computation: Computation
    times: int


class Execution:
    """The instructions that a call of a program runs.

    A conditional runs the branch with most estimated cycles or, where the compiler gives none, with most
    instructions. Fused instructions are not listed, only their fusion. A loop whose trip count is not known
    counts once and is named in `unknown_loops`.
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

    The compiler may have noted the number. Else it follows from three constants: the start of a counter, the
    number that the body adds to it, and the limit with which the condition compares it.
    """
    noted = loop.backend_config.get("known_trip_count", {}).get("n")
    if noted is not None:
        return int(noted)
    names = {part: (loop.attribute(part) or "").lstrip("%") for part in ("condition", "body")}
    condition, body = (module.computations.get(names[part]) for part in ("condition", "body"))
    start = computation.instructions.get(loop.operands[0])
    if condition is None or body is None or start is None or start.opcode != "tuple":
        return None
    direction, counter, limit = _comparison(condition, module) or ("", None, None)
    if isinstance(limit, _Carried) and not isinstance(counter, _Carried):  # written the other way round
        counter, limit = limit, counter
        direction = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}.get(direction, direction)
    if not isinstance(counter, _Carried):
        return None
    if isinstance(limit, _Carried):
        limit = _constant(start.operands[limit.index], computation)
    first, step = _constant(start.operands[counter.index], computation), _step(body, counter)
    beyond = {"LT": 0, "LE": 1, "GT": 0, "GE": -1}.get(direction)  # the limit, the first number not reached
    if first is None or limit is None or not step or beyond is None or (step > 0) != (direction[0] == "L"):
        return None
    return len(range(first, limit + beyond, step))


@dataclass(frozen=True)
class _Carried:
    """An element, by its number, of what a loop hands from one run of its body to the next."""

    index: int


_Side = int | _Carried | None


def _comparison(condition: Computation, module: Module) -> tuple[str, _Side, _Side] | None:
    """Returns the direction of the comparison in a loop's condition, and its two sides."""
    root, outer = condition.root, None
    if root.opcode == "fusion":
        outer, root = root, module.computations[root.called[0]].root
    if root.opcode != "compare":
        return None

    def side(name: str) -> _Side:
        where = condition
        if outer is not None:
            where = module.computations[outer.called[0]]
            if (inner := where.instructions[name]).opcode == "parameter":
                name, where = outer.operands[int(inner.operands[0])], condition
        return _carried(name, where) or _constant(name, where)

    left, right = map(side, root.operands)
    return root.attribute("direction") or "", left, right


def _carried(name: str, computation: Computation) -> _Carried | None:
    """Returns the element of its computation's parameter that an instruction takes, if it takes one."""
    instruction = _behind_copies(name, computation)
    if instruction is None or instruction.opcode != "get-tuple-element":
        return None
    source = computation.instructions[instruction.operands[0]]
    return _Carried(int(instruction.attribute("index") or -1)) if source.opcode == "parameter" else None


def _step(body: Computation, counter: _Carried) -> int | None:
    """Returns the constant that the body adds to an element; None if it does anything else."""
    root = body.root
    new = body.instructions.get(root.operands[counter.index]) if root.opcode == "tuple" else None
    if new is None or not (new.opcode == "add" or (new.opcode == "fusion" and "add" in new.name)):
        return None
    numbers = [_constant(name, body) for name in new.operands]
    steps = [n for n in numbers if n is not None]
    is_sum = len(numbers) == 2 and counter in [_carried(name, body) for name in new.operands]
    return steps[0] if is_sum and len(steps) == 1 else None


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
