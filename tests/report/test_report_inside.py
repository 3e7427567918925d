"""The page on a run from inside: goodput, slowest host and trace, by hand; nothing of a run without them."""

import json

import pytest
from report_runs import event, metrics, write_run

from efficientnet_pod.report.figures import shares_of_time
from efficientnet_pod.report.head import head_of
from efficientnet_pod.report.page import read_runs, render
from efficientnet_pod.report.records import read_run_records
from efficientnet_pod.report.sections.inside import profile, slowest_host
from efficientnet_pod.report.side_by_side import run_of
from launch.workdir.progress import read_progress
from launch.workdir.storage import storage_of


def journal():
    """200 s: 20 s compiling, 50 s between two starts of which 10 s of start-up, 130 s of training."""
    return [
        event(0, "start", 0, resumed=False),
        event(20, "compiled", 0, spent={"compiling": 20.0}),
        event(100, "stopped", 50, spent={"training": 80.0}),
        event(150, "start", 50, resumed=True, startup=10.0),
        event(200, "end", 100, spent={"training": 50.0}),
    ]


def test_goodput_is_one_figure_in_the_head_the_shares_and_the_launchers_status(tmp_path):
    folder = write_run(tmp_path / "run", journal=journal())
    records = read_run_records(folder)
    facts = {fact.name: (fact.value, fact.detail) for fact in head_of(run_of(records)).facts}
    assert facts["Goodput"] == (
        "65.0 %",
        "of 3 min 20 s; lost to waiting for machines 20.0 %, compiling 10.0 %, restarting 5.0 %",
    )
    shares, source = shares_of_time(records)
    assert shares == {"training": 130, "compiling": 20, "restarting": 10, "waiting for machines": 40}
    assert source == "by the journal, over all starts"
    assert read_progress(str(folder), storage_of(str(folder))).goodput == pytest.approx(0.65)


def test_the_slowest_host_of_all_rows_is_that_with_most_time(tmp_path):
    """By hand: rows of 100 s. Host 3: 100 × .25 / 1.25 = 20 s; host 1: 100 × .1 / 1.1 = 9.09 s, twice."""
    rows = metrics()
    train = [row for row in rows if row["split"] == "train"]
    for row, (host, share, of_input) in zip(
        train, [(3, 0.25, 0.9), (1, 0.1, 0.0), (1, 0.1, 0.0)], strict=False
    ):
        row |= {"slowest_host": host, "slowest_host_share": share, "slowest_host_input": of_input}
    text, table = slowest_host(run_of(read_run_records(write_run(tmp_path, metrics=rows))))
    # Three rows of 100 s have it: 20 / (300 - 20).
    assert text.text == "Steps took 7.1 % longer for the sake of host 3; the reason is its input."
    assert [row[1:] for row in table.table.rows] == [
        ["3", "+25.0 %", "its input"],
        ["1", "+10.0 %", "its own work"],
        ["1", "+10.0 %", "its own work"],
    ]


def traced(folder, **fields):
    operation = {"name": "convolution", "calls": 16, "seconds": 3.0}
    trace = {"first": 4, "last": 5, "host": 0, "file": "plugins/profile/now/vm.xplane.pb", "seconds": 4.0}
    trace |= {"kinds": [operation], "operations": [operation | {"name": "convolution.7"}]} | fields
    (folder / "profile").mkdir()
    (folder / "profile" / "traces.json").write_text(json.dumps({"traces": [trace]}))
    return run_of(read_runs([folder])[0])


def test_a_trace_is_linked_with_its_longest_operations(tmp_path):
    run = traced(write_run(tmp_path / "run"))
    trace, how, kinds, single = profile(run, is_linked=True)
    assert trace.link == "profile/plugins/profile/now/" and "steps 4 to 5 of host 0" in trace.text
    assert f"--logdir={tmp_path}/run/profile" in how.text
    assert kinds.rows == [["convolution", "16", "3", "75.0 %"]] and single.table.rows[0][0] == "convolution.7"
    assert 'href="profile/plugins/profile/now/"' in render([run])
    assert profile(run, is_linked=False)[0].link == ""


@pytest.mark.parametrize(
    "file", ["javascript:alert(1)", "plugins/profile/../../x", "//there/x", "plugins/profile/a b/c"]
)
def test_a_foreign_trace_leads_nowhere(tmp_path, file):
    assert profile(traced(write_run(tmp_path / "run"), file=file), is_linked=True)[0].link == ""


def test_a_trace_that_failed_says_so_and_without_one_there_is_no_section(tmp_path):
    run = traced(write_run(tmp_path / "failed"), file="", error="RuntimeError: no")
    assert [text.text for text in profile(run, is_linked=True)] == [
        "No trace of steps 4 to 5: RuntimeError: no"
    ]
    page = render([run_of(read_run_records(write_run(tmp_path / "plain")))])
    assert ">Profile<" not in page and ">Slowest host<" not in page and "Goodput" not in page
