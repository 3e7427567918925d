"""What the report page reads beside the metrics: mesh, trust ratios, and what each image was taken for."""

import json
import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tensorflow as tf
from recipes import load
from tiny import build_tiny_networks

from efficientnet_pod.data.bad_images import Skips
from efficientnet_pod.data.png import encode_png
from efficientnet_pod.evaluate import confusions as predictions
from efficientnet_pod.evaluate.confusions import MOST_CONFUSIONS, SAMPLES, Findings, write_predictions
from efficientnet_pod.pod.mesh import create_mesh, to_global
from efficientnet_pod.recipe.recipe import read_recipe
from efficientnet_pod.run.metrics import Predictions, predict
from efficientnet_pod.run.run import open_run
from efficientnet_pod.train.display import Display
from efficientnet_pod.train.log import TrainingLog
from efficientnet_pod.train.recording import Recording, mesh_table
from efficientnet_pod.workdir import json_lines as soft_files
from efficientnet_pod.workdir import trust_ratios
from efficientnet_pod.workdir.journal import Journal
from efficientnet_pod.workdir.trust_ratios import TrustRatiosLog
from efficientnet_pod.workdir.workdir import Workdir

# mesh.json


def test_the_mesh_is_its_groups_with_the_places_of_chips():
    def device(number, **place):
        return SimpleNamespace(id=number, **place)

    plain = np.array([[device(0), device(1)], [device(2), device(3)]])
    nowhere = {"coords": None, "core": None}
    assert mesh_table(plain) == {
        "bn_group_size": 2,
        "groups": [[{"id": i} | nowhere for i in (0, 1)], [{"id": i} | nowhere for i in (2, 3)]],
    }
    chips = np.array([[device(5, coords=(1, 2, 0), core_on_chip=1)]])
    table = json.loads(json.dumps(mesh_table(chips)))
    assert table == {"bn_group_size": 1, "groups": [[{"id": 5, "coords": [1, 2, 0], "core": 1}]]}


# trust_ratios.jsonl


def ratios_log(folder, step, report=pytest.fail, tensors=("a/kernel", "b/kernel")):
    return TrustRatiosLog(Workdir(folder), tensors, resumed_step=step, report=report)


