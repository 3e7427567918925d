"""The help of a command: how it is called, an example, and its flags with what they are by default."""

import textwrap
from collections.abc import Iterable
from typing import Any

from absl import flags

from efficientnet_pod.optim.ranges import MOST

# What stands behind a command's name, and an example of it.
CALLS = {
    "train": ("--config=RECIPE --workdir=FOLDER", "--config=digits --workdir=runs/digits --config.epochs=10"),
    "evaluate": ("WORKDIR|WEIGHTS", "runs/digits --checkpoint=latest"),
    "predict": ("WEIGHTS IMAGE…", "runs/photos holiday/*.jpg --top=3"),
    "bench": ("WEIGHTS", "weights/b0 --data=folder:/photos"),
    "plan": ("--config=RECIPE", "--config=supercomputer:b5,65536 --replicas=1024"),
    "preflight": ("--config=RECIPE", "--config=supercomputer:b5,65536 --topology=v3-1024"),
    "report": ("WORKDIR…", "runs/a runs/b --out=both.html"),
    "import": ("WEIGHTS --output=FOLDER", "hf:timm/efficientnet_b0.ra_in1k --output=weights/b0"),
    "export": ("WORKDIR|WEIGHTS --to=FORMAT,…", "runs/photos --to=timm,onnx --output=exported"),
    "data describe": ("--config=RECIPE", "--config=finetune --config.data.name=folder:/photos"),
    "data prepare": (
        "--config=RECIPE --output=FOLDER",
        "--config=imagenet:b0 --resize=256 --output=/data/small",
    ),
    "pod": ("train|evaluate", "train --config=digits --workdir=runs/pod --processes=2"),
    "recipes": ("[NAME]", "digits --copy=my_recipe.py"),
    "config": ("--config=RECIPE", "--config=imagenet:b0 --diff=b0_gpu"),
    # of the launcher
    "submit": (
        "--backend=BACKEND --tpu=MACHINE --workdir=FOLDER [FLAGS] -- FLAGS OF TRAIN",
        "--backend=fake --tpu=v4-16 --workdir=runs/a -- --config=digits",
    ),
    "render": (
        "--backend=BACKEND --tpu=MACHINE --workdir=FOLDER [FLAGS] -- FLAGS OF TRAIN",
        "--backend=gke --tpu=v5e-256 --image=trainer:1 --workdir=gs://b/run -- --config=imagenet:b0",
    ),
    "status": ("[JOB…]", "run1"),
    "logs": ("JOB", "run1 --worker=3 --follow"),
    "watch": ("JOB", "run1"),
    "cancel": ("JOB", "run1"),
    "preempt": ("JOB", "rehearsal --worker=1"),
    "capacity": ("", "--chips=8"),
    "doctor": ("[-- FLAGS OF TRAIN]", "--workdir=gs://b/run1 -- --config=digits"),
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


def help_of(values: flags.FlagValues, program: str, command: str) -> str:
    """Returns the help of a command of a program, whose flags are defined."""
    form, example = CALLS[command]
    form += "" if "[FLAGS]" in form else " [FLAGS]"
    lines = [f"usage: {program} {command} {form}", f"example: {program} {command} {example}", "", "flags:"]
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
    text = flag.parser.syntactic_help if flag.parser and not flag.boolean else ""
    text = text.removesuffix(f" and at most {MOST:,}")
    return f"({text})" if text and flag.name != "config" else ""
