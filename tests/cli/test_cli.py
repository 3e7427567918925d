"""What a person gets who mistypes: one line, the remedy, exit code 2."""

import io
import json
import resource
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from photos import write_folder
from recipes import CONFIGS, load

from efficientnet_pod.cli import host, plan, predict
from efficientnet_pod.cli.flags import parse_flags
from efficientnet_pod.cli.main import main, run
from efficientnet_pod.errors import Preempted, RunError
from efficientnet_pod.pod import output
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.train import train
from efficientnet_pod.workdir.files import write_result
from efficientnet_pod.workdir.workdir import Workdir

DIGITS = "--config=configs/digits.py"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["train", DIGITS], "train needs --workdir"),
        (
            ["train", "--workdir=/tmp/not-there"],
            "train needs --config, e.g. --config=digits, for '/tmp/not-there' has no config.json",
        ),
        (["train"], "train needs --config, e.g. --config=digits\n"),
        (["train", "--config.epochs=3", "--workdir=configs"], "for 'configs' has no config.json"),
        (["plan", "--config.epochs=3"], "plan needs --config, e.g. --config=digits\n"),
        (["train", DIGITS, "--workdir="], "the path of the workdir is empty"),
        (["train", DIGITS, "--workdir=~nobody-here/x"], "'~nobody-here' has no home folder"),
        (["train", DIGITS, "--workdir=gs:/bucket/x"], "'gs:/bucket/x' is no path of a known kind"),
        (["train", "--config=configs/digit.py", "--workdir=x"], "configs/digit.py"),
        (["plan", DIGITS, "--config.epoks=3"], "epochs"),
        (["plan", DIGITS, "--config.optimizer.nmae=sgd"], "name"),
        (["plan", DIGITS, "--config.epochs=many"], "many"),
        (
            ["plan", DIGITS, "--config.optimizer.name.x=3"],
            "config.optimizer.name has no field 'x'",
        ),
        (["plan", DIGITS, "--config.optimizer.name=adam"], "optimizer.name='adam' is unknown; "),
        (["plan", DIGITS, "--config.data.name=digit"], "did you mean 'digits'?"),
        (["plan", DIGITS, "--config.global_batch=100"], "--config.global_batch="),
        (["plan", DIGITS, "--replica=3"], "replicas"),
        (["plan", DIGITS, "digits"], "'digits' is not a flag"),
        (["plan", "--config=configs/supercomputer.py:b5"], "known: b2,4096,rmsprop"),
        (["data", "descirbe"], "unknown command 'data descirbe'; did you mean 'describe'?"),
        (["data", "describe"], "data describe needs --config"),
        (["data", "describe", DIGITS, "--check=none"], "--check=none is not a number above 0; give"),
        (["data", "describe", DIGITS, "--check=0"], "--check=0 is not a number above 0"),
        (
            ["data", "describe", DIGITS, "--config.model.name=b9"],
            "config.model.name='b9' is unknown; known: amoebanet_d, b0",
        ),
        (["data", "prepare", DIGITS, "--output=/tmp/x"], "data prepare needs --resize, e.g. --resize=256"),
        (["data", "prepare", DIGITS, "--resize=32"], "data prepare needs --output"),
        (["data", "prepare", DIGITS, "--resize=0", "--output=/tmp/x"], "resize"),
        (["data", "prepare", DIGITS, "--resize=9", "--output=configs"], "output 'configs' is not empty"),
        (
            ["plan", DIGITS, "--config.global_batch="],
            "config.global_batch='' must be a whole number, at least 1",
        ),
        (["plan", DIGITS, "--config.seed=1e3"], "config.seed='1e3' must be a whole number, at least 0"),
        (
            ["plan", DIGITS, "--config.stuck_seconds=5 min"],
            "config.stuck_seconds='5 min' must be at least 0 and",
        ),
        (["plan", DIGITS, "--config.eval_flip=maybe"], "config.eval_flip='maybe' must be true or false"),
        (
            ["plan", DIGITS, "--config.model=b0"],
            "config.model='b0' must be a table; set one of its fields, --c",
        ),
        (["evaluate", "--workdir=configs"], f"no config.json in '{CONFIGS}'; --workdir must name"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(capsys, arguments, words):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("efficientnet-pod: ") and error.count("\n") == 1
    assert "Traceback" not in error


def test_too_few_addresses_are_one_line(capsys, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2_500_000 * 1024, 2**60))
    assert main(["plan", DIGITS]) == 2
    error = capsys.readouterr().err
    assert "limit of 2,500,000 KiB of addresses (ulimit -v) is too low" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "error, code, said",
    [
        (RunError("hush: the disk is full"), 1, "efficientnet-pod: [redacted]: the disk is full\n"),
        (Preempted("checkpointed at step 3"), 42, "efficientnet-pod: checkpointed at step 3\n"),
        (
            KeyboardInterrupt(),
            130,
            "efficientnet-pod: stopped; the same command goes on from what is saved\n",
        ),
        (KeyError("hush"), 1, "\nKeyError: '[redacted]'\n"),
    ],
)
def test_how_a_command_ends_is_in_its_exit_code(capsys, monkeypatch, error, code, said):
    def fail(_):
        raise error

    monkeypatch.setattr(plan, "run_plan", fail)
    monkeypatch.setattr(host, "redact", lambda text: text.replace("hush", "[redacted]"))
    assert main(["plan"]) == code
    printed = capsys.readouterr().err
    assert printed.endswith(said) and printed.count("\n") == 1 or "Traceback" in printed
    assert printed.startswith("Traceback (most recent call last):\n") == isinstance(error, KeyError)


