"""How far LARS has scaled each tensor's step, in the course of a run."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from efficientnet_pod.workdir.files import is_remote
from efficientnet_pod.workdir.json_lines import Row, SoftLines
from efficientnet_pod.workdir.workdir import Workdir


class TrustRatiosLog:
    """The rows of ``trust_ratios.jsonl``: the names of the tensors first, then step and ratios in that order.

    Each step is there once: rows of steps that will be made again are dropped. A file that cannot be written
    is a warning, once.
    """

    def __init__(
        self, workdir: Workdir, tensors: Sequence[str], *, resumed_step: int, report: Callable[[str], None]
    ):
        """Opens the file, without the rows of steps after ``resumed_step``; none at all without tensors."""
        self._file, self._tensors = workdir.path / "trust_ratios.jsonl", list(tensors)
        self._lines = SoftLines(self._file, report)
        self._held: list[Row] = []
        self._is_open = False
        self.drop_after(resumed_step)

    def drop_after(self, step: int) -> None:
        """Drops the rows of steps after ``step``."""
        if not self._tensors:
            return
        header, *rows = [*self._lines.rows(), *self._held] or [{}]
        kept = [row for row in rows if self._is_row(row) and row["step"] <= step]
        if header != {"tensors": self._tensors}:
            kept = []
        self._held = []
        self._is_open = self._lines.replace([{"tensors": self._tensors}, *kept])

    def write(self, step: int, ratios: Any) -> None:
        """Adds a row; float32 (tensors,), on the host or a device. One that is not finite is left out."""
        if not self._is_open:
            return
        # Seven digits are more than float32 has.
        numbers = [float(f"{ratio:.7g}") for ratio in np.asarray(ratios)]
        if all(map(math.isfinite, numbers)):
            self._held.append({"step": step, "ratios": numbers})
        if not is_remote(self._file):  # where each row would send the whole file
            self.flush()

    def flush(self) -> None:
        """Writes out what is held back for an object store."""
        if self._held:
            self._lines.append(self._held)
            self._held = []

    def _is_row(self, row: Row) -> bool:
        ratios = row.get("ratios")
        return (
            isinstance(row.get("step"), int)
            and isinstance(ratios, list)
            and len(ratios) == len(self._tensors)
        )
