"""The sections about each run alone: trust ratios, BN groups, predictions, faults survived, records."""

from collections.abc import Callable, Sequence

import numpy as np

from efficientnet_pod.pod.terminal import NOT_KNOWN, percent, plural, significant, whole_number
from efficientnet_pod.report.blocks import (
    Block,
    Chart,
    Charts,
    Columns,
    Folded,
    Key,
    PageTable,
    Picture,
    Pictures,
    RunName,
    Section,
    Text,
)
from efficientnet_pod.report.drawing.curves import Band, Curve, curves
from efficientnet_pod.report.drawing.maps import group_map, heat_map, lay_out
from efficientnet_pod.report.drawing.svg import HEAT
from efficientnet_pod.report.figures import peak
from efficientnet_pod.report.incidents import incidents, tally, times_and_seconds
from efficientnet_pod.report.side_by_side import ReportRun
from efficientnet_pod.report.words import moment, optimizer_title, thinned
from efficientnet_pod.workdir.predictions import EvaluationPredictions, SampleImage
from efficientnet_pod.workdir.trust_ratios import TrustRatios
from efficientnet_pod.workdir.values import dig, number, table_of, whole

_MOST_ROWS = 200
_TOP = 10


def section_by_run(
    runs: Sequence[ReportRun], anchor: str, title: str, blocks_of: Callable[[ReportRun], Sequence[Block]]
) -> Section:
    """Returns a section with the blocks of each run, below its name if there are several runs."""
    blocks: list[Block] = []
    for run in runs:
        if len(runs) > 1:
            blocks.append(RunName(run.name, run.colour))
        blocks += blocks_of(run)
    return Section(anchor, title, blocks)