def test_dashes_in_flags_are_underscores_but_not_in_values_and_recipes(capsys):
    assert main(["plan", DIGITS, "--replicas-per-host=0"]) == 2
    assert "replicas_per_host=0: it must be a whole number, at least 1" in capsys.readouterr().err
    assert main(["evaluate", "--workdir=not-there/of-some-kind"]) == 2
    assert "not-there/of-some-kind" in capsys.readouterr().err
    assert main(["plan", DIGITS, "--config.global-batch=64"]) == 2
    assert "config has no field 'global-batch'; did you mean 'global_batch'?" in capsys.readouterr().err
    for words in (["--", "--a-b.jpg", "--top-5"], ["--sheet", "--a-b.png", "--", "--a-b.jpg"]):
        names: list[str] = []
        values = parse_flags("predict", ["w", *words], predict._define, words=names)
        assert names == ["w", *words[words.index("--") + 1 :]] and values.sheet in (None, "--a-b.png")


@pytest.mark.parametrize(
    "given", [["--config.epoch", "5"], ["--config.epoch=5"], ["--config.model.nmae", "b0"]]
)
@pytest.mark.parametrize("recipe", [[DIGITS], DIGITS.split("=")])
def test_an_unknown_field_is_named_however_it_is_given(capsys, recipe, given):
    field, near = ("epoch", "epochs") if "epoch" in given[0] else ("nmae", "name")
    for words in ([*recipe, *given], [*given, *recipe]):
        assert main(["plan", *words]) == 2
        assert f"has no field '{field}'; did you mean '{near}'?\n" in capsys.readouterr().err


def test_the_recipes_are_found_from_anywhere(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["--config=digits.py"], []):
        assert main(["plan", *words]) == 2
        error = capsys.readouterr().err
        assert ("no config file 'digits.py'; " in error) == bool(words) and "e.g. --config=digits\n" in error
    assert main(["config", "--config=digits", "--json"]) == 0


FILES = (
    ["data", "describe", DIGITS, "--sheet=OUT"],
    ["predict", "weights", "a.jpg", "--sheet=OUT"],
    ["evaluate", "weights", "--json=OUT"],
    ["preflight", DIGITS, "--topology=cpu:1", "--json=OUT"],
    ["preflight", DIGITS, "--topology=cpu:1", "--hlo=OUT"],
    ["report", "RUN", "--out=OUT"],
    ["report", "RUN", "--mlperf=OUT"],
)
FOLDERS = (
    ["data", "prepare", DIGITS, "--resize=8", "--output=OUT"],
    ["export", "weights", "--out=OUT"],
    ["import", "weights", "--out=OUT"],
    ["preflight", DIGITS, "--topology=cpu:1", "--cache=OUT"],
)


@pytest.mark.parametrize("arguments", [*FILES, *FOLDERS], ids=lambda words: f"{words[0]} {words[-1]}")
def test_outputs_are_checked_before_any_work(capsys, tmp_path, arguments):
    (tmp_path / "folder").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text("{}")
    (tmp_path / "file").write_text("kept")
    outputs = {"folder": "is a folder; name a file in it", "no/x": "does not exist", "new/": "names no file"}
    if arguments in FOLDERS:
        outputs = {"file/x": "cannot be written: Not a directory; name another folder"}
    flag = arguments[-1].removesuffix("=OUT")
    for name, words in (outputs | {"file/y": "cannot be written: Not a dir"}).items():
        filled = [
            word.replace("OUT", f"{tmp_path}/{name}").replace("RUN", f"{tmp_path}/run") for word in arguments
        ]
        assert main(filled) == 2, filled
        error = capsys.readouterr().err
        assert error.startswith(f"efficientnet-pod: {flag}={tmp_path}/{name} ") and words in error
        assert error.count("\n") == 1
    names = {"folder", "run", "file"}
    assert {path.name for path in tmp_path.iterdir()} == names and not any((tmp_path / "folder").iterdir())
    assert (tmp_path / "file").read_text() == "kept"


