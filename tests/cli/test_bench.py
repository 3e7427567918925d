"""``bench``: rows of each backend, accuracy, price and DAWNBench's entry; mistakes; what a stop leaves."""

import json
import re
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from given_weights import ANIMALS, random_resnet9
from photos import write_folder
from tiny import KINDS, build_tiny_networks, tiny_form

from efficientnet_pod.cli.main import main
from efficientnet_pod.evaluate import bench as bench_module
from efficientnet_pod.evaluate import latency, overrides
from efficientnet_pod.evaluate.bench import Bench
from efficientnet_pod.evaluate.latency import Timing, compiler_of
from efficientnet_pod.evaluate.predictor import Predictor
from efficientnet_pod.models.initial import initial_variables
from efficientnet_pod.models.registry import NETWORKS, create_network
from efficientnet_pod.pod.runtime import Runtime
from efficientnet_pod.run.metrics import Rates
from efficientnet_pod.weights import trained as trained_module
from efficientnet_pod.weights.folder import write_folder as write_weights
from efficientnet_pod.weights.formats.stablehlo import write_stablehlo
from efficientnet_pod.weights.trained import CENTRE, Trained, untrained


@pytest.fixture(autouse=True)
def _as_many_replicas_as_the_tests_have(monkeypatch):
    monkeypatch.setattr(overrides, "CPU_REPLICAS", 8)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder of weights of a one-block network; its ONNX file is a StableHLO program."""
    build_tiny_networks(monkeypatch)
    trained = Trained("b0", initial_variables(untrained("b0", 3), 32, seed=2), ANIMALS, 32, view=CENTRE)
    folder = tmp_path / "weights"
    write_weights(trained, folder)
    write_stablehlo(trained, folder / "model.onnx")
    return folder, trained


@pytest.fixture
def onnxruntime(monkeypatch):
    """A module that runs such a file."""

    class InferenceSession:
        def __init__(self, file, providers):
            assert providers == ["CPUExecutionProvider"]
            with open(file, "rb") as opened:
                self._program = jax.export.deserialize(bytearray(opened.read()))

        def get_inputs(self):
            return [SimpleNamespace(name="images")]

        def run(self, outputs, inputs):
            assert inputs["images"].dtype == np.float32
            return [np.asarray(self._program.call(inputs["images"].astype(np.uint8)))]

    module = SimpleNamespace(InferenceSession=InferenceSession)
    monkeypatch.setitem(sys.modules, "onnxruntime", module)


def test_each_backend_has_a_row_a_batch_and_its_accuracy(weights, onnxruntime, tmp_path, capsys):
    folder, trained = weights
    photos = write_folder(tmp_path / "photos", {"cat": 5, "cow": 3, "dog": 2})
    files = [tmp_path / "all.json", tmp_path / "entry.json"]
    flags = [f"--data=folder:{photos}", "--split=all", f"--json={files[0]}", f"--dawnbench={files[1]}"]
    flags += ["--batch=4,1,4", "--backend=jax,stablehlo,onnx", "--seconds=0.01"]
    assert main(["bench", str(folder), *flags]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith("EfficientNet-B0, 32 px, float32, on ") and lines[1].endswith(
        "USD for 10,000; top-1 of 10"
    )
    heads = ["backend", "images", "compile", "n", "p50", "p90", "p99", "images/s", "USD"]
    assert re.split("  +", lines[3]) == [*heads, "top-1"] and len(lines) == 12
    rows = [line.split() for line in lines[4:10]]
    assert [row[:2] for row in rows] == [[name, n] for name in ("jax", "stablehlo", "onnx") for n in "14"]
    assert all(row[8] == "–" for row in rows)  # a CPU has no price

    paths = sorted(photos.rglob("*.jpg"))
    found = [np.argmax(p) for _, p in Predictor(trained, batch=4).of_files(list(map(str, paths)))]
    top1 = np.mean([ANIMALS[label] == path.parent.name for label, path in zip(found, paths, strict=True)])
    results = json.loads(files[0].read_text())
    assert [row["accuracy"]["top1"] for row in results["rows"]] == pytest.approx([top1] * 6)
    assert all(row["calls"] >= latency.LEAST_CALLS for row in results["rows"])
    assert results["weights"]["network"] == "b0" and results["device"]["platform"] == "cpu"
    entry = json.loads(files[1].read_text())
    single = [row["latency_ms"]["mean"] for row in results["rows"] if row["images"] == 1]
    assert entry["latency"] == min(single) and entry["top1Accuracy"] == pytest.approx(100 * top1)


@pytest.mark.parametrize("network", [kind for kind in KINDS if kind != "b0"])
def test_programs_of_the_other_kinds_of_networks_compute_the_logits(network, monkeypatch):
    tiny = tiny_form(create_network(network, num_classes=3))
    monkeypatch.setattr(trained_module, "create_network", lambda *_, **__: tiny)
    size = max(32, NETWORKS[network].least_size)
    trained = Trained(network, initial_variables(tiny, size, seed=0), (), size)
    levels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    with compiler_of("stablehlo", trained, "nowhere") as compile_for:
        found = compile_for(2)(levels)
    expected = np.asarray(
        jax.jit(lambda x: tiny.apply(trained.variables, x, train=False))(trained.normalise(levels))
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def bench_of(*timings, kind="TPU v3", platform="tpu"):
    here = Runtime(platform, (), kind, 0, 1)
    return Bench("w", random_resnet9(), here, list(timings))


def test_figures_follow_from_the_calls():
    seconds = tuple(np.random.default_rng(0).permutation(np.arange(1, 101)) / 1000)  # 1 to 100 ms
    rates = Rates(0.5, 0.75, 1.0, 8)
    bench = bench_of(Timing("stablehlo", 1, 3.0, seconds, rates), Timing("jax", 8, 2.0, (0.1,) * 12))
    one, eight = bench.as_json()["rows"]
    assert one["latency_ms"] == pytest.approx(
        {"p50": 50.5, "p90": 90.1, "p99": 99.01, "mean": 50.5, "min": 1, "max": 100}
    )
    assert eight["latency_ms"]["p90"] == 100 and eight["latency_ms"]["p99"] is None
    assert eight["images_per_second"] == pytest.approx(80)
    # A chip of 2 dollars an hour has two cores; 80 images/s take 125 s for 10,000.
    assert eight["usd_per_10000_images"] == pytest.approx(2 / 2 * 125 / 3600)
    entry = bench.as_dawnbench()
    assert entry["latency"] == pytest.approx(50.5) and entry["cost"] == pytest.approx(1 / 3600 * 0.0505)
    assert (entry["top1Accuracy"], entry["top5Accuracy"], entry["misc"]["calls"]) == (75, 100, 100)
    assert entry["framework"].startswith("StableHLO by JAX ") and entry["hardware"] == "1 core of TPU v3"
    assert set(entry) >= {"version", "author", "authorEmail", "model", "timestamp"}
    unpriced = bench_of(Timing("jax", 1, 1.0, seconds), kind="cpu", platform="cpu")
    assert not {"cost", "top1Accuracy"} & set(unpriced.as_dawnbench())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["W", "X"], "bench needs the path of weights, not 2 of them: "),
        ([], "bench needs the path of weights, of a run, a folder or a file; e.g. efficientnet-pod bench"),
        (["W", "--batch=1,0"], "--batch=0: it must be a whole number, at least 1 and at most 65,536"),
        (["W", "--batch=x"], "--batch=x: it must be a whole number"),
        (["W", "--batch="], "--batch names no number of images"),
        (["W", "--backend=jaxx"], "--backend=jaxx is unknown; did you mean"),
        (["W", "--backend=onnx"], "--backend=onnx: onnxruntime is not installed; pip install onnxruntime"),
        (["W", "--seconds=0"], "--seconds=0: it must be at least 0.01"),
        (["W", "--split=all"], "--split says how images are read, and none are named; add --data"),
        (["W", "--batch=8", "--dawnbench=x.json"], "--dawnbench asks for images one at a time; add 1"),
        (["W", "--json=/not/there.json"], "--json=/not/there.json is in a folder that does not exist"),
        (["nowhere"], "'nowhere' does not exist"),
        (["W", "--data=digits"], "tells 3 classes apart and 'digits' has 10"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(weights, capsys, monkeypatch, flags, words):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["bench", *(str(weights[0]) if word == "W" else word for word in flags)]) == 2
    error = capsys.readouterr().err
    last = error.rstrip().rpartition("\n")[2]
    assert last.startswith("efficientnet-pod: ") and words in last and "Traceback" not in error


class XlaRuntimeError(Exception):
    """As XLA raises it."""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "efficientnet-pod: stopped; what is printed stands"),
        (
            XlaRuntimeError("RESOURCE_EXHAUSTED: 9 GB"),
            0,
            "jax, 4 images do not fit the memory; lower --batch=4",
        ),
    ],
)
def test_rows_that_were_measured_are_shown_whatever_comes_after(
    weights, monkeypatch, capsys, tmp_path, error, code, words
):
    def timed(program, levels, *rest):
        if len(levels) > 1:
            raise error
        return real(program, levels, *rest)

    real = latency.timed
    monkeypatch.setattr(bench_module, "timed", timed)
    file = tmp_path / "x.json"
    assert main(["bench", str(weights[0]), "--batch=1,4", "--seconds=0.01", f"--json={file}"]) == code
    printed = capsys.readouterr()
    assert words in printed.err and len(json.loads(file.read_text())["rows"]) == 1
    assert [line.split()[1] for line in printed.out.splitlines() if line.startswith("jax ")] == ["1"]
    assert main(["bench", str(weights[0]), "--batch=4", "--seconds=0.01"]) == (code or 2)
    assert "lower --batch" in capsys.readouterr().err or code == 130
