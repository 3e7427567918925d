"""Recipes by name, the commands that show them, and the help of every command."""

import json
import re

import pytest
from recipes import CONFIGS, load

from efficientnet_pod.cli import main as command_line
from efficientnet_pod.cli.help import CALLS, field_for
from efficientnet_pod.cli.main import main
from efficientnet_pod.recipe import named
from efficientnet_pod.recipe.base_config import base_config
from efficientnet_pod.recipe.fields import all_fields
from efficientnet_pod.workdir.values import flatten
from launch.cli import COMMANDS as OF_LAUNCH


def test_every_file_of_the_folder_is_a_recipe_by_its_name():
    assert named.names() == sorted(path.stem for path in CONFIGS.glob("*.py"))
    for name in named.names():
        found = named.about(name)
        assert found.title and not found.title.endswith(".")
        assert found.parts["Source"]
        for row in found.rows[:1]:
            assert load(f"{name}.py:{row}") == load(f"{name}.py")


def test_recipes_are_listed_with_source_and_machine(capsys):
    assert main(["recipes"]) == 0
    printed = capsys.readouterr().out
    assert all(re.search(rf"^{name}(:|$)", printed, re.MULTILINE) for name in named.names())
    assert "supercomputer:b5,65536, 11 other rows" in printed and "Source: arXiv 2011.00071" in printed


def test_one_recipe_is_printed_and_copied(tmp_path, capsys):
    assert main(["recipes", "digits"]) == 0
    assert "a pod in miniature" in capsys.readouterr().out
    copy = tmp_path / "mine.py"
    assert main(["recipes", "digits", f"--copy={copy}"]) == 0
    assert f"train --config={copy} " in capsys.readouterr().out
    assert copy.read_text() == (CONFIGS / "digits.py").read_text()
    assert main(["config", f"--config={copy}:raw", "--diff=digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"eval_raw": {"this": True, "other": False}}


def test_config_says_where_values_come_from(capsys):
    assert main(["config", "--config=digits", "--config.epochs=3", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    fields = dict(flatten(load("digits.py")))
    assert dict(flatten(printed["config"])).keys() == fields.keys() == printed["from"].keys()
    assert printed["config"]["epochs"] == 3 and printed["from"]["epochs"] == "command line"
    base = dict(flatten(base_config().to_dict()))
    for name in fields.keys() - {"epochs"}:
        assert printed["from"][name] == ("base" if fields[name] == base[name] else "recipe"), name


def test_config_prints_fields_with_their_meaning(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["config", "--config=progressive"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("config.global_batch "))
    assert line.split()[1:3] == ["4096", "recipe"] and line.endswith("images per optimizer step")
    assert any(line.startswith("config.phases.") for line in lines)
    assert main(["config", "--config=digits", "--diff=digits"]) == 0
    assert capsys.readouterr().out == "the two are the same\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config=digit"], "no recipe 'digit'; did you mean 'digits'?"),
        (["train", "--config", "imagnet:b0"], "no recipe 'imagnet'; did you mean 'imagenet'?"),
        (
            ["plan", "--config=imagenet:b9"],
            "config file: the recipe has no ':b9'; known: b0",
        ),
        (
            ["plan", "--config=there/is.py"],
            "no config file 'there/is.py'; recipes that come with the trainer go",
        ),
        (["recipes", "digits", "cifar10"], "recipes takes the name of one, not digits cifar10"),
        (["recipes", "--copy=a.py"], "--copy needs the name of a recipe"),
        (["recipes", "digits", "--copy=a"], "--copy=a must be the name of a Python file"),
        (["recipes", "digits", "--copy=README.md/a.py"], "--copy"),
        (["config", "--config=digits", "--diff=digest"], "no recipe 'digest'; did you mean 'digits'?"),
        (
            ["train", "--config=digits", "--epochs=3"],
            "unknown flag --epochs; of the recipe it is --config.epochs",
        ),
        (
            ["train", "--config=digits", "--batch-size", "3"],
            "unknown flag --batch-size; of the recipe it is --co",
        ),
        (
            ["train", "--config=digits", "--data=/x"],
            "unknown flag --data; of the recipe it is --config.data.name",
        ),
        (
            ["plan", "--config=digits", "--frobnicate=3"],
            "unknown flag --frobnicate; the flags: efficientnet-pod plan --help",
        ),
        (["plan", "--config=digits", "--replica=3"], "unknown flag --replica; did you mean --replicas?"),
        (
            ["config", "--config=digits", "--diff"],
            "--diff needs a value, --diff=…; the flags: efficientnet-pod config --help",
        ),
        (
            ["config", "--config=digits", "--diff="],
            "the name of the recipe is empty; give one, e.g. --config=digits",
        ),
        (["plan", "--config="], "the name of the recipe is empty; give one, e.g. --config=digits"),
        (
            ["plan", "--config=digits:"],
            "'digits:' has no row behind its colon; leave the colon out, or name a row",
        ),
        (["--versoin"], "unknown flag '--versoin'; did you mean '--version'?"),
        (["--version", "x"], "--version stands alone, and 'x' is behind it; leave one of them out"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"efficientnet-pod: {message}") and errors.count("\n") == 1


def test_what_other_trainers_call_it_is_a_field_of_ours():
    fields = [field.name.replace("optimizer.sgd.", "optimizer.NAME.") for field in all_fields()]
    for word in ("--lr=3", "--batch-size", "--model=b0", "--weight-decay=1", "--pretrained", "--ema"):
        assert field_for(word, fields) in fields
    assert field_for("--image-size=3", fields) == "data.image_size" and field_for("--nothing", fields) is None


def test_every_command_has_a_usage_and_an_example():
    own = {word for word in command_line.COMMANDS if word not in ("data", "launch")} | {
        "data describe",
        "data prepare",
    }
    assert CALLS.keys() == own | OF_LAUNCH.keys()


@pytest.mark.parametrize("command", ["train", "predict", "report", "recipes", "data prepare"])
def test_help_is_plain(command, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line._main([*command.split(), "--help"])
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: efficientnet-pod {command} {CALLS[command][0]} [FLAGS]\nexample: ")
    flags_part = printed.partition("fields of a recipe")[0]
    assert not re.search(r"absl|'None'|flagfile|2,147,483,647", flags_part)
    assert max(map(len, flags_part.splitlines())) <= 130


def test_the_version_has_all_it_depends_on_and_the_devices(capsys):
    assert main(["--version"]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("efficientnet-pod 0.") and "jax 0." in second and third == "8 × cpu"
