"""Weights sent to the hub, here a server of this test; the mean of checkpoints against NumPy."""

import base64
import http.server
import json
import os
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from given_weights import random_weights
from tiny import build_tiny_networks
from whole_runs import fine_tuning_config

from efficientnet_pod.cli.main import main
from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.train.train import train_and_evaluate
from efficientnet_pod.weights import convert, hub
from efficientnet_pod.weights.export import export
from efficientnet_pod.weights.open import open_weights
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints
from efficientnet_pod.workdir.workdir import Workdir

TOKEN = "hf_" + "canary" * 5


class Hub(http.server.BaseHTTPRequestHandler):
    """Takes one commit as the hub does; files come inside of it, none by another way."""

    received: dict[str, bytes]
    tokens: set[str]
    status = 200

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.tokens.add(self.headers.get("Authorization", ""))
        place = self.path.partition("?")[0]
        if self.status != 200:
            return self.answer({"error": "You may not write here"}, self.status)
        if place.endswith("/preupload/main"):
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return self.answer({"files": [file | {"shouldIgnore": False} for file in files]})
        if place.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.received[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer({"commitUrl": f"{self.address}/me/b0/commit/0", "commitOid": "0" * 40})
        return self.answer({"url": f"{self.address}/me/b0", "errors": [], "warnings": []})

    def do_GET(self):
        self.answer({"id": "me/b0", "sha": "0" * 40, "siblings": []})

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, table, status=200):
        body = json.dumps(table).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def exported_to_the_hub(source, tmp_path, *, status):
    """Returns the ended command, the files that the server has, and the tokens that it was shown."""
    pytest.importorskip("huggingface_hub")
    handler = type("One", (Hub,), {"received": {}, "tokens": set(), "status": status})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "JAX_PLATFORMS": "cpu",
    }
    arguments = [str(source), f"--out={tmp_path / 'out'}", "--push=hf:me/b0"]
    command = [sys.executable, "-m", "efficientnet_pod", "export", *arguments]
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    finally:
        server.shutdown()
        server.server_close()
    return ended, handler.received, handler.tokens


def test_an_exported_folder_goes_to_the_hub_with_its_card(tmp_path):
    export(random_weights("b0", 3), tmp_path / "w", ["safetensors"])
    (tmp_path / "out").mkdir()
    export(random_weights("b0", 3), tmp_path / "out", ["safetensors"])
    (tmp_path / "out" / "mine.txt").write_text("it stays here")
    ended, received, tokens = exported_to_the_hub(tmp_path / "w", tmp_path, status=200)
    assert ended.returncode == 0, ended.stderr
    assert set(received) == {"model.safetensors", "config.json", "README.md"}
    for name, contents in received.items():
        assert contents == (tmp_path / "out" / name).read_bytes()
    card = received["README.md"].decode()
    assert 'ep.load("hf:me/b0")' in card and 'timm.create_model("hf-hub:me/b0", pretrained=True)' in card
    assert "# b0\n" in card and str(tmp_path) not in card
    assert "sent to http://127.0.0.1" in ended.stdout
    assert tokens == {f"Bearer {TOKEN}"}  # only there
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(TOKEN.encode() in contents for contents in written)
    assert TOKEN not in ended.stdout + ended.stderr


def test_a_token_that_may_not_write_is_one_line(tmp_path):
    export(random_weights("b0", 3), tmp_path / "w", ["safetensors"])
    ended, received, _ = exported_to_the_hub(tmp_path / "w", tmp_path, status=403)
    assert ended.returncode == 2 and not received
    error = ended.stderr.strip().splitlines()[-1]
    assert "hf:me/b0 refuses the files: " in error and "must be one that may write there" in error
    assert TOKEN not in ended.stdout + ended.stderr and "Traceback" not in ended.stderr


