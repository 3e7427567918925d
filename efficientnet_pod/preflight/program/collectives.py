"""Communication between devices: each collective of a program with its bytes, groups and purpose."""

import math
import re
from collections import Counter
from dataclasses import dataclass

from efficientnet_pod.preflight.program.attribution import STEP, Place, place_of
from efficientnet_pod.preflight.program.execution import Executed
from efficientnet_pod.preflight.program.hlo import Computation, Instruction, Module, replica_groups

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
PURPOSES = ("gradients", "BN", "statistics", "metrics", "loss", "other")


@dataclass(frozen=True)
class Collective:
    """A collective operation of one program; an asynchronous one is listed once, at its start.

    Attributes:
      name: name of the instruction.
      op: one of `COLLECTIVES`.
      bytes: bytes that one device puts in, without padding; the sum where the compiler has combined arrays.
      groups: devices that communicate with each other, as places in the program's device assignment.
      count: runs in one call of the program.
      purposes: (purpose, bytes) of the combined arrays, the most bytes first.
      strategy: the TPU compiler's name for its algorithm, such as ``UniDirectionNDRingStrategy``, or "".
    """

    name: str
    op: str
    bytes: int
    groups: tuple[tuple[int, ...], ...]
    count: int
    purposes: tuple[tuple[str, int], ...]
    strategy: str = ""

    @property
    def purpose(self) -> str:
        """The purpose with most bytes, one of `PURPOSES`."""
        return self.purposes[0][0]

    @property
    def group_size(self) -> int:
        """Number of devices in a group, the largest of groups that differ."""
        return max(map(len, self.groups))


def _rings(pairs: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """Returns the devices that pairs of (source, target) connect, each set in order."""
    group_of: dict[int, set[int]] = {}
    for pair in pairs:
        joined = set(pair).union(*(group_of.get(device, set()) for device in pair))
        group_of |= dict.fromkeys(joined, joined)
    return tuple(sorted({tuple(sorted(group)) for group in group_of.values()}))


def collectives_of(module: Module, executed: list[Executed]) -> tuple[Collective, ...]:
    """Returns the collectives that a call of the program runs, in its order, without groups of one device."""
    counts = re.findall(r"(?:replica_count|num_partitions)=(\d+)", module.header)
    devices = math.prod(map(int, counts))
    steps: dict[str, Executed] = {}
    for step in executed:
        if _op(step.instruction) is None:
            continue
        before = steps.get(step.instruction.name)
        times = step.times + (before.times if before else 0)
        steps[step.instruction.name] = Executed(step.instruction, step.computation, times)
    bn_groups = {_groups_text(step.instruction) for step in steps.values() if _is_bn(step.instruction)}
    collectives = []
    for name, step in steps.items():
        op, text = _op(step.instruction) or "", _groups_text(step.instruction)
        groups = replica_groups(text)
        groups = _rings(groups) if op == "collective-permute" else groups or (tuple(range(devices)),)
        if max(map(len, groups), default=1) > 1:
            purposes, strategy = _purposes(step, bn=text in bn_groups), _strategy(step.instruction)
            sent = sum(count for _, count in purposes)
            collectives.append(Collective(name, op, sent, groups, step.times, purposes, strategy))
    return tuple(collectives)


def _op(instruction: Instruction) -> str | None:
    op = instruction.opcode.removesuffix("-start")
    return op if op in COLLECTIVES else None


def _groups_text(instruction: Instruction) -> str:
    """Returns HLO's text of the groups; an empty list means all devices together."""
    pairs = _op(instruction) == "collective-permute"
    return instruction.attribute("source_target_pairs" if pairs else "replica_groups") or "{}"


def _strategy(instruction: Instruction) -> str:
    config = instruction.backend_config.get("collective_algorithm_config", {})
    return str(config.get("strategy") or config.get("emitter", "")) if isinstance(config, dict) else ""


def _is_bn(instruction: Instruction) -> bool:
    """Returns whether a collective averages moments in the forward pass; its groups are the BN groups."""
    place = place_of(instruction.op_name)
    return place is not None and (place.part, place.direction) == ("BN", "forward")


def _purposes(step: Executed, *, bn: bool) -> tuple[tuple[str, int], ...]:
    """Returns the bytes of each purpose among the operands of a collective; ``bn`` if its groups are BN's.

    The backward pass of batch norm sums within BN groups; gradients of scale and bias are summed over all
    replicas.
    """
    instruction, computation = step.instruction, step.computation
    readers = _readers(instruction, computation)
    combined = len(instruction.operands) > 1
    bytes_of: Counter[str] = Counter()
    for i, name in enumerate(instruction.operands):
        operand = computation.instructions[name]
        # Combining keeps the name of each operation on what takes its result out of the tuple.
        named = readers.get(i, instruction) if combined else instruction
        purpose = _purpose(named, operand, computation, bn=bn)
        bytes_of[purpose] += sum(array.bytes for array in operand.results)
    return tuple(sorted(bytes_of.items(), key=lambda item: (-item[1], PURPOSES.index(item[0]))))


def _readers(instruction: Instruction, computation: Computation) -> dict[int, Instruction]:
    """Returns the instructions that take the results of a collective out of its tuple, by their number."""
    readers: dict[int, Instruction] = {}
    for name in computation.users.get(instruction.name, ()):
        user = computation.instructions[name]
        if user.opcode == f"{_op(instruction)}-done":
            readers |= _readers(user, computation)
        elif user.opcode == "get-tuple-element":
            readers[int(user.attribute("index") or 0)] = user
    return readers


def _purpose(named: Instruction, operand: Instruction, computation: Computation, *, bn: bool) -> str:
    results = operand.results
    if results and results[0].dtype[0] in "spu":  # integers and booleans: counts and flags
        return "metrics"
    source = _source(operand, computation)
    place = place_of(named.op_name) or source
    if place is None:
        return "other"
    if place.part == "BN" and bn:
        return "BN"
    if place.direction == "backward":
        return "gradients"
    if source is not None and source.part == "BN":  # fusions may name it forward or backward
        return "statistics"
    if place.part == "loss":
        return "loss"
    if place.layer == STEP and place.part in ("metrics", "checks", "statistics"):
        return "metrics"
    return "other"


def _source(operand: Instruction, computation: Computation) -> Place | None:
    """Returns the place of the instruction that computed an operand; copies and the like only pass it on."""
    maker: Instruction | None = operand
    while maker is not None:
        if place := place_of(maker.op_name):
            return place
        passes = maker.opcode in ("get-tuple-element", "bitcast", "copy", "reshape", "convert", "fusion")
        maker = computation.instructions.get(maker.operands[0]) if passes and maker.operands else None
    return None
