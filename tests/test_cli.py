"""What a person gets who mistypes: one line, the remedy, exit code 2."""

import json

import pytest
from recipes import CONFIGS

from efficientnet_pod.cli import main

DIGITS = "--config=configs/digits.py"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["train", DIGITS], "train needs --workdir"),
        (["train", "--workdir=/tmp/x"], "train needs --config"),
        (["train", "--config=configs/digit.py", "--workdir=x"], "configs/digit.py"),
        (["plan", DIGITS, "--config.epoks=3"], "epochs"),
        (["plan", DIGITS, "--config.optimizer.nmae=sgd"], "name"),
        (["plan", DIGITS, "--config.epochs=many"], "many"),
        (["plan", DIGITS, "--config.optimizer.name=adam"], "optimizer.name='adam' is unknown; "),
        (["plan", DIGITS, "--config.data.name=digit"], "did you mean 'digits'?"),
        (["plan", DIGITS, "--config.global_batch=100"], "--config.global_batch="),
        (["plan", DIGITS, "--replica=3"], "replicas"),
        (["plan", DIGITS, "digits"], "'digits' is not a flag"),
        (["plan", "--config=configs/supercomputer.py:b5"], "e.g. b5,65536"),
        (["evaluate", "--workdir=configs"], f"no config.json in '{CONFIGS}'; --workdir must name"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(capsys, arguments, words):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("efficientnet-pod: ") and error.count("\n") == 1
    assert "Traceback" not in error


def test_help_names_the_commands(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in ("train", "evaluate", "plan"))
    assert main([]) == 2


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
    assert "belongs to another config" in error and error.count("\n") == 1
