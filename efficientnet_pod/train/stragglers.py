"""Stragglers: which host the others wait for, for how long, and whether its input is the reason."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from efficientnet_pod.pod.terminal import percent

LEAST_SHARE = 0.01  # that a line of the log names


@dataclass(frozen=True)
class Slowest:
    """The host that was later than the others, over some steps.

    Attributes:
      host: its number.
      share: by how much longer the steps took for its sake.
      input_share: part of that time in which it waited for its input.
    """

    host: int
    share: float
    input_share: float

    @property
    def is_slow(self) -> bool:
        """Whether it is worth a word."""
        return self.share >= LEAST_SHARE

    def __str__(self) -> str:
        """Returns e.g. ``"host 7: +12 %, input"``."""
        cause = "input" if self.input_share >= 0.5 else "its own work"
        return f"host {self.host}: +{percent(self.share, 0)}, {cause}"

    @property
    def columns(self) -> dict[str, float]:
        """The columns of a row of metrics."""
        return {
            "slowest_host": self.host,
            "slowest_host_share": self.share,
            "slowest_host_input": self.input_share,
        }


def slowest_host(paces: Sequence[np.ndarray], seconds: float) -> Slowest:
    """Returns the slowest host of some steps, given their paces and the seconds they took.

    All hosts end a step together, so what tells them apart is how late each began it. In each step a host
    counts as late by what it has more than the median host (of an even number, the lower median). A device
    that computes slowly makes all hosts wait in the same step, and is not seen here.

    Args:
      paces: for each step, seconds (hosts, 2) as :func:`.pace.by_host` gives them.
      seconds: wall time of the steps.
    """
    late, without_input = np.moveaxis(np.stack(paces), 2, 0)  # each (steps, hosts)
    median = np.sort(late, axis=1)[:, (late.shape[1] - 1) // 2, None]
    more = np.maximum(late - median, 0.0)
    lost = more.sum(axis=0)
    host = int(np.argmax(lost))
    for_input = float(np.minimum(more, without_input)[:, host].sum())
    share = float(lost[host] / max(seconds - lost[host], 1e-9))
    return Slowest(host, share, for_input / float(lost[host]) if lost[host] else 0.0)
