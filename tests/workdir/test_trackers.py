"""Trackers: the same run over starts, nothing secret, and a service that fails is one warning."""

import json
import sys
import threading
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.recipe import TRACKERS
from efficientnet_pod.workdir import trackers as trackers_module
from efficientnet_pod.workdir.trackers import _KINDS, Trackers, require_packages
from efficientnet_pod.workdir.workdir import Workdir

CONFIG = {"epochs": 2.0, "notes": ("with token=hunter2hunter2",), "data": {"name": "digits"}}
ROWS = [{"step": step, "split": "train", "loss": 1 / step} for step in (2, 4)]
ROWS += [{"step": 4, "split": "eval", "top1": 0.5}]


def track(name, folder, rows, *, warn=pytest.fail, ended_well=True):
    """Gives rows to a tracker as one start of a run does; returns what it said."""
    said = []
    trackers = Trackers([name], Workdir(folder), CONFIG, say=said.append, warn=warn)
    for row in rows:
        trackers.write(row)
    trackers.close(ended_well=ended_well)
    return said


class FakeWandb(ModuleType):
    """As much of the module as is called, with what it was given."""

    def __init__(self, key="key"):
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None, origin="wandb.py")
        self.api, self.given, self.rows, self.ends = SimpleNamespace(api_key=key), [], [], []

    def Settings(self, **settings):
        return settings

    def init(self, **given):
        self.given.append(given)
        return SimpleNamespace(
            url="https://there/run", log=self.log, define_metric=lambda *_, **__: None, finish=self.finish
        )

    def log(self, row):
        self.rows.append(row)

    def finish(self, exit_code):
        self.ends.append(exit_code)


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb())
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return fake


def test_a_later_start_goes_on_with_the_same_run(tmp_path, wandb):
    assert track("wandb", tmp_path, ROWS, ended_well=False) == ["wandb gets the metrics: https://there/run"]
    track("wandb", tmp_path, [{"step": 6, "split": "train", "loss": 0.1}])
    first, second = wandb.given
    assert first["id"] == second["id"] == json.loads((tmp_path / "trackers.json").read_text())["wandb"]["run"]
    assert first["resume"] == "allow" and first["name"] == tmp_path.name
    assert wandb.rows == [
        {"step": 2, "train/loss": 0.5},
        {"step": 4, "train/loss": 0.25},
        {"step": 4, "eval/top1": 0.5},
        {"step": 6, "train/loss": 0.1},
    ]
    assert wandb.ends == [1, 0]


def test_neither_secrets_nor_output_code_or_machine_are_sent(tmp_path, wandb):
    track("wandb", tmp_path, ROWS)
    (given,) = wandb.given
    assert "hunter2" not in json.dumps(given) and given["config"]["data"] == {"name": "digits"}
    assert given["settings"]["console"] == "off" and given["settings"]["x_disable_meta"]


def test_a_service_that_fails_is_one_warning_without_its_secrets(tmp_path, wandb, monkeypatch):
    warnings = []

    def refuse(row):
        raise OSError("no answer, api_key=hunter2hunter2\nand more")

    monkeypatch.setattr(wandb, "log", refuse)
    track("wandb", tmp_path, ROWS, warn=warnings.append)
    (warning,) = warnings
    assert warning.startswith("warning: wandb no longer gets the metrics: OSError: no answer")
    assert "hunter2" not in warning and "\n" not in warning


def test_nobody_is_asked_for_a_key(tmp_path, wandb, monkeypatch):
    wandb.api.api_key, warnings = None, []
    track("wandb", tmp_path, ROWS, warn=warnings.append)
    assert len(warnings) == 1 and "there is no API key; call wandb login" in warnings[0] and not wandb.given
    monkeypatch.setenv("WANDB_MODE", "offline")
    track("wandb", tmp_path, ROWS)
    assert len(wandb.given) == 1


def test_a_service_that_hangs_keeps_no_run_waiting(tmp_path, wandb, monkeypatch):
    warnings, release = [], threading.Event()
    monkeypatch.setattr(wandb, "log", lambda row: release.wait())
    monkeypatch.setattr(trackers_module, "_CLOSE_SECONDS", 0.2)
    track("wandb", tmp_path, ROWS, warn=warnings.append)
    release.set()
    assert warnings == ["warning: wandb has not taken all rows in 0 s; the rest is left out"]


def test_every_name_has_a_tracker_and_a_missing_package_is_told_with_its_remedy(monkeypatch):
    assert tuple(_KINDS) == TRACKERS
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb())
    require_packages(["wandb"])
    monkeypatch.setattr(trackers_module, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"'mlflow', whose package is not installed; pip install 'eff.*\[mlflow\]'"
    ):
        require_packages(["mlflow"])


def test_a_folder_of_a_trackers_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match="'wandb', whose package is not installed"):
        require_packages(["wandb"])


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "hunter2" * 6)
    for _ in range(2):
        track("wandb", tmp_path, ROWS)
    run = json.loads((tmp_path / "trackers.json").read_text())["wandb"]["run"]
    stored = list(tmp_path.glob(f"wandb/offline-run-*/run-{run}.wandb"))
    # Two starts in the same second have the same folder.
    assert stored and any(b"train/loss" in file.read_bytes() for file in stored)
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == len(stored)  # none is of another run
    assert not any(b"hunter2" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_mlflow_in_a_store_of_files(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", Path(tmp_path / "store").as_uri())
    (tmp_path / "run").mkdir()
    track("mlflow", tmp_path / "run", ROWS, ended_well=False)
    client = mlflow.MlflowClient()
    run = json.loads((tmp_path / "run" / "trackers.json").read_text())["mlflow"]["run"]
    assert client.get_run(run).info.status == "KILLED"
    track("mlflow", tmp_path / "run", [{"step": 6, "split": "train", "loss": 0.1}])
    found = client.get_run(run)
    assert found.info.status == "FINISHED" and found.data.params["data.name"] == "digits"
    assert [(m.step, m.value) for m in client.get_metric_history(run, "train/loss")] == [
        (2, 0.5),
        (4, 0.25),
        (6, 0.1),
    ]
    assert not any(b"hunter2" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
