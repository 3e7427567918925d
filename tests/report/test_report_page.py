"""The page: what stands on it, that it is one file in good order, that no name in it is taken for HTML."""

import html.parser
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from report_runs import (
    config,
    event,
    eventful_journal,
    metrics,
    plan,
    predictions,
    row_mesh,
    summary,
    torus_mesh,
    trust_lines,
    write_pod_run,
    write_run,
    write_samples,
)

from efficientnet_pod.report import page
from efficientnet_pod.report.drawing.svg import VARIABLES
from efficientnet_pod.report.exports import dawnbench_json, dawnbench_tsv, mlperf_log
from efficientnet_pod.report.page import read_runs, render
from efficientnet_pod.report.sections.run import bn_groups
from efficientnet_pod.report.sections.run import predictions as predictions_of
from efficientnet_pod.report.side_by_side import run_of

VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}"


class Checked(html.parser.HTMLParser):
    """Reads a page strictly: each element is closed where it must be, each id is there once."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open
        ids = [found["id"] for _, found in self.tags if "id" in found]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs)), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def rendered(*folders: Path, **options) -> tuple[str, Checked]:
    text = render([run_of(records, place) for place, records in enumerate(read_runs(folders))], **options)
    return text, Checked(text)


def require_complete_in_itself(text: str, checked: Checked) -> None:
    for tag, attributes in checked.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "data", "action", "xlink:href", "poster"):
                is_trace = tag == "a" and re.fullmatch(r"profile/plugins/profile/[\w.-]+/", value or "")
                assert value and value.startswith(("#", "data:")) or is_trace, (tag, name, value)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text


@pytest.fixture(scope="module")
def pod_folder(tmp_path_factory) -> Path:
    return write_pod_run(tmp_path_factory.mktemp("runs") / "b5-v3-1024")


def test_a_run_with_all_files(pod_folder):
    text, checked = rendered(pod_folder)
    require_complete_in_itself(text, checked)
    said = checked.text
    for words in (
        "EfficientNet-B5 on imagenet2012, 1,024 × TPU v3, 128 hosts; LARS, 65,536 images a step, 100 epochs",
        "Complete after 1,940 steps.",
        "512 × TPU v3 on demand at $2.00 a chip-hour",
        "top-5 93.0 %, DAWNBench's mark",
        "waiting for input 0.4 %",
        "64 groups of 16 replicas",
        "Most confused pairs of classes",
        "The 10 classes recognised least",
        "2 resumes, 1 orderly stop, 1 end without a word, 1 rewind, 2 skipped steps, 1 skipped image",
        "checkpoint 980: the digest of head/kernel differs",
        "1,024 images together, groups of 16 replicas",
        "The last batch of an evaluation is a tenth full.",
    ):
        assert words in said, words
    assert "Not recorded" not in said
    figures = [found for tag, found in checked.tags if tag == "svg"]
    assert len(figures) == 10 and all(found["aria-label"] for found in figures)
    assert text.count("data:image/png;base64,") == 18
    assert not [word for word in ("://", "DejaVu", "matplotlib") if word in text]
    assert 'http-equiv="refresh"' not in text


def test_a_run_with_the_least_of_files_says_calmly_what_is_not_recorded(tmp_path):
    said = rendered(write_run(tmp_path / "least", config=None, plan=None, summary=None))[1].text
    for words in (
        "Network, data and machine are not recorded",
        "Trust ratios There is no trust_ratios.jsonl.",
        "Batch-norm groups There is no mesh.json.",
        "Predictions There is no predictions.json.",
        "Faults survived There is no journal.jsonl.",
        "Plan There is no plan.json.",
        "Config There is no config.json.",
    ):
        assert words in said, words
    nothing = rendered(write_run(tmp_path / "nothing", metrics=None, summary=None))[1].text
    assert nothing.count("No evaluation is recorded yet.") == 2
    assert "There is no metrics.jsonl: the run has not recorded a step." in nothing


def test_every_figure_of_the_tables_by_hand(tmp_path):
    text, checked = rendered(write_run(tmp_path / "digits", journal=eventful_journal()))
    cells = re.sub(r"\s*<[^>]*>\s*", "|", text)
    for row in (
        "|25||2.50||50.00 %||80.00 %||3||100||1 min 50 s||1 min 40 s|",
        "|top-1 95.0 %||7.50||5 min 30 s||5 min|",
        "|peak, 95.00 %||7.50||5 min 30 s||5 min|",
        "|25||2.50||4||40.00 %||0.4||25||10.0 %|",
        "|training||6 min||71.9 %|",
        "|2026-11-25 01:05:00 UTC||25||Ended without a word|",
    ):
        assert row in cells, row
    assert "top-1 85.0 %" not in cells  # reached by the same evaluation as the row below
    assert "3 resumes, 1 orderly stop, 1 end without a word, 1 failure, 1 rewind" in checked.text


def test_runs_side_by_side_show_what_differs(tmp_path):
    first = write_run(tmp_path / "one/digits")
    faster = [row | {"seconds": row["seconds"] / 2} for row in metrics()]
    second = write_run(
        tmp_path / "two/digits", metrics=faster, config=config(seed=1, extra="new"), mesh=row_mesh(1, 4)
    )
    text, checked = rendered(first, second)
    require_complete_in_itself(text, checked)
    cells = re.sub(r"\s*<[^>]*>\s*", "|", text)
    assert "one/digits and two/digits" in checked.text  # the names of the folders alone would be the same
    assert "|extra||absent||new|" in cells and "|seed||0||1|" in cells
    differing = cells[cells.index("|Config: what differs|") : cells.index("|The same in all runs: ")]
    assert "global_batch" not in differing
    assert (
        "|top-1 80.0 %||3 min 40 s||1 min 50 s|" in cells
        and "|top-1 80.0 %||3 min 20 s||1 min 30 s|" in cells
    )
    same = rendered(first, write_run(tmp_path / "three"))[1].text
    assert "The configs are the same in every field." in same
    many = rendered(*[write_run(tmp_path / f"run{n}") for n in range(8)])[1].text
    assert "8 runs" in many and "run7" in many


def test_names_are_never_taken_for_html(tmp_path):
    named = HOSTILE.replace("/", "∕")  # a slash cannot be in the name of a folder
    table = predictions(2) | {"classes": [HOSTILE] * 11}
    journal = [
        event(0, "start", 0, devices={"count": 1, "kind": HOSTILE}),
        event(1, "quarantined", 1, what=HOSTILE),
        event(2, "failed", 1, error=HOSTILE),
    ]
    mesh = row_mesh(2, 2)
    mesh["groups"][0][0]["id"] = HOSTILE
    folder = write_run(
        tmp_path / named,
        config=config(data={"name": HOSTILE}, **{HOSTILE: HOSTILE}),
        plan=plan(warnings=[HOSTILE], device_kind=HOSTILE),
        summary=summary(final={}, devices=None, versions={HOSTILE: HOSTILE}, state_digest=HOSTILE),
        journal=journal,
        mesh=mesh,
        predictions=table,
        trust_ratios=trust_lines([f"{HOSTILE}$x$/kernel", "日本/kernel"], [1, 2, 3]),
    )
    write_samples(folder, 2)
    for folders in ([folder], [folder, write_run(tmp_path / "plain")]):
        text, checked = rendered(*folders)
        require_complete_in_itself(text, checked)
        assert "<script" not in text and "<img src=x" not in text and "49" not in checked.text.split()
        assert f"Crashed at step 100 of 100 (100 %): {HOSTILE}." in checked.text
        pictures = [found["src"] for tag, found in checked.tags if tag == "img"]
        assert len(pictures) == 2 and all(str(src).startswith("data:image/png") for src in pictures)


def test_the_same_records_give_the_same_page(pod_folder):
    text, _ = rendered(pod_folder)
    program = (
        "import sys; from efficientnet_pod.report.page import write_report;"
        "write_report([sys.argv[1]], sys.argv[2])"
    )
    out = pod_folder.parent / "again.html"
    root = Path(page.__file__).parents[2]
    subprocess.run(
        [sys.executable, "-W", "error", "-c", program, pod_folder, out],
        check=True,
        cwd=root,
        env={"PYTHONHASHSEED": "7", "PATH": "", "HOME": str(pod_folder.parent), "TZ": "Asia/Tokyo"},
    )
    assert out.read_text() == text


def test_a_page_that_follows_reads_itself_anew(tmp_path):
    text, checked = rendered(write_run(tmp_path), refresh_seconds=5)
    assert ("meta", {"http-equiv": "refresh", "content": "5"}) in checked.tags
    assert "renewed every 5 s" in checked.text and "Top-1, final" in checked.text
    assert "Top-1, last" in rendered(write_run(tmp_path / "half", summary=None))[1].text


def test_bn_groups_are_a_map_and_a_table(tmp_path):
    (run,) = [run_of(each) for each in read_runs([write_run(tmp_path, mesh=row_mesh(2, 4))])]
    (charts,) = bn_groups(run)
    assert charts.kind == "charts" and charts.charts[0].title == "2 groups of 4 replicas"
    assert charts.data.rows[1] == ["1", "4", "4, 5, 6, 7"]


def test_few_classes_are_all_shown_the_worst_first(tmp_path):
    table = {"per_class": [[0, 10, 9], [1, 10, 2], [2, 10, 2]], "confusions": [[1, 0, 8]]}
    (run,) = [run_of(each) for each in read_runs([write_run(tmp_path, predictions=table)])]
    (columns,) = predictions_of(run)
    assert columns.kind == "columns"
    (confused,), (worst,) = columns.columns
    assert confused.rows == [["class 1", "class 0", "8", "80.0 %"]]
    assert [row[0] for row in worst.rows] == ["class 1", "class 2", "class 0"] and worst.rows[0][
        3
    ] == "20.0 %"


def test_trust_ratios_that_are_not_numbers_leave_no_chart(tmp_path):
    lines = [{"tensors": ["a/k"]}, {"step": 1, "ratios": [None]}, {"step": 2, "ratios": ["x"]}]
    said = rendered(write_run(tmp_path / "a", trust_ratios=lines))[1].text
    assert "No trust ratio of trust_ratios.jsonl is a number above 0." in said
    sgd = rendered(write_run(tmp_path / "b", config=config(optimizer={"name": "sgd"})))[1].text
    assert "Trust ratios SGD has none." in sgd


ODD = (
    None,
    True,
    -1,
    0,
    1e308,
    float("nan"),
    10**30,
    "x",
    "",
    [],
    {},
    [None],
    {"a": [1]},
    "9999-12-31T23:59Z",
)


def damaged(value, rng: random.Random, share: float):
    """Returns the value with a share of its parts left out or replaced by something of another type."""
    if rng.random() < share:
        return rng.choice(ODD)
    if isinstance(value, dict):
        return {name: damaged(each, rng, share) for name, each in value.items() if rng.random() > share / 2}
    return [damaged(each, rng, share) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_files_hold_there_is_a_page(tmp_path, seed):
    rng = random.Random(seed)
    share = (0.02, 0.1, 0.3)[seed % 3]
    lines = {
        "metrics": metrics(),
        "journal": eventful_journal(),
        "trust_ratios": trust_lines(["stem/a", "block1a/b"], [1, 2, 3]),
    }
    tables = {
        "config": config(),
        "plan": plan(),
        "summary": summary(seconds_of={"training": 3.0}),
        "mesh": torus_mesh(4, 4, (2, 2)),
        "predictions": predictions(3),
    }
    written = {name: [damaged(row, rng, share) for row in rows] for name, rows in lines.items()}
    written |= {name: {k: damaged(v, rng, share) for k, v in each.items()} for name, each in tables.items()}
    text, checked = rendered(write_run(tmp_path, **written))
    require_complete_in_itself(text, checked)
    (records,) = read_runs([tmp_path])
    assert dawnbench_tsv(records) and dawnbench_json(records) and mlperf_log(records)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast(scheme):
    """Texts against what is behind them 4.5, curves 3: levels of WCAG 2.2."""
    style = (Path(page.__file__).parent / "style.css").read_text()
    tables = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(tables) == 2
    colours = dict(re.findall(r"--(\w+): (#\w{6})", tables[scheme]))
    for text in ("ink", "muted"):
        for behind in ("paper", "card"):
            assert contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    for name, colour in colours.items():
        if name.startswith("s"):
            assert contrast(colour, colours["paper"]) >= 4.5, name
        if name.startswith("g"):
            assert contrast(colour, colours["ink"]) >= 4.5, name
    shades = [luminance(colours[f"h{n}"]) for n in range(9)]
    assert shades == sorted(shades, reverse=not scheme)


def test_style_and_charts_know_the_same_colours():
    style = (Path(page.__file__).parent / "style.css").read_text()
    for table in re.findall(r":root \{(.*?)\}", style, re.DOTALL):
        assert set(VARIABLES) <= set(re.findall(r"--(\w+):", table))


def test_what_says_nothing_is_left_out(tmp_path):
    folder = write_run(tmp_path / "run", journal=eventful_journal())
    plan = json.loads((folder / "plan.json").read_text())
    plan["num_classes"] = 4
    plan["recipe"]["init"] = {
        "weights": "weights/lite0",
        "frozen": ["stem", "block1"],
        "bn_statistics": "keep",
    }
    plan["recipe"]["init"]["lr_factors"] = [["", 0.1], ["classifier", 1.0]]
    (folder / "plan.json").write_text(json.dumps(plan))
    text, _ = rendered(folder)
    assert "Top-5, " not in text and ">top-5</" not in text.split('id="accuracy"')[1].split("<table")[0]
    begins = "weights of weights/lite0, not trained: stem, block1, "
    assert begins + "learning rate of all else × 0.1, classifier × 1, BN statistics: keep" in text


def test_a_run_that_has_reached_no_level_has_a_page(tmp_path):
    folder = write_run(tmp_path / "run", journal=eventful_journal())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"top1": 0.01} if "top1" in row else {}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text, _ = rendered(folder)
    assert "peak, 1.00 %" in text and "top-1 5" not in text
