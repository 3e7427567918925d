"""The estimate of a run: from the compiler's output to seconds, hours and dollars."""

import dataclasses
import math
import os
from collections.abc import Iterable

import jax

from efficientnet_pod.data.host_cores import images_per_core_second
from efficientnet_pod.pod.chips import Chip
from efficientnet_pod.pod.prices import Price, price_of
from efficientnet_pod.preflight.compile import Compilation, CompiledProgram
from efficientnet_pod.preflight.links import link_seconds, torus_of
from efficientnet_pod.preflight.program.cost import Program, read_program
from efficientnet_pod.preflight.targets import Target
from efficientnet_pod.preflight.torus import Torus
from efficientnet_pod.recipe.phases import Phase
from efficientnet_pod.run.feed import BATCHES_AHEAD, share_bytes
from efficientnet_pod.run.memory import Need
from efficientnet_pod.run.run import Run
from efficientnet_pod.workdir.checkpoints.commit import bytes_of

# Bytes of a process with Python, TensorFlow and the compiler, beside what its steps take (records/memory.md).
CPU_PROCESS = 7 * 2**28
_TOO_LARGE = Program(None, {}, (), ())  # for a program that the compiler refused


@dataclasses.dataclass(frozen=True)
class StepEstimate:
    """One program on one replica; seconds and shares are None where the compiler does not say enough.

    Attributes:
      name: name of the program.
      phase: phase of training, None for evaluation.
      images: images of all devices in a call.
      calls: calls that a step, or a batch of evaluation, takes.
      replicas: devices that share the images.
      hbm_bytes: arguments, outputs that are not aliased, temporaries and code; for a program that is too
        large, the bytes that the compiler counted before it gave up, or None.
      waiting_bytes: bytes outside the program: the next batches and, in an evaluation, the rest of the state.
      program: layers, collectives and buffers of the compiled text.
      torus: torus of the replicas, in the program's order; None for other machines.
      compiled: the compiled program.
      compute_seconds: the compiler's cycles at the chip's clock.
      collective_seconds: seconds of each collective, all its calls together; None where no links are known.
      optimal_seconds: the compiler's own lower bound.
      flops: FLOPs of a replica.
      hbm_seconds: bytes accessed at the full bandwidth of the memory.
      flop_seconds: FLOPs at the peak rate.
    """

    name: str
    phase: Phase | None
    images: int
    calls: int
    replicas: int
    hbm_bytes: int | None
    waiting_bytes: int
    program: Program
    torus: Torus | None
    compiled: CompiledProgram
    compute_seconds: float | None
    collective_seconds: tuple[float | None, ...]
    optimal_seconds: float | None
    flops: float | None
    hbm_seconds: float | None
    flop_seconds: float | None

    @property
    def communication_seconds(self) -> float:
        """Seconds of all collectives, which the compiler's cycles leave out."""
        return sum(seconds or 0.0 for seconds in self.collective_seconds)

    @property
    def basis(self) -> str | None:
        """Basis of the seconds: ``cycles``; ``roofline``, a lower bound; or None."""
        if self.compute_seconds is not None:
            return "cycles"
        return None if self.hbm_seconds is None or self.flop_seconds is None else "roofline"

    @property
    def seconds(self) -> float | None:
        """Seconds of a step: computing, then communicating, without an overlap."""
        computing = self.compute_seconds
        if computing is None:
            if self.hbm_seconds is None or self.flop_seconds is None:
                return None
            computing = max(self.hbm_seconds, self.flop_seconds)
        return computing + self.communication_seconds


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The estimate of a recipe on a machine.

    Attributes:
      target: the machine.
      run: the recipe there.
      compilation: the compiled programs.
      steps: estimate of each program, in the order of the compilation.
      hbm_limit: bytes a replica may use, None if that is not known.
      evaluations: number of evaluations in the whole run.
      measured: measured seconds of a call, by the name of the program.
      zone: zone of the price; empty for the range over all regions.
    """

    target: Target
    run: Run
    compilation: Compilation
    steps: tuple[StepEstimate, ...]
    hbm_limit: int | None
    evaluations: int
    measured: dict[str, float] = dataclasses.field(default_factory=dict)
    zone: str = ""

    @property
    def train(self) -> StepEstimate:
        """The train step that needs the most memory: the only one of a recipe without phases."""
        trains = (s for s in self.steps if s.phase and not s.compiled.is_update)
        return max(trains, key=lambda step: step.hbm_bytes or math.inf)

    def step_seconds(self, *, is_estimate: bool = False) -> float | None:
        """Returns the seconds of an optimizer step of that phase: all micro-batches, and the update.

        Measured ones count where there are any, unless ``is_estimate``; None if a part is not known.
        """
        total = 0.0
        for step in self.steps:
            if step.phase is self.train.phase:
                seconds = step.seconds if is_estimate else self.seconds_of(step)
                if seconds is None:
                    return None
                total += step.calls * seconds
        return total

    @property
    def tightest(self) -> StepEstimate:
        """The program that needs the most memory, together with the waiting bytes."""
        return max(
            self.steps, key=lambda s: math.inf if s.hbm_bytes is None else s.hbm_bytes + s.waiting_bytes
        )

    @property
    def fits(self) -> bool:
        """Whether every program has room."""
        return all(self.has_room(step) for step in self.steps)

    def has_room(self, step: StepEstimate) -> bool:
        """Returns whether a program, together with the waiting bytes, is below the limit."""
        if step.compiled.output.is_too_large or step.hbm_bytes is None:
            return False
        return self.hbm_limit is None or step.hbm_bytes + step.waiting_bytes <= self.hbm_limit

    def needs(self) -> list[Need | None]:
        """Returns the memory of each program; None of one that is too large by nobody knows how much."""
        state = bytes_of(jax.eval_shape(self.run.init, self.run.variables))

        def need(step: StepEstimate) -> Need | None:
            if step.hbm_bytes is None:
                return None
            memory = step.compiled.output.memory
            fixed = min(step.hbm_bytes, state + (memory.code if memory else 0))
            return Need(fixed, step.hbm_bytes - fixed + step.waiting_bytes, self.hbm_limit)

        return [need(step) for step in self.steps]

    def seconds_of(self, step: StepEstimate) -> float | None:
        """Returns the measured seconds of a step, else the estimated ones; None if neither is known."""
        return self.measured.get(step.name, step.seconds)

    @property
    def images_per_second(self) -> float | None:
        """Images per second of the whole machine while it trains, over all phases."""
        hours, plan = self.train_hours, self.run.plan
        return plan.images_seen(plan.total_steps) / (3600 * hours) if hours else None

    @property
    def train_hours(self) -> float | None:
        """Hours of training alone."""
        return self._hours(
            (step, step.calls * (step.phase.last_step - step.phase.first_step))
            for step in self.steps
            if step.phase
        )

    @property
    def eval_hours(self) -> float | None:
        """Hours of all evaluations."""
        evals = [step for step in self.steps if step.phase is None]
        passes = [steps for _, _, steps in self.run.plan.eval_shapes]
        return self._hours(
            (step, self.evaluations * count) for step, count in zip(evals, passes, strict=True)
        )

    @property
    def hours(self) -> float | None:
        """Hours of training and evaluations, without starts, compilation, checkpoints and waits for input."""
        train, evaluations = self.train_hours, self.eval_hours
        return None if train is None or evaluations is None else train + evaluations

    def _hours(self, calls: Iterable[tuple[StepEstimate, int]]) -> float | None:
        """Returns the hours of so many calls of each program; None if one's seconds are not known."""
        total = 0.0
        for step, count in calls:
            seconds = self.seconds_of(step)
            if seconds is None:
                return None
            total += seconds * count
        return total / 3600

    def usd(self, *, spot: bool = False) -> Price | None:
        """Returns the price of all hours; None if hours or price are not known."""
        hours, price = self.hours, self.usd_per_chip_hour(spot=spot)
        return None if hours is None or price is None else price.times(hours * self.target.chips)

    def usd_per_chip_hour(self, *, spot: bool = False) -> Price | None:
        """Returns the price of an hour of one chip; None if it is not known."""
        return price_of(self.target.chip, self.target.chips, spot=spot, zone=self.zone)

    @property
    def host_cores(self) -> int | None:
        """Cores that one host needs to decode images in time; None where that has not been measured."""
        rate, per_core = self.images_per_second, images_per_core_second(self.run.plan)
        return math.ceil(rate / self.target.hosts / per_core) if rate and per_core else None


