"""The cost of a compiled program by its text: cycles by layer, collectives, buffers."""

from collections import Counter
from dataclasses import dataclass

from efficientnet_pod.preflight.program.attribution import Places
from efficientnet_pod.preflight.program.buffers import Buffer, buffers_of
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
    """The cost of a compiled program.

    Attributes:
      estimated_cycles: sum of the compiler's cycles over all instructions that run, on the device's clock;
        collectives and copies in the background count nothing. None where the compiler gives none (CPU, GPU).
      layers: the same cycles by layer, part and direction, the most first.
      collectives: all collectives in the order of the program.
      buffers: arrays alive when a device holds most, the largest first; empty where that is not known.
      unknown_loops: names of loops whose trip count the text does not tell; they count once.
    """

    estimated_cycles: int | None
    layers: tuple[LayerCost, ...]
    collectives: tuple[Collective, ...]
    buffers: tuple[Buffer, ...] = ()
    unknown_loops: tuple[str, ...] = ()


def read_program(text: str) -> Program:
    """Returns the cost of a compiled program from its text, ``compiled.as_text()``.

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
        buffers=buffers_of(module, places),
        unknown_loops=tuple(sorted(execution.unknown_loops)),
    )