def test_a_hub_out_of_reach_is_no_mistake_of_the_user(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    class Nowhere:
        def __init__(self, **options):
            pass

        def create_repo(self, *arguments, **options):
            raise ConnectionError(f"no route with token={TOKEN}")

    monkeypatch.setattr(huggingface_hub, "HfApi", Nowhere)
    with pytest.raises(RunError, match="hf:me/b0 cannot be reached: no route .*; try again") as caught:
        hub.push(tmp_path, ["config.json"], "me/b0")
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("push", "said"),
    [
        ("me/b0", "--push=me/b0 must be hf:OWNER/NAME"),
        ("hf:b0", "--push=hf:b0 must be hf:OWNER/NAME"),
        ("hf:me/b0@main", "must be hf:OWNER/NAME"),
        ("hf:me/b..0", "--push=hf:me/b..0 must be hf:OWNER/NAME: "),
        ("hf:me/b0", "needs a token of the hub that may write; log in with `hf auth login`"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(push, said, tmp_path, capsys, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert main(["export", "w", f"--out={tmp_path / 'out'}", f"--push={push}"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_without_the_package_the_message_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'efficientnet-pod\[hub\]'"):
        hub.require_repository("hf:me/b0")


# The mean of checkpoints


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the workdir of a tiny run of six steps with a checkpoint after every second one."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        build_tiny_networks(patch)
        config = fine_tuning_config() | {"eval_epochs": 240 / 1437, "keep_checkpoints": 3}
        train_and_evaluate(config, str(path))
    return path


@pytest.fixture
def _tiny(monkeypatch):
    build_tiny_networks(monkeypatch)
    convert._shapes.cache_clear()
    yield
    convert._shapes.cache_clear()


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize("raw", [False, True])
def test_the_mean_is_numpys_of_every_tensor_and_statistic(run, raw):
    steps = Checkpoints(Workdir(run).checkpoints).steps
    assert steps == [2, 4, 6]
    ones = [open_weights(str(run), which=str(step), raw=raw).tensors for step in steps]
    found = open_weights(str(run), average=3, raw=raw)
    assert found.tensors.keys() == ones[0].keys() and any("batch_stats" in path for path in ones[0])
    for path, mean in found.tensors.items():
        expected = np.mean([one[path] for one in ones], axis=0, dtype=np.float64)
        np.testing.assert_array_equal(mean, expected.astype(np.float32), err_msg=path)
    assert any((found.tensors[path] != ones[-1][path]).any() for path in ones[-1])
    two = open_weights(str(run), average=2, raw=raw).tensors
    assert not jax.tree.all(jax.tree.map(np.array_equal, two, found.tensors))


@pytest.mark.usefixtures("_tiny")
def test_the_card_says_what_the_mean_is_of_and_claims_no_accuracy_for_it(run, tmp_path):
    assert main(["export", str(run), "--average=3", f"--out={tmp_path / 'w'}"]) == 0
    card = (tmp_path / "w" / "README.md").read_text()
    assert "the mean of steps 2, 4, 6, weights averaged" in card
    assert "; the accuracies here are the run's, not the mean's |" in card
    assert "model-index" not in card and "State digest" not in card


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--average=4"],
            "--average=4 needs 4 checkpoints, and '{run}' keeps those of steps 2, 4, 6; average",
        ),
        (
            ["--average=3", "--checkpoint=4"],
            "--average=3 takes the newest checkpoints, and --checkpoint=4 one",
        ),
        (["--average=0"], "--average=0: it must be a whole number, at least 1"),
    ],
)
def test_too_few_checkpoints_are_one_line(run, arguments, said, tmp_path, capsys):
    assert main(["export", str(run), f"--out={tmp_path / 'w'}", *arguments]) == 2
    error = capsys.readouterr().err
    assert said.format(run=run) in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_file_has_no_checkpoints_to_average(tmp_path, capsys):
    export(random_weights("b0", 3), tmp_path / "w", ["safetensors"])
    assert main(["export", str(tmp_path / "w"), "--average=3", f"--out={tmp_path / 'x'}"]) == 2
    assert "--average=3 is for a run, and '" in capsys.readouterr().err