def estimate_run(run: Run, target: Target, compilation: Compilation) -> Estimate:
    """Returns the estimate of a run from its compiled programs."""
    plan = run.plan
    state = jax.eval_shape(run.init, run.variables)
    evals = [rows for *_, rows in plan.eval_shapes]
    updates = len(plan.phases) if plan.is_accumulated else 0
    assert len(compilation.programs) == len(plan.phases) + len(evals) + updates
    unused = bytes_of(state) - bytes_of(run.variables)  # an evaluation takes weights and statistics alone
    steps = []
    for compiled in compilation.programs:
        phase = compiled.phase
        size = phase.image_size if phase else plan.image_size
        images = phase.micro_batch if phase else plan.eval_batch
        waiting = BATCHES_AHEAD * share_bytes(plan, images, size) + (0 if phase else unused)
        steps.append(_estimate_step(compiled, run, target.chip, images=images, waiting=waiting))
    return Estimate(target, run, compilation, tuple(steps), hbm_limit(target), plan.evaluations())


def hbm_limit(target: Target) -> int | None:
    """Returns the bytes a replica may use; virtual devices share what this machine has beside the process."""
    chip = target.chip
    if chip.platform == "cpu":
        try:
            machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            return max(0, machine - CPU_PROCESS) // target.replicas
        except (AttributeError, OSError, ValueError):  # not on every system
            return None
    return chip.hbm_usable // chip.devices


def _estimate_step(
    compiled: CompiledProgram, run: Run, chip: Chip, *, images: int, waiting: int
) -> StepEstimate:
    torus = torus_of([*run.mesh.devices.flat], chip)
    output = compiled.output
    program = read_program(output.text) if output.text else _TOO_LARGE
    cost, cycles = output.cost, program.estimated_cycles
    flops, accessed = cost.get("flops"), cost.get("bytes accessed")
    return StepEstimate(
        name=compiled.name,
        phase=compiled.phase,
        images=images,
        calls=1 if compiled.phase is None or compiled.is_update else compiled.phase.micro_batches,
        replicas=run.plan.num_devices,
        hbm_bytes=output.hbm_bytes,
        waiting_bytes=waiting,
        program=program,
        torus=torus,
        compiled=compiled,
        compute_seconds=cycles / chip.clock_hz if cycles and chip.clock_hz else None,
        collective_seconds=tuple(link_seconds(c, torus, chip) for c in program.collectives),
        optimal_seconds=cost.get("optimal_seconds"),
        flops=flops,
        hbm_seconds=accessed / chip.hbm_bandwidth * chip.devices if accessed and chip.hbm_bandwidth else None,
        flop_seconds=flops / chip.flops * chip.devices if flops and chip.flops else None,
    )
