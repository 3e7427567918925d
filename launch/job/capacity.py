"""The kind of capacity that a job asks for: ``--capacity``, and the backends that have each kind."""

import re
from collections.abc import Mapping
from typing import Any

from efficientnet_pod.errors import UserError

KINDS = ("on-demand", "spot", "flex-start", "reservation")
MOST_FLEX_HOURS = 168  # seven days. Source: Cloud TPU documentation, "Request Cloud TPUs using Flex-start"
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_EXAMPLE = "on-demand, spot, flex-start or reservation:NAME"
_BACKENDS = {
    "on-demand": ("qr", "mig", "gke", "sky", "slurm", "local", "fake"),
    "spot": ("qr", "mig", "gke", "sky", "fake"),
    "flex-start": ("qr", "mig", "gke"),
    "reservation": ("qr", "mig", "gke"),
}


def parse_capacity(
    text: str | None, *, spot: bool, flex_hours: int, backend: str, slices: int
) -> Mapping[str, Any]:
    """Returns the fields ``spot``, ``flex_hours`` and ``reservation`` of a job.

    Args:
      text: value of ``--capacity``; None where it is not given.
      spot: whether ``--spot``, its short form for spot machines, is given.
      flex_hours: value of ``--flex-hours``; 0 where it is not given.
      backend: name of the backend, which must have this kind of capacity.
      slices: number of slices.

    Raises:
      UserError: there is no such kind, the backend does not have it, or the flags contradict each other.
    """
    if spot and text not in (None, "spot"):
        raise UserError(
            f"--spot is short for --capacity=spot, and --capacity={text} is given too; leave one out"
        )
    text = "spot" if spot else text or "on-demand"
    kind, colon, name = text.partition(":")
    if kind not in KINDS or bool(colon) != (kind == "reservation"):
        raise UserError(f"--capacity={text} is no kind of capacity; write --capacity={_EXAMPLE}")
    if kind == "reservation" and not _NAME.fullmatch(name):
        raise UserError(
            f"--capacity={text} names no reservation; write its short name: --capacity=reservation:NAME"
        )
    if backend not in _BACKENDS[kind]:
        others = ", ".join(f"--backend={one}" for one in _BACKENDS[kind])
        raise UserError(f"--backend={backend} has no --capacity={text}; leave it out, or choose {others}")
    if kind == "flex-start" and not flex_hours:
        most = f"at most {MOST_FLEX_HOURS}"
        raise UserError(f"--capacity=flex-start is for a number of hours; add --flex-hours=N, {most}")
    if flex_hours and kind != "flex-start":
        raise UserError(f"--flex-hours={flex_hours} is for --capacity=flex-start; leave it out, or add that")
    if kind == "flex-start" and backend == "qr" and slices > 1:
        raise UserError(
            f"--capacity=flex-start of --backend=qr has one slice, not {slices}; leave out --slices"
        )
    return {"spot": kind == "spot", "flex_hours": flex_hours, "reservation": name}
