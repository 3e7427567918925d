"""Owns the table of a sweep."""

from rich.console import Console
from rich.text import Text

from efficientnet_pod.pod.chips import GIB
from efficientnet_pod.preflight.figures import DASH, duration, number, table
from efficientnet_pod.preflight.sweep import Point


def print_sweep(
    field: str, swept: list[Point], fastest: Point | None, cheapest: Point | None, console: Console
) -> None:
    """Prints a row for each point, with the fastest and the cheapest marked, and what stayed the same."""
    what = "per replica" if field == "per_replica_batch" else field
    names = (what, "replicas", "global", "BN batch", "GiB", "step", "images/s", "hours", "$", "$ spot", "")
    rows = table(*names, left=0)
    rows.columns[-1].justify, rows.columns[-1].no_wrap = "left", False  # the marks
    for point in swept:
        rows.add_row(*_cells(point), _marks(point, fastest, cheapest))
    console.print(rows)
    for point in swept:
        if point.why:
            console.print(f"{point.value}: {point.why}")
    follows = "the global batch follows" if field == "per_replica_batch" else "the global batch stays"
    console.print(f"times are estimates; {follows}, the BN batch stays as near as whole groups allow")


def _cells(point: Point) -> list[str]:
    found, recipe = point.found, point.recipe
    per_replica = recipe.global_batch // point.target.replicas
    start = [point.value, f"{point.target.replicas:,}", f"{recipe.global_batch:,}"]
    start.append(f"{recipe.bn_group_size * per_replica:,}")
    if found is None:
        return [*start, *[DASH] * 6]
    step = found.train
    memory = DASH if step.hbm_bytes is None else f"{step.hbm_bytes / GIB:,.2f}"
    rate, usd, spot = found.images_per_second, found.usd(), found.usd(spot=True)
    return [
        *start,
        memory,
        duration(found.seconds_of(step)),
        f"{rate:,.0f}" if rate else DASH,
        number(found.hours) if found.hours is not None else DASH,
        number(usd) if usd is not None else DASH,
        number(spot) if spot is not None else DASH,
    ]


def _marks(point: Point, fastest: Point | None, cheapest: Point | None) -> Text:
    if point.found is None or not point.found.fits:
        return Text("does not fit" if point.found else "impossible", style="red")
    words = [word for word, best in (("fastest", fastest), ("cheapest", cheapest)) if point is best]
    return Text("◀ " + ", ".join(words) if words else "", style="bold green")
