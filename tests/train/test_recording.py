"""Files of a training run besides its metrics: which exist, and which skipped images they name."""

import json

import pytest
from recipes import load
from tiny import build_tiny_networks

from efficientnet_pod.data.skips import Skips
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.run import open_run
from efficientnet_pod.train.display import Display
from efficientnet_pod.train.log import TrainingLog
from efficientnet_pod.train.report_files import ReportFiles
from efficientnet_pod.workdir.journal import Journal
from efficientnet_pod.workdir.workdir import Workdir


@pytest.mark.parametrize("name", ["lars", "sgd"])
def test_only_lars_has_a_file_of_trust_ratios(tmp_path, monkeypatch, name):
    build_tiny_networks(monkeypatch)
    config = load("digits.py")
    config["optimizer"]["name"] = name
    run = open_run(read_recipe(config))
    recording = ReportFiles(run, Workdir(tmp_path), resumed_step=0, warn=pytest.fail)
    recording.trust_ratios(3, None)
    recording.rewind(0)
    assert (tmp_path / "mesh.json").exists()
    assert (tmp_path / "trust_ratios.jsonl").exists() == (name == "lars")


def test_images_that_are_skipped_are_told_once_and_not_the_one_too_many(tmp_path, monkeypatch):
    build_tiny_networks(monkeypatch)
    run, workdir = open_run(read_recipe(load("digits.py"))), Workdir(tmp_path)
    with Display(total_steps=1, silent=True) as display:
        log = TrainingLog(run, workdir, display, Journal(workdir, warn=pytest.fail), resumed_step=0)
        for _ in range(2):  # the second time after a rewind
            log.skips = Skips(2, warn=lambda line: None)
            for name in "ab":
                log.skips.add(name, name, "it is empty")
                log.flush()
        log.skips.names.add("c")
        log.flush()
        log.close()
    told = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [(row["kind"], row["name"]) for row in told] == [("skipped_image", "a"), ("skipped_image", "b")]