def test_a_result_that_cannot_be_written_after_all_is_printed(capsys, tmp_path):
    (tmp_path / "x.json").mkdir()
    with pytest.raises(RunError, match="x.json' cannot be written: Is a directory.*its contents are printed"):
        write_result(str(tmp_path / "x.json"), b'{"top1": 0.5}\n', or_print=True)
    assert capsys.readouterr().out == '{"top1": 0.5}\n'


def test_what_an_ascii_terminal_lacks_is_replaced(monkeypatch):
    out = io.BytesIO()
    ascii_only = io.TextIOWrapper(out, encoding="ascii", errors="efficientnet_pod.readable")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    resnet9 = ["--config=configs/cifar10.py:resnet9", "--config.data.name=digits"]
    assert main(["plan", *resnet9, "--replicas=1"]) == 0
    ascii_only.flush()
    printed = out.getvalue().decode("ascii")
    assert "32 x 32 px" in printed and "\\u" not in printed


@pytest.fixture
def trained_with(monkeypatch):
    """The config and workdir that ``train`` is called with, in place of training."""
    calls = []

    def train_and_evaluate(config, workdir, **_):
        calls.append((json.loads(json.dumps(config)), read_recipe(config), workdir))
        raise RunError("enough")

    monkeypatch.setattr(train, "train_and_evaluate", train_and_evaluate)
    return calls


def test_a_workdir_alone_is_trained_with_its_own_config(trained_with, tmp_path, capsys, monkeypatch):
    config = load("progressive.py") | {"notes": ("a", "b"), "epochs": 3.0}
    config["schedule"] |= {
        "name": "piecewise",
        "warmup_epochs": 0.0,
        "knots": ((0.0, 0.0), (0.5, 1.0), (1.0, 0.0)),
    }
    Workdir(tmp_path / "run").path.mkdir()
    Workdir(tmp_path / "run").write("config.json", config)
    words = ["--config.log_steps=7", "--config.data.mean_rgb=(0.5, 0.5, 0.5)", "--config.epochs=2"]
    words += ["--config.phases.stage1.image_size=64", "--config.schedule.knots=((0.0, 0.0), (1.0, 1.0))"]
    monkeypatch.setenv("HOME", str(tmp_path))
    for overrides in ([], words):
        assert main(["train", "--workdir=~/run", *overrides]) == 1
    (same, recipe, workdir), (_, overridden, _) = trained_with
    assert same == json.loads(json.dumps(config)) and recipe == read_recipe(config)
    assert workdir == f"{tmp_path}/run"
    assert (overridden.log_steps, overridden.data.mean_rgb, overridden.epochs) == (7, (0.5, 0.5, 0.5), 2.0)
    assert overridden.phases[0].image_size == 64 and overridden.schedule.knots == ((0.0, 0.0), (1.0, 1.0))
    assert main(["train", "--config.epoks=3", "--workdir", "~/run"]) == 2
    assert "config has no field 'epoks'; did you mean 'epochs'?" in capsys.readouterr().err
    assert main(["train", DIGITS, "--workdir", str(tmp_path / "run")]) == 1
    assert trained_with[-1][0] == json.loads(json.dumps(load("digits.py")))  # the named one comes first
    (tmp_path / "run" / "config.json").write_text("[]")
    assert main(["train", f"--workdir={tmp_path}/run"]) == 2
    assert "config.json in" in (error := capsys.readouterr().err) and "is damaged" in error


@pytest.mark.parametrize("command", ["plan", "train", "predict"])
def test_a_deleted_current_folder_is_one_line(capsys, tmp_path, monkeypatch, command):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert main([command]) == 2
    error = capsys.readouterr().err
    assert "current folder" in error and "cd to another" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "is_result"),
    [(["--help"], True), (["help"], True), (["train", "-h"], True), (["report", "help"], False)],
)
def test_help_is_a_result_whose_loss_is_told(monkeypatch, arguments, is_result):
    told = []

    def ended(code, *, program, prints_results):
        told.append(prints_results)
        return code

    monkeypatch.setattr(sys, "argv", ["efficientnet-pod", *arguments])
    monkeypatch.setattr(output, "protect", lambda: None)
    monkeypatch.setattr(output, "exit_code_with_output", ended)
    monkeypatch.setattr("os._exit", sys.exit)
    monkeypatch.setattr("atexit._run_exitfuncs", lambda: None)  # those of this process
    monkeypatch.setattr("efficientnet_pod.pod.memory.ask_for_huge_pages", lambda: None)
    with pytest.raises(SystemExit):
        run()
    assert told == [is_result]