def trust_ratios(run: ReportRun) -> list[Block]:
    """Returns quantiles over the tensors, and a map by part of the network and time."""
    trust = run.records.trust
    if trust is None:
        optimizer = dig(run.records.config, "optimizer.name")
        if optimizer and optimizer not in ("lamb", "lars"):
            return [Text(f"{optimizer_title(optimizer)} has none.", missing=True)]
        return [Text("There is no trust_ratios.jsonl.", missing=True)]
    quantiles = trust.quantiles()
    low, median, high = quantiles.T.tolist()
    svg = curves(
        [Curve(trust.steps, [number(value) for value in median], run.colour)],
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
    if drawn := heat_map(stages, trust.steps, values, title=title):
        svg, bounds = drawn
        shades = [
            Key(f"{significant(lower, 2)} to {significant(upper, 2)}", shade, "fill")
            for shade, lower, upper in zip(HEAT, bounds, bounds[1:], strict=False)
        ]
        # Nine shades are more than a legend needs.
        charts.append(Chart(title, svg, "Median over the tensors of each stage.", shades[::4]))
    if not charts:
        return [Text("No trust ratio of trust_ratios.jsonl is a number above 0.")]
    return [Charts(charts, _trust_table(trust, quantiles)), _parts_table(trust)]


def _trust_table(trust: TrustRatios, quantiles: np.ndarray) -> PageTable:
    kept, apart = thinned(list(zip(trust.steps, quantiles.tolist(), strict=True)), _MOST_ROWS)
    rows = [[whole_number(step), *(significant(number(value)) for value in values)] for step, values in kept]
    note = f"One row in {apart} is shown. " if apart > 1 else ""
    note += f"Over {plural(len(trust.tensors), 'tensor')}."
    return PageTable(["step", "10 %", "50 %", "90 %"], rows, frozenset(range(4)), "Trust ratios", note)


def _parts_table(trust: TrustRatios) -> Folded:
    names, values = trust.by_part()
    columns, _ = thinned(range(len(trust.steps)), 8)
    header = ["part", *(f"step {trust.steps[column]:,}" for column in columns)]
    rows = [
        [name, *(significant(number(row[column]), 3) for column in columns)]
        for name, row in zip(names, values.tolist(), strict=True)
    ]
    table = PageTable(header, rows, frozenset(range(1, len(header))))
    return Folded("Trust ratios by block, as a table", table)


def bn_groups(run: ReportRun) -> list[Block]:
    """Returns a map of the replicas, coloured by the group in which they normalise together."""
    mesh = run.records.mesh
    if mesh is None:
        return [Text("There is no mesh.json.", missing=True)]
    if mesh.size == 1 and (whole(run.records.plan.get("num_replicas")) or 1) == 1:
        return [Text("One replica normalises by itself.")]
    layout = lay_out(mesh)
    title, on_devices = f"{plural(len(mesh.groups), 'group')} of {plural(mesh.size, 'replica')}", ""
    replicas, devices = (whole(run.records.plan.get(name)) for name in ("num_replicas", "num_devices"))
    size = whole(dig(run.records.plan, "recipe.bn_group_size"))
    if replicas and devices and size and replicas > devices:
        title = f"{plural(replicas // size, 'group')} of {plural(size, 'replica')}"
        title += f" on {plural(devices, 'device')}"
        on_devices = " A device computes several replicas; of one group at a time with its neighbours here."
    layers = f", its {layout.depths} layers side by side" if layout.depths > 1 else ""
    note = f"Squares are chips at their place on the torus{layers}."
    if not layout.on_torus:
        note = "The devices have no coordinates: replicas in the order of the mesh."
    note += on_devices or " Neighbours with the same colour and number normalise together."
    names = [[device.name for device in group] for group in mesh.groups[:_MOST_ROWS]]
    rows = [[str(index), whole_number(len(group)), _abridged(group)] for index, group in enumerate(names)]
    header = [
        "group",
        "devices" if on_devices else "replicas",
        "(x, y, z):core" if layout.on_torus else "devices, by id",
    ]
    table = PageTable(header, rows, frozenset({1}), "Groups")
    return [Charts([Chart(title, group_map(layout, title=title), note, wide=True)], table)]


def _abridged(names: Sequence[str]) -> str:
    if len(names) <= 8:
        return ", ".join(names)
    return f"{', '.join(names[:4])} … {', '.join(names[-2:])}"


def predictions(run: ReportRun) -> list[Block]:
    """Returns sample images, the pairs of classes confused most often, and the classes recognised least."""
    evaluated = run.records.predictions
    if evaluated is None:
        return [Text("There is no predictions.json.", missing=True)]
    blocks: list[Block] = []
    if evaluated.samples:
        pictures = [_picture(evaluated, sample) for sample in evaluated.samples]
        step = f" after step {evaluated.step:,}" if evaluated.step is not None else ""
        best = peak(run.evaluations)
        is_best = best is None or evaluated.step is None or best.step == evaluated.step
        other = "" if is_best or best is None else f" The best accuracy is that of step {best.step:,}."
        note = f"From the evaluation{step}: the label, and the three most probable classes.{other}"
        blocks.append(Pictures(pictures, note))
    columns = [column for column in (_confusions(evaluated), _worst_classes(evaluated)) if column]
    if columns:
        blocks.append(Columns(columns))
    return blocks or [Text("predictions.json holds no images, confusions or classes.")]


def _picture(evaluated: EvaluationPredictions, sample: SampleImage) -> Picture:
    predicted = [
        (evaluated.name(label), percent(probability, 0), min(max(probability, 0.0), 1.0) * 100)
        for label, probability in sample.predicted
    ]
    return Picture(sample.data_uri, evaluated.name(sample.label), sample.is_hit, predicted)


def _confusions(evaluated: EvaluationPredictions) -> list[PageTable | Folded]:
    images_of = {label: images for label, images, _ in evaluated.per_class}
    rows = []
    for label, predicted, images in evaluated.confusions:
        share = percent(images / images_of[label], 1) if images_of.get(label) else NOT_KNOWN
        rows.append([evaluated.name(label), evaluated.name(predicted), whole_number(images), share])
    header = ["label", "taken for", "images", "of the class"]
    return _top_rows(
        header, rows, "Most confused pairs of classes", all_title=f"All {len(rows)} recorded pairs"
    )


def _worst_classes(evaluated: EvaluationPredictions) -> list[PageTable | Folded]:
    rows = [
        [evaluated.name(label), whole_number(images), whole_number(correct), percent(correct / images, 1)]
        for label, images, correct in sorted(evaluated.per_class, key=lambda row: (row[2] / row[1], row[0]))
    ]
    title = f"The {_TOP} classes recognised least" if len(rows) > _TOP else "Accuracy by class"
    header = ["class", "images", "correct", "top-1"]
    return _top_rows(header, rows, title, all_title=f"All {len(rows):,} classes")


def _top_rows(
    header: Sequence[str], rows: Sequence[Sequence[str]], title: str, *, all_title: str
) -> list[PageTable | Folded]:
    """Returns a table of the first rows, and below it all of them, folded, if there are more."""
    if not rows:
        return []
    numeric = frozenset(n for n, name in enumerate(header) if name not in ("label", "taken for", "class"))
    blocks: list[PageTable | Folded] = [PageTable(header, rows[:_TOP], numeric, title)]
    if len(rows) > _TOP:
        blocks.append(Folded(all_title, PageTable(header, rows, numeric)))
    return blocks


def faults(run: ReportRun) -> list[Block]:
    """Returns how often the run met each fault, and a timeline."""
    journal = run.records.journal
    if journal is None:
        skipped = whole(run.records.summary.get("skipped_steps"))
        known = f" {plural(skipped, 'step was', 'steps were')} skipped." if skipped is not None else ""
        return [Text(f"There is no journal.jsonl.{known}", missing=True)]
    counts = ", ".join(plural(count, *names) for names, count in tally(journal).items() if count)
    blocks: list[Block] = [Text(f"{counts}." if counts else "None was met.")]
    rows = [
        [moment(incident.time), whole_number(incident.step), incident.what, incident.detail]
        for incident in incidents(journal)
    ]
    note = f"The first {_MOST_ROWS} of {len(rows):,} are shown." if len(rows) > _MOST_ROWS else ""
    if rows:
        header = ["time", "step", "what", ""]
        blocks.append(PageTable(header, rows[:_MOST_ROWS], frozenset({1}), "Timeline", note))
    return blocks


def records(run: ReportRun) -> list[Block]:
    """Returns the files of the workdir, the versions that wrote them, and the digest of the final state."""
    summary = run.records.summary
    rows = [["workdir", run.records.path], ["files", ", ".join(run.records.files)]]
    for kind, name in (("compiled", "compilations"), ("evaluated", "evaluations"), ("saved", "saves")):
        if text := times_and_seconds(run.records.journal or (), kind):
            rows.append([name, text])
    if isinstance(digest := summary.get("state_digest"), str):
        rows.append(["digest of the final state", digest])
    for name, version in table_of(summary.get("versions")).items():
        rows.append([f"version of {name}" if name != "git_commit" else "commit", str(version)])
    return [Folded("Workdir, versions and digest", PageTable(["", ""], rows))]