def rows(folder):
    return [json.loads(line) for line in (folder / "trust_ratios.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("is_remote", [False, True])
def test_trust_ratios_of_steps_made_again_are_dropped(tmp_path, monkeypatch, is_remote):
    for module in (trust_ratios, soft_files):
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
    report = []
    log = ratios_log(tmp_path / "gone", 0, report.append)
    log.write(3, np.float32([1, 1]))
    log.drop_after(0)
    assert len(report) == 1 and "trust_ratios.jsonl' is not written: No such file" in report[0]


@pytest.mark.parametrize("name", ["lars", "sgd"])
def test_only_lars_has_a_file_of_trust_ratios(tmp_path, monkeypatch, name):
    build_tiny_networks(monkeypatch)
    config = load("digits.py")
    config["optimizer"]["name"] = name
    run = open_run(read_recipe(config))
    recording = Recording(run, Workdir(tmp_path), resumed_step=0, report=pytest.fail)
    recording.trust_ratios(3, None)
    recording.rewind(0)
    assert (tmp_path / "mesh.json").exists()
    assert (tmp_path / "trust_ratios.jsonl").exists() == (name == "lars")


def test_images_that_are_skipped_are_told_once_and_not_the_one_too_many(tmp_path, monkeypatch):
    build_tiny_networks(monkeypatch)
    run, workdir = open_run(read_recipe(load("digits.py"))), Workdir(tmp_path)
    with Display(total_steps=1, silent=True) as display:
        log = TrainingLog(run, workdir, display, Journal(workdir, report=pytest.fail), resumed_step=0)
        for _ in range(2):  # the second time after a rewind
            log.skips = Skips(2, report=lambda line: None)
            for name in "ab":
                log.skips.add(name, name, "it is empty")
                log.flush()
        log.skips.names.add("c")
        log.flush()
        log.close()
    told = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [(row["kind"], row["name"]) for row in told] == [("skipped_image", "a"), ("skipped_image", "b")]


# predictions.json

CLASSES = 30


def found(images=150, *, padded=160, seed=0, size=16):
    """Returns batches of a host, the last one padded, their logits, and findings that have taken them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, padded).astype(np.int32)
    logits = rng.normal(size=(padded, CLASSES)).astype(np.float32)
    logits[np.arange(padded), labels] += 2.0
    batch = {
        "image": rng.integers(0, 256, (padded, size, size, 3)).astype(np.uint8),
        "label": labels,
        "mask": np.float32(np.arange(padded) < images),
    }
    mesh, findings = create_mesh(jax.devices(), 2), Findings(CLASSES)
    on_devices = jax.jit(predict)
    for half in (slice(None, padded // 2), slice(padded // 2, None)):
        part = {name: array[half] for name, array in batch.items()}
        placed = on_devices(to_global({"": logits[half]}, mesh)[""])
        findings.add(part, placed)
    return batch, logits, findings


def test_confusions_and_hits_are_numpys_without_padding(tmp_path):
    batch, logits, findings = found()
    labels, predicted = batch["label"][:150], np.argmax(logits[:150], axis=1)
    table = np.zeros((CLASSES, CLASSES), int)
    np.add.at(table, (labels, predicted), 1)
    pairs = findings.merged(150)
    write_predictions(
        Workdir(tmp_path), pairs, findings.samples(), step=9, class_names=(), report=pytest.fail
    )
    written = json.loads((tmp_path / "predictions.json").read_text())
    assert (written["step"], written["classes"]) == (9, None)
    per_class = [[label, int(row.sum()), int(row[label])] for label, row in enumerate(table) if row.any()]
    assert written["per_class"] == per_class
    off = [[i, j, int(table[i, j])] for i, j in zip(*np.nonzero(table), strict=True) if i != j]
    assert sorted(written["confusions"]) == sorted(map(list, off)) and off
    counts = [count for *_, count in written["confusions"]]
    assert counts == sorted(counts, reverse=True)
    with pytest.raises(RuntimeError, match="predictions of 150 images in an evaluation of 151"):
        findings.merged(151)


def test_the_most_frequent_confusions_are_kept(tmp_path):
    pairs = predictions.Pairs({(i, j): i + j for i in range(20) for j in range(20) if i + j})
    write_predictions(Workdir(tmp_path), pairs, (), step=1, class_names=("a",), report=pytest.fail)
    written = json.loads((tmp_path / "predictions.json").read_text())
    assert written["classes"] == ["a"]
    confusions = written["confusions"]
    assert len(confusions) == MOST_CONFUSIONS and all(label != other for label, other, _ in confusions)
    assert confusions[0] == [18, 19, 37] and confusions[-1][2] == 19


def test_samples_are_the_first_images_half_of_them_mistaken_as_the_network_saw_them(tmp_path):
    batch, logits, findings = found()
    samples = findings.samples()
    write_predictions(
        Workdir(tmp_path), findings.merged(150), samples, step=9, class_names=(), report=pytest.fail
    )
    written = json.loads((tmp_path / "predictions.json").read_text())["samples"]
    wrong, right, seen = [], [], set()
    for i in range(150):  # one of each class: there are more than there are samples
        label, is_right = int(batch["label"][i]), np.argmax(logits[i]) == batch["label"][i]
        if (label, is_right) not in seen:
            (right if is_right else wrong).append(i)
            seen.add((label, is_right))
    chosen = (wrong[:12] + right)[:SAMPLES]
    assert len(written) == SAMPLES == len(list((tmp_path / "samples").iterdir()))
    for number, (sample, i) in enumerate(zip(written, chosen, strict=True)):
        assert sample["image"] == f"samples/{number:03}.png" and sample["label"] == batch["label"][i]
        shown = tf.io.decode_png((tmp_path / sample["image"]).read_bytes()).numpy()
        np.testing.assert_array_equal(shown, batch["image"][i])
        probabilities = np.exp(np.float64(logits[i])) / np.sum(np.exp(np.float64(logits[i])))
        best = np.argsort(-probabilities)[:3]
        assert [label for label, _ in sample["predicted"]] == best.tolist()
        np.testing.assert_allclose([p for _, p in sample["predicted"]], probabilities[best], atol=2e-6)


def test_where_few_are_right_more_of_the_wrong_are_shown():
    labels = np.arange(40, dtype=np.int32) % 20
    classes = np.where(labels == 3, 3, 4)[:, None].astype(np.int32)  # the network knows 3 and says 4
    batch = {"image": np.zeros((40, 2, 2, 3)), "label": labels, "mask": np.ones(40, np.float32)}
    placed = to_global({"c": classes, "p": np.ones((40, 1), np.float32)}, create_mesh(jax.devices(), 1))
    findings = Findings(20)
    findings.add(batch, Predictions(placed["c"], placed["p"]))
    samples = findings.samples()
    assert len(samples) == SAMPLES
    assert sum(sample.is_right for sample in samples) == 4  # two of each class, of 3 and 4


def test_a_png_is_rounded_and_made_smaller_but_never_larger():
    levels = np.linspace(-20, 300, 7 * 5 * 3).reshape(7, 5, 3).astype(np.float32)
    shown = tf.io.decode_png(encode_png(levels, longest_side=128)).numpy()
    np.testing.assert_array_equal(shown, np.clip(np.round(levels), 0, 255).astype(np.uint8))
    half = jax.numpy.full((100, 300, 3), 77, "bfloat16")
    shown = tf.io.decode_png(encode_png(np.asarray(half), longest_side=128)).numpy()
    assert shown.shape == (43, 128, 3) and (shown == 77).all()


def test_predictions_that_cannot_be_written_are_one_warning(tmp_path):
    (tmp_path / "samples").write_text("a file where the folder should be")
    _, _, findings = found(images=20)
    report = []
    write_predictions(
        Workdir(tmp_path),
        findings.merged(20),
        findings.samples(),
        step=9,
        class_names=(),
        report=report.append,
    )
    assert len(report) == 1 and "predictions.json' is not written" in report[0]
