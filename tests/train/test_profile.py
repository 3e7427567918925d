"""Traces of a run: of the steps that were asked for, without a change of its numbers, and never its end."""

import json
import time

import jax
import pod_processes
import pytest
from recipes import load
from tiny import build_tiny_networks

from efficientnet_pod.cli.main import main
from efficientnet_pod.pod import inject
from efficientnet_pod.pod.trace import Operation, Span, kinds_of, operations_in, operations_of
from efficientnet_pod.train import train
from efficientnet_pod.train.train import train_and_evaluate
from efficientnet_pod.workdir import trackers
from efficientnet_pod.workdir.profile import ProfileFolder, traces_in
from efficientnet_pod.workdir.workdir import Workdir


def config(**fields):
    """Six steps of 120 images."""
    short = {"global_batch": 120, "epochs": 0.5, "eval_epochs": 1.0, "log_steps": 3} | fields
    config = load("digits.py") | short
    config["schedule"]["warmup_epochs"] = 0.25
    config["data"]["image_size"] = 16
    return config


@pytest.fixture(scope="module", autouse=True)
def _tiny_network():
    patch = pytest.MonkeyPatch()
    build_tiny_networks(patch)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def untraced(tmp_path_factory):
    return train_and_evaluate(config(), str(tmp_path_factory.mktemp("untraced")))


def traces_of(workdir):
    return ProfileFolder(Workdir(workdir)).traces()


def steps_in(file):
    """Returns the numbers of the steps that viewers show."""
    planes = jax.profiler.ProfileData.from_file(str(file)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events]
    return sorted(dict(event.stats)["step_num"] for event in events if event.name == "train")


def test_the_steps_of_the_recipe_are_traced_and_no_number_changes(tmp_path, untraced, capsys):
    summary = train_and_evaluate(config(profile="4:5"), str(tmp_path))
    assert summary["state_digest"] == untraced["state_digest"]
    (trace,) = traces_of(tmp_path)
    file = tmp_path / "profile" / trace.file
    assert (trace.first, trace.last, trace.host, trace.error) == (4, 5, 0, "") and steps_in(file) == [4, 5]
    assert trace.file.startswith("plugins/profile/") and trace.file.endswith(".xplane.pb")
    names = {operation["name"] for operation in trace.operations}
    assert trace.seconds > 0 and names <= {operation.name for operation in operations_in(file)}
    # Eight devices ran each operation of the step in both steps.
    assert any(operation["calls"] == 16 for operation in trace.operations), trace.operations
    page = (tmp_path / "report.html").read_text()
    assert f"profile/{trace.file}" in page and trace.kinds[0]["name"] in page
    assert "steps 4 to 5 are traced" in capsys.readouterr().out


def test_a_run_that_is_past_the_steps_or_ends_before_them_has_no_trace(tmp_path, capsys):
    train_and_evaluate(config(profile="7:9"), str(tmp_path / "short"))
    assert not traces_of(tmp_path / "short")
    assert "config.profile=7:9 is after the last step, 6" in capsys.readouterr().out
    train_and_evaluate(config(profile="6:9"), str(tmp_path / "cut"))
    (trace,) = traces_of(tmp_path / "cut")
    assert (trace.first, trace.last) == (6, 6)


def test_a_trace_that_cannot_be_taken_is_a_warning(tmp_path, untraced, monkeypatch, capsys):
    def refuse(*_, **__):
        raise RuntimeError("Profile has already been started.")

    monkeypatch.setattr(jax.profiler, "start_trace", refuse)
    summary = train_and_evaluate(config(profile="2:3"), str(tmp_path))
    assert summary["state_digest"] == untraced["state_digest"]
    assert "there is no trace of steps 2 to 3: RuntimeError: Profile has already" in capsys.readouterr().out
    assert [trace.error[:12] for trace in traces_of(tmp_path)] == ["RuntimeError"]


def test_a_running_run_is_asked_and_the_request_of_another_run_is_dropped(tmp_path, untraced, monkeypatch):
    folder, asked, passed = ProfileFolder(Workdir(tmp_path)), [], inject.at

    def at(point, step=None):
        passed(point, step)
        if point == "step" and step in (2, 3):
            run_id = json.loads((tmp_path / "owner.json").read_text())["run_id"] if step == 3 else "another"
            asked.append(folder.ask(run_id, 2))
            while folder.request():
                time.sleep(0.05)
            time.sleep(0.5)

    monkeypatch.setattr(inject, "at", at)
    summary = train_and_evaluate(config(), str(tmp_path))
    assert summary["state_digest"] == untraced["state_digest"]
    (trace,) = traces_of(tmp_path)
    assert trace.request == asked[1].id and (trace.first, trace.last) == (3, 4)


def test_the_command_asks_a_run_on_two_hosts_and_refuses_where_none_runs(tmp_path, capsys):
    assert main(["profile", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert "no run is in progress in" in error and "--config.profile=200:210" in error
    with pod_processes.Training(tmp_path / "run", steps=400, hosts=2, eval_epochs=50.0) as training:
        training.wait_for("step 3")
        assert main(["profile", str(tmp_path / "run"), "--steps=2"]) == 0
        printed = capsys.readouterr().out
        assert printed.count("\n") == 1 and "are traced in" in printed and "longest operations: " in printed
    (trace,) = traces_of(tmp_path / "run")
    assert trace.last == trace.first + 1 and steps_in(tmp_path / "run" / "profile" / trace.file)
    assert main(["profile", str(tmp_path / "run")]) == 2  # it was killed, and owner.json is there


def test_a_tracker_gets_the_rows_and_one_that_fails_changes_nothing(tmp_path, untraced, monkeypatch, capsys):
    class Broken:
        run_id = place = "here"

        def __init__(self, tracked):
            got.append(tracked.config["global_batch"])

        def write(self, step, scalars):
            got.append((step, sorted(scalars)[0]))
            if len(got) == 4:
                raise OSError("the service is gone")

    got = []
    monkeypatch.setitem(trackers._KINDS, "wandb", Broken)
    monkeypatch.setattr(train, "require_packages", lambda names: got.extend(names))
    summary = train_and_evaluate(config(trackers=("wandb",)), str(tmp_path))
    assert summary["state_digest"] == untraced["state_digest"]
    assert got == ["wandb", 120, (3, "train/epoch"), (6, "train/epoch")]
    assert (
        capsys.readouterr().out.count("wandb no longer gets the metrics: OSError: the service is gone") == 1
    )


def test_a_damaged_list_or_request_is_none(tmp_path):
    assert traces_in(b"{") == traces_in(None) == traces_in(b'{"traces": [3, {}, {"first": "x"}]}') == []
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "request.json").write_text('{"steps": -3, "run_id": 4')
    assert ProfileFolder(Workdir(tmp_path)).request().steps == 0


def test_an_operation_has_its_own_time_without_those_inside_it():
    """By hand: a loop of 10 s with 2 × 3 s of a body inside, then 1 s of the body; on two devices."""
    body = [Span(1e9, 4e9, "body.1", "p"), Span(5e9, 8e9, "body.1", "p"), Span(11e9, 12e9, "body.2", "p")]
    found = operations_of([[Span(0, 10e9, "while", "p"), *body], body[2:]])
    assert found == [
        Operation("body.1", "p", 2, 6.0),
        Operation("while", "p", 1, 4.0),
        Operation("body.2", "p", 2, 2.0),
    ]
    assert kinds_of(found) == [Operation("body", "", 4, 8.0), Operation("while", "", 1, 4.0)]
