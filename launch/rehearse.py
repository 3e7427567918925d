"""The commands of rehearsals on the fake service: `preempt`, `capacity` and `fault`."""

import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from efficientnet_pod.cli.flags import AT_LEAST_0, define_number, parse_flags
from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.optim.ranges import Range
from launch.backends.fake.faults import FAULTS, Fault, set_fault
from launch.flags import PROGRAM, parse_job_name


def run_preempt(arguments: Sequence[str]) -> None:
    """Takes the machines of a rehearsed job away."""
    values, job = parse_job_name("preempt", arguments, _define_preempt)
    if job.backend != "fake":
        raise UserError(
            f"'{job.name}' runs on --backend={job.backend}; only jobs of --backend=fake can be pre-empted"
        )
    from launch.backends.fake.backend import FakeBackend  # late: it needs Google's package

    FakeBackend().preempt(job, values.worker)


def _define_preempt(values: flags.FlagValues) -> None:
    about = "Number of the worker that is told first; by default all at once."
    define_number(values, "worker", None, about, AT_LEAST_0)


def run_capacity(arguments: Sequence[str]) -> None:
    """Limits the chips that one request to the fake service is granted; larger requests wait."""
    values = parse_flags("capacity", arguments, _define_capacity, program=PROGRAM)
    from launch.backends.fake.daemon import set_capacity  # late: it needs Google's package

    set_capacity(values.chips)


def _define_capacity(values: flags.FlagValues) -> None:
    about = "Most chips that one request is granted; by default there is no limit."
    define_number(values, "chips", None, about, AT_LEAST_0)


def run_fault(arguments: Sequence[str]) -> None:
    """Lets something go wrong in the fake service, until another fault or none is asked for."""
    words: list[str] = []
    values: Any = parse_flags("fault", arguments, _define_fault, words=words, program=PROGRAM)
    if len(words) > 1:
        raise UserError(f"fault takes one name, not {len(words)}; known: {', '.join(FAULTS)}")
    name = words[0] if words else ""
    if name and name not in FAULTS:
        raise UserError(f"no fault '{name}'{did_you_mean(name, FAULTS)}")
    set_fault(Fault(name, time.time() + 60 * values.minutes, values.worker))
    print(f"{name}: {FAULTS[name]}" if name else "nothing goes wrong any more")


def _define_fault(values: flags.FlagValues) -> None:
    about = "Time from now on until machines are free (capacity), or until writes are refused (bucket)."
    define_number(values, "minutes", 60.0, about, Range(0, 100_000))
    define_number(values, "worker", 0, "Number of the worker that start and clock happen to.", AT_LEAST_0)
