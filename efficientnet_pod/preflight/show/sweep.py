"""The table of a sweep."""

from rich.console import Console
from rich.text import Text

from efficientnet_pod.pod.chips import GIB
from efficientnet_pod.pod.terminal import NOT_KNOWN, short_duration, table, three_digits, whole_number
from efficientnet_pod.preflight.sweep import Point


def print_sweep(
    field: str, swept: list[Point], fastest: Point | None, cheapest: Point | None, console: Console
) -> None:
    """Prints a row for each point, marks the fastest and the cheapest, and says what stayed the same."""
    name = "per replica" if field == "per_replica_batch" else field
    names = (name, "replicas", "global", "BN batch", "GiB", "step", "images/s", "hours", "$", "$ spot", "")
    rows = table(*names, left=0)
    rows.columns[-1].justify, rows.columns[-1].no_wrap = "left", False  # the marks
    for point in swept:
        rows.add_row(*_cells(point), _marks(point, fastest, cheapest))
    console.print(rows)
    for point in swept:
        if point.reason:
            console.print(f"{point.value}: {point.reason}")
    follows = "the global batch follows" if field == "per_replica_batch" else "the global batch stays"
    priced = [point.estimate for point in swept if point.estimate and point.estimate.usd()]
    where = "; prices are those of the cheapest region" if any(not one.zone for one in priced) else ""
    console.print(f"times are estimates{where}; {follows}, the BN batch stays as near as whole groups allow")


def _cells(point: Point) -> list[str]:
    estimate, recipe = point.estimate, point.recipe
    replicas = recipe.replicas_on(point.target.replicas)
    per_replica = recipe.global_batch // replicas
    start = [point.value, f"{replicas:,}", f"{recipe.global_batch:,}"]
    start.append(f"{recipe.bn_group_size * per_replica:,}")
    if estimate is None:
        return [*start, *[NOT_KNOWN] * 6]
    step, prices = estimate.train, (estimate.usd(), estimate.usd(spot=True))
    memory = NOT_KNOWN if step.hbm_bytes is None else f"{step.hbm_bytes / GIB:,.2f}"
    return [
        *start,
        memory,
        short_duration(estimate.step_seconds()),
        whole_number(estimate.images_per_second),
        three_digits(estimate.hours),
        *(NOT_KNOWN if usd is None else three_digits(usd.least) for usd in prices),
    ]


def _marks(point: Point, fastest: Point | None, cheapest: Point | None) -> Text:
    if point.estimate is None or not point.estimate.fits:
        return Text("does not fit" if point.estimate else "impossible", style="red")
    words = [word for word, best in (("fastest", fastest), ("cheapest", cheapest)) if point is best]
    return Text("◀ " + ", ".join(words) if words else "", style="bold green")
