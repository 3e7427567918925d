"""The trust ratio of each tensor in the course of a run: written to a file, read back, summarised."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from efficientnet_pod.workdir.files import is_remote
from efficientnet_pod.workdir.json_lines import OptionalLines, Row
from efficientnet_pod.workdir.values import list_of, number, whole
from efficientnet_pod.workdir.workdir import Workdir

FILE = "trust_ratios.jsonl"
QUANTILES = (0.1, 0.5, 0.9)


class TrustRatiosLog:
    """The rows of ``trust_ratios.jsonl``: the names of the tensors first, then step and ratios in that order.

    Each step is there once: rows of steps that will be made again are dropped. A file that cannot be written
    is one warning.
    """

    def __init__(
        self, workdir: Workdir, tensors: Sequence[str], *, resumed_step: int, warn: Callable[[str], None]
    ):
        """Opens the file, without the rows of steps after ``resumed_step``; no file without tensors."""
        self._file, self._tensors = workdir.path / FILE, list(tensors)
        self._lines = OptionalLines(self._file, warn)
        self._unwritten: list[Row] = []
        self._is_open = False
        self.drop_after(resumed_step)

    def drop_after(self, step: int) -> None:
        """Drops the rows of steps after ``step``."""
        if not self._tensors:
            return
        header, *rows = [*self._lines.rows(), *self._unwritten] or [{}]
        kept = [row for row in rows if _is_row(row, self._tensors) and row["step"] <= step]
        if header != {"tensors": self._tensors}:
            kept = []
        self._unwritten = []
        self._is_open = self._lines.replace([{"tensors": self._tensors}, *kept])

    def write(self, step: int, ratios: Any) -> None:
        """Adds a row; float32 (tensors,), on the host or a device. A row that is not finite is left out."""
        if not self._is_open:
            return
        # Seven digits are more than float32 has.
        numbers = [float(f"{ratio:.7g}") for ratio in np.asarray(ratios)]
        if all(map(math.isfinite, numbers)):
            self._unwritten.append({"step": step, "ratios": numbers})
        if not is_remote(self._file):  # where each row would send the whole file
            self.flush()

    def flush(self) -> None:
        """Writes the rows that are held back for an object store."""
        if self._unwritten:
            self._lines.append(self._unwritten)
            self._unwritten = []


@dataclass(frozen=True)
class TrustRatios:
    """The trust ratio of each tensor at some steps of a run.

    Attributes:
      tensors: names of the tensors.
      steps: ascending.
      ratios: float64 (steps, tensors); NaN where none is recorded.
    """

    tensors: tuple[str, ...]
    steps: tuple[int, ...]
    ratios: np.ndarray

    def __eq__(self, other: object) -> bool:
        """Returns whether both hold the same numbers; NaN equals NaN."""
        return (
            isinstance(other, TrustRatios)
            and (self.tensors, self.steps) == (other.tensors, other.steps)
            and np.array_equal(self.ratios, other.ratios, equal_nan=True)
        )

    def quantiles(self) -> np.ndarray:
        """Returns (steps, 3): :data:`QUANTILES` over the tensors; NaN where none is finite."""
        quantiles = np.full((len(self.steps), len(QUANTILES)), np.nan)
        for step, ratios in enumerate(self.ratios):
            finite = ratios[np.isfinite(ratios)]
            if finite.size:
                quantiles[step] = np.quantile(finite, QUANTILES)
        return quantiles

    def by_part(self, *, stages: bool = False) -> tuple[list[str], np.ndarray]:
        """Returns the parts of the network in forward order, and (parts, steps): the medians over tensors.

        Parts are the stem, each block, the head and the classifier; with ``stages`` all blocks of a stage are
        one.
        """
        columns: dict[str, list[int]] = {}
        for column, tensor in enumerate(self.tensors):
            part = tensor.split("/")[0]
            name = re.sub(r"^block(\d+)[a-z]+$", r"stage \1", part) if stages else part
            columns.setdefault(name, []).append(column)
        names = sorted(columns, key=_forward_order)
        medians = np.full((len(names), len(self.steps)), np.nan)
        for part, name in enumerate(names):
            for step in range(len(self.steps)):
                ratios = self.ratios[step, columns[name]]
                finite = ratios[np.isfinite(ratios)]
                if finite.size:
                    medians[part, step] = np.median(finite)
        return names, medians


def read_trust_ratios(rows: Sequence[Row]) -> TrustRatios | None:
    """Returns the trust ratios of the lines of ``trust_ratios.jsonl``, None if they hold none.

    Of a step that was made again, after a rewind or a resume, the last row counts; of several lists of
    tensors, the last one.
    """
    tensors: tuple[str, ...] = ()
    ratios_of: dict[int, list[float]] = {}
    for row in rows:
        if isinstance(names := row.get("tensors"), list):
            if tuple(map(str, names)) != tensors:
                tensors, ratios_of = tuple(map(str, names)), {}
        elif tensors and _is_row(row, tensors):
            step, ratios = int(row["step"]), [number(ratio) for ratio in row["ratios"]]
            ratios_of = {earlier: kept for earlier, kept in ratios_of.items() if earlier < step}
            ratios_of[step] = [np.nan if ratio is None else ratio for ratio in ratios]
    if not ratios_of:
        return None
    return TrustRatios(tensors, tuple(ratios_of), np.array(list(ratios_of.values()), float))


def _is_row(row: Row, tensors: Sequence[str]) -> bool:
    """Returns whether a row has a step, and a ratio of each tensor."""
    return whole(row.get("step")) is not None and len(list_of(row.get("ratios"))) == len(tensors)


def _forward_order(part: str) -> tuple[int, list[Any]]:
    places = {"stem": 0, "block": 1, "stage": 1, "head": 2, "classifier": 3}
    place = next((place for prefix, place in places.items() if part.startswith(prefix)), 4)
    # Numbers as numbers, each between texts: block10a comes after block9a.
    return place, [int(word) if word.isdecimal() else word for word in re.split(r"([0-9]+)", part)]
