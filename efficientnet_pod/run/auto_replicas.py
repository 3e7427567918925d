"""The number of replicas that ``config.replicas=auto`` takes: the fewest whose programs fit the memory."""

import dataclasses
from collections.abc import Callable, Sequence

from efficientnet_pod.pod import hosts
from efficientnet_pod.pod.terminal import plural
from efficientnet_pod.recipe.recipe import AUTO
from efficientnet_pod.recipe.rules import possible_replicas
from efficientnet_pod.run.memory import Need
from efficientnet_pod.run.programs import needs_of
from efficientnet_pod.run.run import Run, run_on
from efficientnet_pod.workdir.workdir import Workdir

# Of the memory that a host has free at the start, whose other processes go on.
_ROOM_ON_CPU = 0.9
# Memory is not quite linear in the batch: what is expected to be this much too large is compiled too.
_SLACK = 0.95


def with_replicas(
    run: Run, workdir: Workdir, *, kept: int | None, print_line: Callable[[str], None] = print
) -> Run:
    """Returns the run with a number of replicas in the place of ``auto``; any other run as it is.

    All hosts call it together. Programs that host 0 compiles stay in the workdir.

    Args:
      run: on the devices of all hosts; nothing is on them yet.
      workdir: claimed by the run.
      kept: number with which the run in the workdir began; None for a run that begins.
      print_line: gets a line for each number that was tried.

    Raises:
      UserError: ``kept`` is not possible on these devices.
    """
    recipe = run.plan.recipe
    if recipe.replicas != AUTO:
        return run

    def run_with(replicas: int) -> Run:
        return run_on(run.runtime, dataclasses.replace(recipe, replicas=replicas), run.source)

    if kept:
        return run_with(kept)

    def needs(replicas: int) -> list[Need | None]:
        found = needs_of(run_with(replicas), workdir)
        most = max((need for need in found if need), key=lambda need: need.total, default=None)
        takes = f"a step needs {most}" if most else "the compiler refuses the step"
        images = recipe.global_batch // replicas
        print_line(f"replicas=auto: {plural(replicas, 'replica')} of {plural(images, 'image')}: {takes}")
        return found

    def agreed(place: int) -> int:
        places = hosts.to_first("replicas", place)
        return int(hosts.from_first("replicas", max(places) if places else None))

    room = _ROOM_ON_CPU if run.runtime.platform == "cpu" else 1.0
    possible = possible_replicas(recipe, run.plan.num_devices)
    return run_with(fewest_replicas(possible, needs, room=room, agreed=agreed))


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
      agreed: function from the place that this host would try next to that of all hosts.
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
