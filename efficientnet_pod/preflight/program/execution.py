"""Runs of each instruction in a call of a program: through loops, branches and calls."""

import re
from dataclasses import dataclass

from efficientnet_pod.preflight.program.hlo import Computation, Instruction, Module

# XLA's TPU compiler notes cycles as ``"estimated_cycles":"1234"`` in the window configuration.
_CYCLES = re.compile(r'"estimated_cycles":[" ]*(\d*)')


@dataclass(frozen=True, slots=True)
class Executed:
    """An instruction with its computation and the number of its runs in a call of the program."""

    instruction: Instruction
    computation: Computation
    times: int


def executed(module: Module) -> list[Executed]:
    """Returns the instructions that a call of a program runs.

    A conditional runs the branch with most estimated cycles or, where the compiler gives none, with most
    instructions. Fused instructions are not listed, only their fusion. A loop whose trip count is not known
    counts once.
    """
    return _executed(module.entry, module)


def _executed(computation: Computation, module: Module) -> list[Executed]:
    steps = []
    for instruction in computation.instructions.values():
        steps.append(Executed(instruction, computation, 1))
        called = [module.computations[name] for name in instruction.called]
        match instruction.opcode:
            case "while":
                trips = trip_count(instruction, computation, module)
                trips = 1 if trips is None else trips
                for attribute, times in (("condition", trips + 1), ("body", trips)):
                    for step in _executed(_part(instruction, attribute, module), module):
                        steps.append(Executed(step.instruction, step.computation, step.times * times))
            case "conditional":
                branches = [_executed(branch, module) for branch in called]
                steps += max(branches, key=lambda branch: (total_cycles(branch) or 0, len(branch)))
            case "call" | "async-start":
                for callee in called:
                    steps += _executed(callee, module)
    return steps


def _part(loop: Instruction, attribute: str, module: Module) -> Computation:
    return module.computations[(loop.attribute(attribute) or "").lstrip("%")]


def own_cycles(instruction: Instruction) -> int | None:
    """Returns the cycles the compiler expects of one run of an instruction; None where it says nothing."""
    noted = _CYCLES.search(instruction.attributes)
    return int(noted[1]) if noted and noted[1] else None  # a negative number is no estimate


def total_cycles(steps: list[Executed]) -> int | None:
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
    start = computation.instructions.get(loop.operands[0])
    if start is None or start.opcode != "tuple":
        return None
    direction, counter, limit = _comparison(_part(loop, "condition", module), module) or ("", None, None)
    if isinstance(limit, _Carried) and not isinstance(counter, _Carried):  # written the other way round
        counter, limit = limit, counter
        direction = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}.get(direction, direction)
    if not isinstance(counter, _Carried):
        return None
    if isinstance(limit, _Carried):
        limit = _value(start.operands[limit.index], computation)
    first = _value(start.operands[counter.index], computation)
    step = _step(_part(loop, "body", module), counter)
    beyond = {"LT": 0, "LE": 1, "GT": 0, "GE": -1}.get(direction)  # the limit, the first number not reached
    if not isinstance(first, int) or not isinstance(limit, int) or not step or beyond is None:
        return None
    return len(range(first, limit + beyond, step)) if (step > 0) == (direction[0] == "L") else None


@dataclass(frozen=True)
class _Carried:
    """An element of the tuple that a loop hands from one run of its body to the next, by its number."""

    index: int


_Value = int | _Carried | None


def _comparison(condition: Computation, module: Module) -> tuple[str, _Value, _Value] | None:
    """Returns the direction of the comparison in a loop's condition, and its two sides."""
    fusion, where, root = None, condition, condition.root
    if root.opcode == "fusion":
        fusion, where = root, module.computations[root.called[0]]
        root = where.root
    if root.opcode != "compare":
        return None

    def side(name: str) -> _Value:
        inner = where.instructions[name]
        if fusion is not None and inner.opcode == "parameter":
            return _value(fusion.operands[int(inner.operands[0])], condition)
        return _value(name, where)

    left, right = map(side, root.operands)
    return root.attribute("direction") or "", left, right


def _step(body: Computation, counter: _Carried) -> int | None:
    """Returns the constant that the body adds to an element; None if it does anything else."""
    root = body.root
    new = body.instructions.get(root.operands[counter.index]) if root.opcode == "tuple" else None
    if new is None or not (new.opcode == "add" or (new.opcode == "fusion" and "add" in new.name)):
        return None
    values = [_value(name, body) for name in new.operands]
    constants = [value for value in values if isinstance(value, int)]
    return constants[0] if len(values) == 2 and len(constants) == 1 and counter in values else None


def _value(name: str, computation: Computation) -> _Value:
    """Returns a constant, or the element of its computation's parameter, behind copies; None for others."""
    instruction = computation.instructions.get(name)
    while instruction is not None and instruction.opcode in ("copy", "bitcast", "reshape"):
        instruction = computation.instructions.get(instruction.operands[0])
    if instruction is None:
        return None
    if instruction.opcode == "constant":
        digits = instruction.operands[0].strip("{} ")
        return int(digits) if re.fullmatch(r"-?\d+", digits) else None
    if instruction.opcode != "get-tuple-element":
        return None
    source = computation.instructions[instruction.operands[0]]
    return _Carried(int(instruction.attribute("index") or -1)) if source.opcode == "parameter" else None