def test_a_command_that_ends_well_runs_what_waits_for_the_end():
    program = "import atexit, sys; from efficientnet_pod.cli.main import run\n"
    program += "atexit.register(print, 'the last word'); sys.argv = ['efficientnet-pod', '--help']; run()"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.endswith("\nthe last word\n")


def test_help_names_the_commands(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in ("train", "evaluate", "plan", "data", "pod", "42"))
    assert main([]) == 2
    for arguments, code in ((["data", "--help"], 0), (["data"], 2)):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == code
        printed = capsys.readouterr().out
        assert "describe" in printed and "prepare" in printed


def test_overrides_and_arguments_reach_the_plan(capsys):
    assert main(["plan", "--config=configs/supercomputer.py:b2,32768", "--replicas=1024"]) == 0
    printed = capsys.readouterr().out
    assert "EfficientNet-B2" in printed and "9,109,994" in printed and "0 to 15.104" in printed
    assert main(["plan", DIGITS, "--config.optimizer.name=rmsprop", "--config.global_batch=512"]) == 0
    assert "rmsprop, 0.016 per 256 images" in capsys.readouterr().out


def test_phases_are_planned_and_overridden(capsys):
    progressive = ["plan", "--config=configs/progressive.py", "--replicas=32"]
    assert main([*progressive, "--config.phases.stage1.global_batch=8192"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "phase stage1 epoch 0.00 to 87.50, step 1 to 13,684: 128 px; 8,192 global" in printed
    assert "learning rate × 2; dropout 0.1; min_crop_area 0.35; policy_magnitude 5 phase stage2" in printed
    assert main([*progressive, "--config.phases.stage1.imagesize=96"]) == 2
    assert (
        "config.phases.stage1 has no field 'imagesize'; did you mean 'image_size'" in capsys.readouterr().err
    )


def test_unwritable_workdir_is_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert main(["train", DIGITS, f"--workdir={tmp_path}/file/run"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_workdir_of_another_config_is_one_line(capsys, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"seed": 1}))
    assert main(["train", DIGITS, f"--workdir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "was made by another version, whose recipes have no config." in error
    (tmp_path / "config.json").write_text(json.dumps(load("digits.py") | {"seed": 1}))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\n')
    assert main(["train", DIGITS, f"--workdir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "belongs to another config" in error and error.count("\n") == 1


def test_data_is_described_checked_and_prepared(capsys, tmp_path):
    sheet, copy = tmp_path / "sheet.png", tmp_path / "copy"
    assert main(["data", "describe", DIGITS, "--check=20", f"--sheet={sheet}"]) == 0
    printed = capsys.readouterr().out
    assert "1,437" in printed and "by number" in printed and sheet.read_bytes().startswith(b"\x89PNG")

    arguments = ["data", "prepare", DIGITS, "--resize=8", f"--output={copy}"]
    for written in ("1,797 of them written by this start", "complete before this start"):
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert "1,797 images, 0.3 MB before, " in printed and written in printed
        assert printed.endswith(f"\nto use them: --config.data.name=prepared:{copy}\n")
    described = ["data", "describe", DIGITS, f"--config.data.name=prepared:{copy}"]
    assert main([*described, "--check=5"]) == 0
    assert "1,437" in capsys.readouterr().out


def test_bad_images_are_named_and_exit_with_2(capsys, tmp_path):
    root = write_folder(tmp_path, {"train/cat": 2, "train/dog": 2, "validation/dog": 1})
    (root / "train/cat/001.jpg").write_bytes(b"not an image")
    assert main(["data", "describe", DIGITS, f"--config.data.name=folder:{root}"]) == 2
    printed = capsys.readouterr()
    assert f"train: {root}/train/cat/001.jpg: " in printed.out
    assert printed.err == f"efficientnet-pod: 1 bad image in 'folder:{root}'; replace or remove them\n"


def test_too_little_memory_is_one_line_with_the_remedy(capsys):
    """Asked of XLA itself: 8 PB for one array."""
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.jit(lambda x: jnp.ones((1 << 51,), jnp.float32) * x)(1.0).block_until_ready()
    line, code = host.print_error(caught.value)
    assert code == 2 and capsys.readouterr().err == f"efficientnet-pod: {line}\n"
    assert line.startswith("not enough memory: ") and "lower config.global_batch" in line
