"""The cost of a compiled program by its text: cycles by layer, collectives, buffers."""

from collections import Counter
from dataclasses import dataclass

from efficientnet_pod.preflight.program.attribution import Place, Places
from efficientnet_pod.preflight.program.buffers import Buffer, buffers_of
from efficientnet_pod.preflight.program.collectives import Collective, collectives_of
from efficientnet_pod.preflight.program.execution import executed, own_cycles, total_cycles
from efficientnet_pod.preflight.program.hlo import parse


@dataclass(frozen=True)
class Program:
    """The cost of a compiled program.

    Attributes:
      estimated_cycles: sum of the compiler's cycles over all instructions that run, on the device's clock;
        collectives and copies in the background count nothing. None where the compiler gives none (CPU, GPU).
      cycles: the same cycles by place, the most first. Compilers fuse: the place of a convolution has the
        cycles of the normalisation and activation fused with it.
      collectives: all collectives in the order of the program.
      buffers: arrays alive when a device holds most, the largest first; empty where that is not known.
    """

    estimated_cycles: int | None
    cycles: dict[Place, int]
    collectives: tuple[Collective, ...]
    buffers: tuple[Buffer, ...]


def read_program(text: str) -> Program:
    """Returns the cost of a compiled program from its text, ``compiled.as_text()``.

    Raises:
      ValueError: the text is no HLO module with an entry computation.
    """
    module = parse(text)
    steps = executed(module)
    places = Places(module)
    cycles: Counter[Place] = Counter()
    for step in steps:
        count = own_cycles(step.instruction)
        if count is not None:
            cycles[places.of(step.instruction, step.computation)] += count * step.times
    return Program(
        estimated_cycles=total_cycles(steps),
        cycles=dict(cycles.most_common()),
        collectives=collectives_of(module, steps),
        buffers=buffers_of(module, places),
    )
