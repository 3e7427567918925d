"""The formats of two benchmarks, parsed back."""

import json

import pytest
from report_runs import eventful_journal, metrics, plan, summary, write_run

from efficientnet_pod.report.exports import dawnbench_json, dawnbench_tsv, mlperf_log
from efficientnet_pod.report.records import read_run_records


def test_dawnbench_tsv_has_a_line_for_each_evaluation(tmp_path):
    lines = dawnbench_tsv(read_run_records(write_run(tmp_path))).splitlines()
    assert lines[0].split("\t") == ["epoch", "hours", "top1Accuracy", "top5Accuracy"]
    rows = [[float(value) for value in line.split("\t")] for line in lines[1:]]
    assert rows[0] == pytest.approx([2.5, 110 / 3600, 50, 80])
    assert rows[2] == pytest.approx([7.5, 330 / 3600, 95, 99]) and len(rows) == 4


def test_dawnbench_json_has_both_readings_of_the_hours_and_the_price_of_one(tmp_path):
    devices = {"count": 1024, "kind": "TPU v3"}
    folder = write_run(tmp_path, summary=summary(devices=devices), journal=eventful_journal())
    entry = json.loads(dawnbench_json(read_run_records(folder)))
    assert entry["version"] == "v1.0" and entry["costPerHour"] == 1024
    assert entry["timestamp"] == "2026-11-25" and entry["model"] == "EfficientNet-B0"
    assert entry["hardware"] == "1,024 devices of kind TPU v3, 512 chips, 1 host"
    assert entry["misc"]["hoursToPeak"] == pytest.approx(330 / 3600)
    assert entry["misc"]["hoursToPeakWithoutEvaluation"] == pytest.approx(300 / 3600)
    assert "costPerHour" not in json.loads(dawnbench_json(read_run_records(write_run(tmp_path / "cpu"))))


def events(text):
    lines = text.splitlines()
    assert all(line.startswith(":::MLLOG {") for line in lines)
    return [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]


def test_mlperf_log_has_the_run_its_settings_and_each_evaluation(tmp_path):
    recipe = plan()["recipe"] | {
        "optimizer": {"name": "lars", "momentum": 0.9, "weight_decay": 1e-5, "epsilon": 0.0},
        "schedule": {"warmup_epochs": 3.0, "power": 2.0, "end_lr": 0.0},
        "seed": 7,
    }
    folder = write_run(tmp_path, plan=plan(recipe=recipe, peak_lr=0.4, bn_batch=50))
    found = events(mlperf_log(read_run_records(folder)))
    values = {each["key"]: each["value"] for each in found}
    assert values["global_batch_size"] == 100 and values["opt_name"] == "lars" and values["seed"] == 7
    assert values["opt_base_learning_rate"] == values["lars_opt_base_learning_rate"] == 0.4
    assert values["model_bn_span"] == 50 and values["lars_opt_learning_rate_decay_poly_power"] == 2
    accuracies = [each for each in found if each["key"] == "eval_accuracy"]
    assert [(each["value"], each["time_ms"]) for each in accuracies] == [
        (0.5, 110_000),
        (0.8, 220_000),
        (0.95, 330_000),
        (0.9, 440_000),
    ]
    assert [each["metadata"]["epoch_num"] for each in accuracies] == [2.5, 5, 7.5, 10]
    epochs = [each["time_ms"] for each in found if each["key"].startswith("epoch_")]
    assert epochs == [0, 100_000, 110_000, 210_000, 220_000, 320_000, 330_000, 430_000]
    times = [each["time_ms"] for each in found]
    assert times == sorted(times)
    assert found[-1]["key"] == "run_stop" and found[-1]["metadata"]["status"] == "success"
    assert {each["event_type"] for each in found} == {"POINT_IN_TIME", "INTERVAL_START", "INTERVAL_END"}


def test_mlperf_log_of_a_run_that_is_not_complete(tmp_path):
    records = read_run_records(
        write_run(tmp_path, summary=None, metrics=metrics()[:4], journal=eventful_journal()[:10])
    )
    found = events(mlperf_log(records))
    assert found[-1]["metadata"]["status"] == "aborted"
    # By the calendar, where there is a journal.
    assert found[-1]["time_ms"] == 1795568400000 + 220_000
