"""The command ``report``: what it writes, mistakes, following a run, and the report at the end of one."""

import json

import pytest
from report_runs import event, metrics, summary, write_run

from efficientnet_pod.cli import report as report_command
from efficientnet_pod.cli.main import main
from efficientnet_pod.cli.report import run_report
from efficientnet_pod.report import page
from efficientnet_pod.train import train
from efficientnet_pod.workdir.owner import Owner
from efficientnet_pod.workdir.workdir import Workdir


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_page_of_one_run_is_in_its_workdir_and_of_several_here(tmp_path, capsys):
    for name in ("a", "b"):
        write_run(tmp_path / name)
    assert main(["report", "a"]) == 0
    assert capsys.readouterr().out == "the report is a/report.html\n"
    assert "7 min 21 s" in (tmp_path / "a/report.html").read_text()
    assert main(["report", "a", "b"]) == 0 and (tmp_path / "report.html").exists()
    assert main(["report", "a", "--out", "c.html", "b"]) == 0 and (tmp_path / "c.html").exists()


def test_exports_are_written_beside_the_page(tmp_path):
    write_run(tmp_path / "a")
    assert main(["report", "a", "--dawnbench=d.tsv", "--mlperf=m.log"]) == 0
    assert len((tmp_path / "d.tsv").read_text().splitlines()) == 5
    assert (tmp_path / "m.log").read_text().startswith(":::MLLOG {")
    assert main(["report", "a", "--dawnbench=d.json"]) == 0
    assert json.loads((tmp_path / "d.json").read_text())["version"] == "v1.0"


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "report needs the workdir of a run, or several, e.g."),
        (["nowhere"], "workdir 'nowhere' is not there; give the folder that train"),
        (["empty"], "no run in 'empty': it has none of config.json"),
        (["a/config.json"], "workdir 'a/config.json' is a file, no folder"),
        (["a", "b", "--mlperf=m.log"], "--mlperf is of one run, not of 2; give one workdir"),
        (["a", "--dawnbench=d.txt"], "--dawnbench=d.txt must end in .tsv or .json"),
        (
            ["a", "--out=no/such/folder.html"],
            "--out=no/such/folder.html is in a folder that does not exist; make",
        ),
        (["a", "--folow"], "folow"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(tmp_path, capsys, arguments, words):
    for name in ("a", "b"):
        write_run(tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("efficientnet-pod: ") and error.count("\n") == 1


def test_following_ends_with_the_run(tmp_path, capsys, monkeypatch):
    folder = write_run(tmp_path / "a", summary=None, metrics=metrics()[:2])
    out, pages, owner = folder / "report.html", [], Owner(folder)

    def goes_on(_: float) -> None:
        pages.append(out.read_text())
        out.write_text("not written anew")
        if len(pages) == 2:
            write_run(folder, metrics=metrics()[:4], summary=None)
        if len(pages) == 3:
            write_run(folder)
            owner.release()

    monkeypatch.setattr(report_command, "sleep", goes_on)
    with owner:
        assert run_report(["a", "--follow"]) == 0
    assert 'http-equiv="refresh"' in pages[0] and "at step 25 of 100" in pages[0]
    assert pages[1] == "not written anew"  # nothing had changed
    assert "at step 50 of 100" in pages[2]
    last = out.read_text()
    assert "Complete after 100 steps." in last and 'http-equiv="refresh"' not in last
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "following; the report is a/report.html, Ctrl-C ends this",
        "no run is in progress any more; the report is a/report.html",
    ]


def test_ctrl_c_ends_following_with_a_page_that_stays(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "a", summary=None, journal=[event(0, "start")])

    def interrupted(_: float) -> None:
        assert 'http-equiv="refresh"' in (folder / "report.html").read_text()
        raise KeyboardInterrupt

    monkeypatch.setattr(report_command, "sleep", interrupted)
    with Owner(folder):
        assert main(["report", "a", "--follow"]) == 130
    left = (folder / "report.html").read_text()
    assert "In progress since" in left and 'http-equiv="refresh"' not in left


def test_a_run_elsewhere_is_followed_as_long_as_it_beats(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "a", summary=None)
    now = 0.0

    def write_beat(beat: int) -> None:
        (folder / "owner.json").write_text(json.dumps({"host": "elsewhere", "since": "today", "beat": beat}))

    def goes_on(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now < 300:
            write_beat(int(now // 10))

    write_beat(0)
    monkeypatch.setattr(report_command, "sleep", goes_on)
    monkeypatch.setattr(report_command, "monotonic", lambda: now)
    assert run_report(["a", "--follow"]) == 0
    assert 350 <= now <= 365
    assert "its process ended without a word" in (folder / "report.html").read_text()


class Lines:
    def __init__(self):
        self.said: list[str] = []

    def print(self, text):
        self.said.append(text)

    warn = print


def test_a_run_ends_with_its_report_and_never_because_of_it(tmp_path, monkeypatch):
    folder, lines = write_run(tmp_path / "a", summary=summary()), Lines()
    workdir = Workdir(folder)
    train._write_report(workdir, lines)  # pyright: ignore
    assert lines.said == [f"the report is {folder}/report.html"]
    assert "Complete after 100 steps." in (folder / "report.html").read_text()

    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("drawing")

    monkeypatch.setattr(page, "render", fails)
    lines.said.clear()
    train._write_report(workdir, lines)  # pyright: ignore
    assert lines.said == [
        f"warning: {folder}/report.html was not written: ZeroDivisionError: drawing; "
        f"efficientnet-pod report {folder}"
    ]
