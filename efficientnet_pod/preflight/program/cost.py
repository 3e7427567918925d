"""Owns what a compiled program says of its cost: cycles by layer, collectives, buffers."""

from collections import Counter
from dataclasses import dataclass

from efficientnet_pod.preflight.program.attribution import Places
from efficientnet_pod.preflight.program.buffers import Buffer, Memory, memory_of
from efficientnet_pod.preflight.program.collectives import Collective, collectives_of
from efficientnet_pod.preflight.program.execution import Execution, cycles, own_cycles
from efficientnet_pod.preflight.program.hlo import parse


@dataclass(frozen=True)
class LayerCost:
    """Cycles of one part of a layer in one direction; see `attribution.Place` for the names.

    Compilers fuse: a convolution's cycles hold those of the normalisation and activation fused with it.
    """

    layer: str
    part: str
    direction: str
    cycles: int


@dataclass(frozen=True)
class Program:
    """What the text of a compiled program tells.

    Attributes:
      estimated_cycles: sum of what the compiler expects of each instruction, as often as it runs, on the
        device's clock; collectives and copies in the background count nothing. None where the compiler gives
        none (CPU, GPU).
      layers: the same by layer, part and direction, the most first; their sum is `estimated_cycles`.
      collectives: in the order of the program.
      memory: what a device holds at the fullest moment; None where the text is not in the order of execution.
      unknown_loops: names of loops whose trip count the text does not tell; they count once.
    """

    estimated_cycles: int | None
    layers: tuple[LayerCost, ...]
    collectives: tuple[Collective, ...]
    memory: Memory | None = None
    unknown_loops: tuple[str, ...] = ()

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """What is alive at the fullest moment, the largest first."""
        return self.memory.buffers if self.memory else ()


def read_program(text: str) -> Program:
    """Returns what the text of a compiled program, ``compiled.as_text()``, tells of its cost.

    Raises:
      ValueError: the text is not that of an HLO module with an entry computation.
    """
    module = parse(text)
    execution = Execution(module)
    places = Places(module)
    spent: Counter[tuple[str, str, str]] = Counter()
    for step in execution.instructions:
        count = own_cycles(step.instruction)
        if count is not None:
            place = places.of(step.instruction, step.computation)
            spent[place.layer, place.part, place.direction] += count * step.times
    return Program(
        estimated_cycles=cycles(execution.instructions),
        layers=tuple(LayerCost(*place, count) for place, count in spent.most_common()),
        collectives=collectives_of(module, execution),
        memory=memory_of(module, places),
        unknown_loops=tuple(sorted(execution.unknown_loops)),
    )
