"""The waiting times of a watch, and their flags."""

from dataclasses import dataclass
from typing import Any

from absl import flags

from efficientnet_pod.cli.flags import define_number
from efficientnet_pod.optim.ranges import Range


@dataclass(frozen=True)
class Pace:
    """Waiting times in seconds.

    Attributes:
      poll: time between looks.
      backoff: time before the first restart; it doubles with each restart without progress.
      most: longest time before a restart.
      start: time that each worker has for its first log, once there are machines.
    """

    poll: float = 10.0
    backoff: float = 30.0
    most: float = 900.0
    start: float = 900.0

    def pause(self, failures: int) -> float:
        """Returns the seconds before the next start, after this number of failures without progress."""
        return min(self.backoff * 2**failures, self.most)


def define_pace(values: flags.FlagValues) -> None:
    """Defines the flags that `pace_of` reads."""
    define_number(values, "poll_seconds", Pace.poll, "Time between looks.", Range(0.05, 86_400))
    about = "Time before the first restart; it doubles with each restart without progress."
    define_number(values, "backoff_seconds", Pace.backoff, about, Range(0, 86_400))
    about = (
        "Time that each worker has for its first log; without one, the job starts again on other machines."
    )
    define_number(values, "start_minutes", Pace.start / 60, about, Range(0, 100_000, above=True))


def pace_of(values: Any) -> Pace:
    """Returns the waiting times that the flags name."""
    return Pace(values.poll_seconds, values.backoff_seconds, start=60 * values.start_minutes)
