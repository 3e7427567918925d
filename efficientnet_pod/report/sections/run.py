"""Owns the sections on each run alone: trust ratios, BN groups, predictions, faults survived, records."""

from collections.abc import Callable, Sequence

import numpy as np

from efficientnet_pod.report.blocks import (
    Beside,
    Block,
    Chart,
    Charts,
    Folded,
    Key,
    Picture,
    Pictures,
    RunName,
    Section,
    Table,
    Text,
)
from efficientnet_pod.report.drawing.curves import Band, Curve, curves
from efficientnet_pod.report.drawing.maps import group_map, heat_map, lay_out
from efficientnet_pod.report.drawing.svg import HEAT
from efficientnet_pod.report.incidents import incidents, shown_seconds, tally
from efficientnet_pod.report.side_by_side import Run
from efficientnet_pod.report.values import (
    NONE,
    count,
    figure,
    moment,
    optimizer_name,
    percent,
    plural,
    thinned,
)
from efficientnet_pod.workdir.predictions import EvaluationPredictions
from efficientnet_pod.workdir.trust_ratios import TrustRatios
from efficientnet_pod.workdir.values import dig, number, table_of, whole

_MOST_ROWS = 200
_TOP = 10


def of_each(
    runs: Sequence[Run], anchor: str, title: str, blocks_of: Callable[[Run], Sequence[Block]], lead: str = ""
) -> Section:
    """Returns a section with the blocks of each run below its name; without names where there is one run."""
    blocks: list[Block] = []
    for run in runs:
        if len(runs) > 1:
            blocks.append(RunName(run.name, run.colour))
        blocks += blocks_of(run)
    return Section(anchor, title, blocks, lead)


def trust_ratios(run: Run) -> list[Block]:
    """Returns quantiles over the tensors, and a map by part of the network and time."""
    trust = run.records.trust
    if trust is None:
        optimizer = dig(run.records.config, "optimizer.name")
        if optimizer and optimizer != "lars":
            return [Text(f"{optimizer_name(optimizer)} has none.", missing=True)]
        return [Text("There is no trust_ratios.jsonl.", missing=True)]
    quantiles = trust.quantiles()
    low, median, high = (quantiles[:, at].tolist() for at in range(3))
    svg = curves(
        [Curve(trust.steps, _known(median), run.colour)],
        title="Trust ratios by step",
        x_label="step",
        bands=[Band(trust.steps, low, high, run.colour)],
        log_if_wide=True,
    )
    charts = []
    if svg:
        keys = [Key("median over tensors", run.colour), Key("10 % to 90 %", run.colour, "band")]
        charts.append(Chart("Trust ratio by step", svg, keys=keys))
    stages, values = trust.by_part(stages=True)
    title = "Trust ratio by stage and step"
    drawn = heat_map(stages, trust.steps, values, title=title)
    if drawn:
        shades = [Key(_between(*pair), name, "fill") for name, pair in _shades(drawn[1])]
        charts.append(Chart(title, drawn[0], "Median over the tensors of each stage.", shades))
    if not charts:
        return [Text("No trust ratio of trust_ratios.jsonl is a number above 0.")]
    return [Charts(charts, _trust_table(trust, quantiles)), _parts_table(trust)]


def _known(values: Sequence[float]) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values]


def _shades(bounds: Sequence[float]) -> list[tuple[str, tuple[float, float]]]:
    """Returns every other shade of the map: nine are more than a legend needs."""
    pairs = list(zip(HEAT, zip(bounds, bounds[1:], strict=False), strict=True))
    return pairs[::4]


def _between(low: float, high: float) -> str:
    return f"{figure(low, 2)} to {figure(high, 2)}"


def _trust_table(trust: TrustRatios, quantiles: np.ndarray) -> Table:
    kept, apart = thinned(list(zip(trust.steps, quantiles.tolist(), strict=True)), _MOST_ROWS)
    rows = [[count(step), *(figure(number(value)) for value in values)] for step, values in kept]
    note = f"One row in {apart} is shown. " if apart > 1 else ""
    note += f"Over {plural(len(trust.tensors), 'tensor')}."
    return Table(["step", "10 %", "50 %", "90 %"], rows, frozenset(range(4)), "Trust ratios", note)


def _parts_table(trust: TrustRatios) -> Folded:
    names, values = trust.by_part()
    kept, _ = thinned(range(len(trust.steps)), 8)
    header = ["part", *(f"step {trust.steps[at]:,}" for at in kept)]
    rows = [
        [name, *(figure(number(row[at]), 3) for at in kept)]
        for name, row in zip(names, values.tolist(), strict=True)
    ]
    table = Table(header, rows, frozenset(range(1, len(header))))
    return Folded("Trust ratios by block, as a table", [table])


