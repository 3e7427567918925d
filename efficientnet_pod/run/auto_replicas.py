"""The search for the replicas that ``config.replicas=auto`` takes: the fewest that fit the memory."""

import dataclasses
from collections.abc import Callable, Sequence

from efficientnet_pod.run.memory import Need

# Memory is not quite linear in the batch: what is expected to be this much too large is compiled too.
_SLACK = 0.95


def fewest_replicas(
    possible: Sequence[int],
    needs: Callable[[int], Sequence[Need | None]],
    *,
    room: float = 1.0,
    agreed: Callable[[int], int] = lambda place: place,
) -> int:
    """Returns the first of ascending numbers whose programs fit; the last one where none does.

    After a number that does not fit, those are left out that are too small by a line through what it needs.

    Args:
      possible: the numbers.
      needs: function from a number to the memory of its programs; None for one that is too large by nobody
        knows how much.
      room: share of the limit that may be taken.
      agreed: function from the place that this host would try next to the place that all hosts try.
    """
    place = 0
    while True:
        following = agreed(_following(possible, place, needs(possible[place]), room))
        if following == place:
            return possible[place]
        place = following


def _following(possible: Sequence[int], place: int, needs: Sequence[Need | None], room: float) -> int:
    """Returns the place of the number to try next; the same one if it fits or is the last."""
    last = len(possible) - 1
    if place == last or all(need and need.fits(room) for need in needs):
        return place
    if None in needs:
        return place + 1
    for later in range(place + 1, last):
        smaller = possible[place] / possible[later] * _SLACK
        parts = [dataclasses.replace(need, by_batch=round(need.by_batch * smaller)) for need in needs if need]
        if all(part.fits(room) for part in parts):
            return later
    return last
