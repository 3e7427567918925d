"""The help of a command: how it is called, an example, and its flags with what they are by default."""

import textwrap
from collections.abc import Iterable
from typing import Any, NamedTuple

from absl import flags

from efficientnet_pod.optim.ranges import MOST

TRAINER = "efficientnet-pod"


class Call(NamedTuple):
    """The words behind a command's name.

    Attributes:
      form: names of its arguments.
      example: arguments of one call, as they are typed.
    """

    form: str
    example: str


_RECIPE, _JOB = (
    "--config=RECIPE",
    "--backend=BACKEND --tpu=MACHINE --workdir=FOLDER [FLAGS] -- FLAGS OF train",
)
CALLS = {
    "train": Call(f"{_RECIPE} --workdir=FOLDER", "--config=digits --workdir=runs/digits --config.epochs=10"),
    "evaluate": Call("WEIGHTS", "runs/digits --data=folder:/photos"),
    "predict": Call("WEIGHTS IMAGE…", "runs/digits photos/ cat.jpg"),
    "bench": Call("WEIGHTS", "runs/digits --batch=1,8,64"),
    "plan": Call(_RECIPE, "--config=supercomputer:b5,65536 --replicas=1024"),
    "preflight": Call(_RECIPE, "--config=supercomputer:b5,65536 --topology=v3-1024"),
    "report": Call("WORKDIR…", "runs/digits"),
    "profile": Call("WORKDIR", "runs/digits --steps=5"),
    "import": Call("WEIGHTS --out=FOLDER", "tf_efficientnet_b3.safetensors --model=b3 --out=weights/b3"),
    "export": Call("WEIGHTS --out=FOLDER", "runs/digits --out=exported --to=safetensors,stablehlo"),
    "data describe": Call(_RECIPE, "--config=finetune --config.data.name=folder:/photos --sheet=sheet.png"),
    "data prepare": Call(
        f"{_RECIPE} --resize=PIXELS --output=FOLDER", "--config=imagenet:b0 --resize=256 --output=/data/small"
    ),
    "pod": Call(
        "--processes=N [FLAGS] -- COMMAND",
        "--processes=4 --devices-per-process=2 -- train --config=digits --workdir=runs/pod",
    ),
    "init": Call("FOLDER", "my-photos --recipe=finetune"),
    "recipes": Call("[NAME]", "digits --copy=my_recipe.py"),
    "config": Call(_RECIPE, "--config=imagenet:b0 --diff=b0_gpu"),
    # of the launcher
    "submit": Call(
        _JOB,
        "--backend=qr --tpu=v3-1024 --spot --workdir=gs://b/run1 -- "
        "--config=supercomputer:b5,65536 --config.data.data_dir=gs://b/tfds",
    ),
    "render": Call(
        _JOB,
        "--backend=gke --tpu=v5e-256 --image=trainer:1 --workdir=gs://b/run2 -- "
        "--config=imagenet:b0 --config.data.data_dir=gs://b/tfds",
    ),
    "status": Call("[JOB…]", "run1"),
    "logs": Call("JOB", "run1 --worker=3 --follow"),
    "watch": Call("JOB", "run1"),
    "cancel": Call("JOB", "run1"),
    "preempt": Call("JOB", "rehearsal --worker=1"),
    "capacity": Call("", "--chips=8"),
    "image": Call("build|push --tag=NAME", "build --tag=REGISTRY/trainer:1 --accelerator=tpu"),
    "fault": Call("[NAME]", "clock --worker=1"),
    "doctor": Call("[-- FLAGS OF train]", "--workdir=gs://b/run1 -- --config=digits"),
}
# What people type who come from other trainers, and the field of a recipe that does it.
_ELSEWHERE = {
    "batch": "global_batch",
    "batch_size": "global_batch",
    "data": "data.name",
    "dataset": "data.name",
    "learning_rate": "optimizer.NAME.lr_per_256",
    "lr": "optimizer.NAME.lr_per_256",
    "model": "model.name",
    "pretrained": "init.weights",
    "weights": "init.weights",
    "weight_decay": "optimizer.NAME.l2",
    "ema": "ema_decay",
}
_OF_ABSL = ("flagfile", "undefok", "help")
_WIDTH = 110


def usage_of(command: str, program: str = TRAINER) -> str:
    """Returns how a command is called: words that stand for its arguments, and ``[FLAGS]``."""
    form = CALLS[command].form
    return " ".join(filter(None, (program, command, form, "" if "[FLAGS]" in form else "[FLAGS]")))


def example_of(command: str, program: str = TRAINER) -> str:
    """Returns one call of a command, as it is typed."""
    return f"{program} {command} {CALLS[command].example}"


def help_of(values: flags.FlagValues, program: str, command: str) -> str:
    """Returns the help of a command of a program, whose flags are defined."""
    lines = [f"usage: {usage_of(command, program)}", f"example: {example_of(command, program)}", "", "flags:"]
    for flag in _flags(values):
        about = flag.help.partition(">: ")[2] or flag.help  # absl puts the choices in front
        text = " ".join(filter(None, (about, _range(flag))))
        lines.append(f"  {_form(flag)}")
        lines += textwrap.wrap(text, _WIDTH, initial_indent="      ", subsequent_indent="      ")
    return "\n".join([*lines, "  --help", "      Show this."])


def field_for(flag: str, fields: Iterable[str]) -> str | None:
    """Returns the field of a recipe that an unknown flag seems to mean; None if there is none.

    Args:
      flag: as it was typed, such as ``--batch-size=64``.
      fields: dotted names of all fields.
    """
    name = flag.partition("=")[0].lstrip("-").replace("-", "_")
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    return next((field for field in fields if name in (field, field.rpartition(".")[2])), None)


def without_limit(rule: str) -> str:
    """Returns a rule without the largest number of all, which no reader comes near."""
    return rule.replace(f" and at most {MOST:,}", "")


def _flags(values: flags.FlagValues) -> list[Any]:
    """Returns the flags by name: those that every command needs first."""
    names = [
        name for name in values if name not in _OF_ABSL and len(name) > 1 and not name.startswith("config.")
    ]
    first = [name for name in ("config", "workdir") if name in names]
    return [values[name] for name in [*first, *sorted(set(names) - set(first))]]


def _form(flag: Any) -> str:
    """Returns the flag as it is typed, with its value by default: ``--top=5``, ``--raw``, ``--sheet=…``."""
    if flag.boolean:
        return f"--no{flag.name}" if flag.default else f"--{flag.name}"
    choices = getattr(flag.parser, "enum_values", None)
    if flag.default is not None:
        return f"--{flag.name}={flag.default}"
    return f"--{flag.name}={'|'.join(choices) if choices else '…'}"


def _range(flag: Any) -> str:
    text = without_limit(flag.parser.syntactic_help) if flag.parser and not flag.boolean else ""
    return f"({text})" if text and flag.name != "config" else ""