def bn_groups(run: Run) -> list[Block]:
    """Returns a map of the replicas, coloured by the group in which they normalise together."""
    mesh = run.records.mesh
    if mesh is None:
        return [Text("There is no mesh.json.", missing=True)]
    layout = lay_out(mesh)
    title = f"{plural(len(mesh.groups), 'group')} of {plural(mesh.size, 'replica')}"
    svg = group_map(layout, title=title)
    if not layout.on_torus:
        note = "The devices have no coordinates: replicas in the order of the mesh."
    elif layout.depths > 1:
        note = f"Squares are chips at their place on the torus, its {layout.depths} layers side by side."
    else:
        note = "Squares are chips at their place on the torus."
    note += " Neighbours of one colour and number normalise together."
    rows = [
        [str(at), count(len(members)), _abridged(members)]
        for at, members in enumerate(layout.members[:_MOST_ROWS])
    ]
    header = ["group", "replicas", "(x, y, z):core" if layout.on_torus else "devices, by id"]
    data = Table(header, rows, frozenset({1}), "Groups")
    return [Charts([Chart(title, svg, note, wide=True)], data)]


def _abridged(members: Sequence[str]) -> str:
    if len(members) <= 8:
        return ", ".join(members)
    return f"{', '.join(members[:4])} … {', '.join(members[-2:])}"


def predictions(run: Run) -> list[Block]:
    """Returns sample images, the classes that are confused most, and those that are recognised least."""
    found = run.records.predictions
    if found is None:
        return [Text("There is no predictions.json.", missing=True)]
    blocks: list[Block] = []
    if found.samples:
        pictures = [_picture(found, at) for at in range(len(found.samples))]
        of_step = f" after step {found.step:,}" if found.step is not None else ""
        note = f"From the evaluation{of_step}: the label, and the three most probable classes."
        blocks.append(Pictures(pictures, note))
    columns = [column for column in (_confusions(found), _worst_classes(found)) if column]
    if columns:
        blocks.append(Beside(columns))
    return blocks or [Text("predictions.json holds no images, confusions or classes.")]


def _picture(found: EvaluationPredictions, at: int) -> Picture:
    sample = found.samples[at]
    predicted = [
        (found.name(label), percent(share, 0), min(max(share, 0.0), 1.0) * 100)
        for label, share in sample.predicted
    ]
    return Picture(sample.data_uri, found.name(sample.label), sample.is_hit, predicted)


def _confusions(found: EvaluationPredictions) -> list[Table | Folded]:
    if not found.confusions:
        return []
    images = {label: images for label, images, _ in found.per_class}
    rows = []
    for label, predicted, times in found.confusions:
        share = percent(times / images[label], 1) if images.get(label) else NONE
        rows.append([found.name(label), found.name(predicted), count(times), share])
    header = ["label", "taken for", "images", "of the class"]
    numeric = frozenset({2, 3})
    blocks: list[Table | Folded] = [Table(header, rows[:_TOP], numeric, "Most confused pairs of classes")]
    if len(rows) > _TOP:
        blocks.append(Folded(f"All {len(rows)} recorded pairs", [Table(header, rows, numeric)]))
    return blocks


def _worst_classes(found: EvaluationPredictions) -> list[Table | Folded]:
    if not found.per_class:
        return []
    ordered = sorted(found.per_class, key=lambda each: (each[2] / each[1], each[0]))
    rows = [
        [found.name(label), count(images), count(correct), percent(correct / images, 1)]
        for label, images, correct in ordered
    ]
    header, numeric = ["class", "images", "correct", "top-1"], frozenset({1, 2, 3})
    title = f"The {_TOP} classes recognised least" if len(rows) > _TOP else "Accuracy by class"
    blocks: list[Table | Folded] = [Table(header, rows[:_TOP], numeric, title)]
    if len(rows) > _TOP:
        blocks.append(Folded(f"All {len(rows):,} classes", [Table(header, rows, numeric)]))
    return blocks


def faults(run: Run) -> list[Block]:
    """Returns what the run survived: how often each fault was met, and when."""
    journal = run.records.journal
    if journal is None:
        skipped = whole(run.records.summary.get("skipped_steps"))
        known = f" Of steps, {skipped:,} were skipped." if skipped is not None else ""
        return [Text(f"There is no journal.jsonl.{known}", missing=True)]
    met = ", ".join(plural(times, *names) for names, times in tally(journal).items() if times)
    blocks: list[Block] = [Text(f"{met}." if met else "None was met.")]
    rows = [[moment(each.at), count(each.step), each.what, each.detail] for each in incidents(journal)]
    kept = rows[:_MOST_ROWS]
    note = f"The first {_MOST_ROWS} of {len(rows):,} are shown." if len(rows) > len(kept) else ""
    if kept:
        blocks.append(Table(["time", "step", "what", ""], kept, frozenset({1}), "Timeline", note))
    return blocks


def records(run: Run) -> list[Block]:
    """Returns what the workdir holds, and what wrote it."""
    found = run.records
    rows = [["workdir", found.path], ["files", ", ".join(found.files)]]
    for kind, name in (("compiled", "compilations"), ("evaluated", "evaluations"), ("saved", "saves")):
        if words := shown_seconds(found.journal or (), kind):
            rows.append([name, words])
    digest = found.summary.get("state_digest")
    if isinstance(digest, str):
        rows.append(["digest of the final state", digest])
    versions = table_of(found.summary.get("versions"))
    rows += [
        [f"version of {name}" if name != "git_commit" else "commit", str(versions[name])] for name in versions
    ]
    return [Folded("Workdir, versions and digest", [Table(["", ""], rows)])]
