"""Owns the trust ratios of a run: read from their file, as quantiles over tensors, by part of the network."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from efficientnet_pod.workdir.values import number, whole

QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class TrustRatios:
    """The LARS factor of each tensor over time.

    Attributes:
      tensors: their names.
      steps: ascending.
      ratios: (steps, tensors); NaN where none is recorded.
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
        out = np.full((len(self.steps), len(QUANTILES)), np.nan)
        for at, row in enumerate(self.ratios):
            finite = row[np.isfinite(row)]
            if finite.size:
                out[at] = np.quantile(finite, QUANTILES)
        return out

    def by_part(self, *, stages: bool = False) -> tuple[list[str], np.ndarray]:
        """Returns the parts of the network in forward order, and (parts, steps): the medians over tensors.

        Parts are the stem, each block, the head and the classifier; with ``stages`` all blocks of a stage are
        one.
        """
        parts: dict[str, list[int]] = {}
        for at, tensor in enumerate(self.tensors):
            part = tensor.split("/")[0]
            if stages:
                part = re.sub(r"^block(\d+)[a-z]+$", r"stage \1", part)
            parts.setdefault(part, []).append(at)
        names = sorted(parts, key=_forward)
        out = np.full((len(names), len(self.steps)), np.nan)
        for row, name in enumerate(names):
            for column in range(len(self.steps)):
                values = self.ratios[column, parts[name]]
                finite = values[np.isfinite(values)]
                if finite.size:
                    out[row, column] = np.median(finite)
        return names, out


def read_trust_ratios(rows: Sequence[dict[str, Any]] | None) -> TrustRatios | None:
    """Returns the trust ratios that the lines of ``trust_ratios.jsonl`` hold, None if they hold none.

    A step that was made again, after a rewind or a resume, counts as it was last; so does a list of tensors.
    """
    tensors: tuple[str, ...] = ()
    found: dict[int, list[float]] = {}
    for row in rows or ():
        if isinstance(names := row.get("tensors"), list):
            if tuple(map(str, names)) != tensors:
                tensors, found = tuple(map(str, names)), {}
            continue
        step, ratios = whole(row.get("step")), row.get("ratios")
        if step is None or not isinstance(ratios, list) or len(ratios) != len(tensors):
            continue
        found = {each: value for each, value in found.items() if each < step}
        found[step] = [np.nan if (value := number(each)) is None else value for each in ratios]
    if not tensors or not found:
        return None
    return TrustRatios(tensors, tuple(found), np.array(list(found.values()), float))


def _forward(part: str) -> tuple[int, list[Any]]:
    place = {"stem": 0, "block": 1, "stage": 1, "head": 2, "classifier": 3}
    at = next((at for prefix, at in place.items() if part.startswith(prefix)), 4)
    # Numbers as numbers, each between texts: block10a comes after block9a.
    return at, [int(word) if word.isdecimal() else word for word in re.split(r"([0-9]+)", part)]
