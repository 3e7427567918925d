"""The goodput of a run: the share of its time that went into training, and what the rest was lost to."""

from collections.abc import Sequence
from dataclasses import dataclass

from efficientnet_pod.pod.terminal import percent
from efficientnet_pod.workdir.json_lines import Row
from efficientnet_pod.workdir.time_spent import KINDS
from efficientnet_pod.workdir.values import number, table_of, time_of, whole

# Time that no start has spent on one of `KINDS`.
RESTARTING, MACHINES, OTHER = "restarting", "waiting_for_machines", "other"
PARTS: tuple[str, ...] = (*KINDS, RESTARTING, MACHINES, OTHER)


@dataclass(frozen=True)
class Goodput:
    """The seconds from the first event of a run to its last one, over all starts; each counts once.

    Attributes:
      seconds: by :data:`PARTS`. ``training`` has the steps that count. ``restarting`` has the steps that were
        done again and the time from the beginning of a later process to its first event.
        ``waiting_for_machines`` has the rest of the time between two starts; after a kill, the work since
        the last event too. ``other`` is time of a start that nobody has named.
    """

    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """Sum of the seconds."""
        return sum(self.seconds.values())

    @property
    def share(self) -> float | None:
        """Goodput: the seconds of training over all seconds; None where there are none."""
        return self.seconds["training"] / self.total if self.total else None

    @property
    def lost_to(self) -> str:
        """The losses, the largest first, e.g. ``"compiling 12.1 %, evaluating 3.0 %"``.

        Parts below a thousandth are left out.
        """
        lost = [(seconds / self.total, name) for name, seconds in self.seconds.items() if name != "training"]
        parts = sorted((part for part in lost if part[0] >= 1e-3), reverse=True)
        return ", ".join(f"{name.replace('_', ' ')} {percent(share, 1)}" for share, name in parts)


@dataclass
class _Trained:
    """Training between two events: the steps after ``first`` up to ``last``, and its seconds."""

    first: int
    last: int
    seconds: float

    def cut(self, step: int) -> float:
        """Leaves out the steps after ``step``; returns their seconds."""
        if self.last <= step:
            return 0.0
        kept = max(step - self.first, 0) / max(self.last - self.first, 1)
        gone, self.seconds = self.seconds * (1 - kept), self.seconds * kept
        self.last = max(step, self.first)
        return gone


def goodput_of(events: Sequence[Row]) -> Goodput:
    """Returns the goodput of a run, given the events of its journal in their order.

    Steps that a start or a rewind does again are taken out of ``training``, in proportion to the steps
    between two events. Clocks of two machines may differ: time that would run backwards counts as none.
    """
    seconds, trained, step = dict.fromkeys(PARTS, 0.0), list[_Trained](), 0
    before = None
    for event in events:
        now, spent = time_of(event.get("time")), table_of(event.get("spent"))
        named = {name: number(spent.get(name)) or 0.0 for name in KINDS}
        passed = max((now - before).total_seconds(), 0.0) if now and before else 0.0
        kind, reached = event.get("kind"), whole(event.get("step"))
        reached = step if reached is None else reached
        if kind == "start":
            startup = min(number(event.get("startup")) or 0.0, passed)
            seconds[RESTARTING] += startup
            seconds[MACHINES] += passed - startup
        else:
            seconds[OTHER] += max(passed - sum(named.values()), 0.0)
            trained.append(_Trained(min(step, reached), reached, named["training"]))
        for name in KINDS:
            seconds[name] += named[name]
        step = reached
        if kind == "rewound":
            back = whole(event.get("to"))
            step = reached if back is None else back
        if kind in ("start", "rewound"):
            again = sum(part.cut(step) for part in trained)
            seconds["training"] -= again
            seconds[RESTARTING] += again
        before = now or before
    return Goodput({name: round(max(value, 0.0), 3) for name, value in seconds.items()})
