"""trust_ratios.jsonl: each step once, whatever cut a start short, and read back as it was written."""

import json
import math

import jax
import numpy as np
import pytest

from efficientnet_pod.workdir import json_lines, trust_ratios
from efficientnet_pod.workdir.json_lines import parse_lines
from efficientnet_pod.workdir.trust_ratios import TrustRatiosLog, read_trust_ratios
from efficientnet_pod.workdir.workdir import Workdir


def ratios_log(folder, step, warn=pytest.fail, tensors=("a/kernel", "b/kernel")):
    return TrustRatiosLog(Workdir(folder), tensors, resumed_step=step, warn=warn)


def rows(folder):
    return [json.loads(line) for line in (folder / "trust_ratios.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("is_remote", [False, True])
def test_trust_ratios_of_steps_made_again_are_dropped(tmp_path, monkeypatch, is_remote):
    for module in (trust_ratios, json_lines):
        monkeypatch.setattr(module, "is_remote", lambda path: is_remote)
    log = ratios_log(tmp_path, 0)
    for step in (3, 6, 9):
        log.write(step, np.float32([step / 3, 1e-3]))
        assert len(rows(tmp_path)) == (1 if is_remote else 1 + step / 3)  # where it is sent all at once
    log.drop_after(6)  # a rewind
    log.flush()
    header, *kept = rows(tmp_path)
    assert header == {"tensors": ["a/kernel", "b/kernel"]}
    assert kept == [{"step": 3, "ratios": [1.0, 0.001]}, {"step": 6, "ratios": [2.0, 0.001]}]
    with (tmp_path / "trust_ratios.jsonl").open("a") as torn:
        torn.write('{"step": 9, "rat')
    log = ratios_log(tmp_path, 5)  # a start after a kill
    log.write(6, jax.numpy.asarray([0.25, 0.5]))
    log.flush()
    assert rows(tmp_path) == [header, kept[0], {"step": 6, "ratios": [0.25, 0.5]}]


def test_trust_ratios_that_json_cannot_hold_and_of_no_tensors_are_left_out(tmp_path):
    log = ratios_log(tmp_path, 0)
    log.write(3, np.float32([1.0, math.inf]))
    assert len(rows(tmp_path)) == 1
    ratios_log(tmp_path / "none", 0, tensors=()).write(3, np.float32([]))
    assert not (tmp_path / "none").exists()


def test_trust_ratios_that_cannot_be_written_are_one_warning(tmp_path):
    warnings = []
    log = ratios_log(tmp_path / "gone", 0, warnings.append)
    log.write(3, np.float32([1, 1]))
    log.drop_after(0)
    assert len(warnings) == 1 and "trust_ratios.jsonl' is not written: No such file" in warnings[0]


def test_trust_ratios_are_read_as_they_were_written(tmp_path):
    written = np.float32([[1.0, 0.1], [2.5e-5, 3.0]])
    log = ratios_log(tmp_path, 0)
    for step, ratios in zip((3, 6), written, strict=True):
        log.write(step, ratios)
    rows, damaged = parse_lines((tmp_path / "trust_ratios.jsonl").read_bytes())
    ratios = read_trust_ratios(rows)
    assert ratios and not damaged
    assert (ratios.tensors, ratios.steps) == (("a/kernel", "b/kernel"), (3, 6))
    np.testing.assert_array_equal(ratios.ratios.astype(np.float32), written)
