"""The commands and their flags, as the command lines define them."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple
from unittest import mock

from absl import flags

from efficientnet_pod.cli import data as data_cli
from efficientnet_pod.cli import main as trainer_cli
from efficientnet_pod.cli.help import TRAINER, usage_of, without_limit
from launch import cli as launch_cli
from launch.backends.fake.faults import FAULTS
from launch.flags import PROGRAM as LAUNCHER

# Words of a command that are no flags: how the usage writes them, and what they are.
WORDS = {
    "evaluate": ("WEIGHTS", "a workdir, one of its `checkpoints/STEP`, a folder or a file of weights"),
    "predict": ("WEIGHTS IMAGE…", "weights as of `evaluate`; files of images, or folders of them"),
    "bench": ("WEIGHTS", "weights as of `evaluate`"),
    "import": ("WEIGHTS", "a file or folder of another library, or `hf:OWNER/NAME`"),
    "export": ("WEIGHTS", "weights as of `evaluate`"),
    "report": ("WORKDIR…", "the folder of a run, or of several"),
    "profile": ("WORKDIR", "the folder of a run that is in progress"),
    "init": ("FOLDER", "the name of a new folder"),
    "recipes": ("[NAME]", "the name of a recipe; without one, all are listed"),
    "pod": ("-- COMMAND", "`train` or `evaluate` with its flags"),
    "launch submit": ("-- FLAGS OF train", "flags of `train` without `--workdir`"),
    "launch render": ("-- FLAGS OF train", "flags of `train` without `--workdir`"),
    "launch status": ("[JOB…]", "names of jobs; without one, all jobs that were submitted from here"),
    "launch logs": ("JOB", "the name of a job; or give `--workdir`"),
    "launch watch": ("JOB", "the name of a job; or give `--workdir`"),
    "launch cancel": ("JOB", "the name of a job; or give `--workdir`"),
    "launch preempt": ("JOB", "the name of a job of `--backend=fake`"),
    "launch image": ("build|push", "the step; Cloud Build does both in one"),
    "launch fault": ("[NAME]", "; ".join(f"`{name}`: {about}" for name, about in FAULTS.items())),
    "launch doctor": ("[-- FLAGS OF train]", "flags of `train`, whose images are looked for"),
}
BEHIND_DASHES = ("pod", "launch submit", "launch render", "launch doctor")


class Command(NamedTuple):
    """A command as its own program defines it.

    Attributes:
      name: e.g. ``evaluate``, ``data describe`` or ``launch watch``.
      values: its flags.
      takes_words: whether it takes words that are no flags.
      takes_config: whether it takes a recipe.
      about: sentence of the usage.
    """

    name: str
    values: flags.FlagValues
    takes_words: bool
    takes_config: bool
    about: str

    @property
    def usage(self) -> str:
        """How it is called."""
        program = LAUNCHER if self.name.startswith("launch ") else TRAINER
        return usage_of(self.name.removeprefix("launch "), program)


class _Asked(BaseException):
    """Carries what a command asks of the parser of flags; no command catches it."""


@cache
def all_commands() -> Mapping[str, Command]:
    """Returns the commands of both programs by name, in the order of their usages."""
    commands = [_command(name, f"efficientnet_pod.cli.{_module(name)}:run_{name}") for name in _trainer()]
    commands += [
        _command(f"data {name}", "efficientnet_pod.cli.data:run_data", [name]) for name in data_cli.COMMANDS
    ]
    commands += [_command(f"launch {name}", f"launch.{place}") for name, place in launch_cli.COMMANDS.items()]
    return {command.name: command for command in commands}


def command(name: str) -> str:
    """Returns the reference of one command: sentence, usage, words, flags."""
    made = all_commands()[name]
    words, about_words = WORDS.get(name, ("", ""))
    lines = [sentence(made.about), "", "```text", made.usage, "```", ""]
    if words:
        lines += [f"`{words.removeprefix('-- ')}`", f": {sentence(about_words)}", ""]
    if made.takes_config:
        lines += ["`--config=FILE`", ": Recipe, such as `configs/digits.py` or `configs/imagenet.py:b0`."]
        if "workdir" in made.values and name == "train":
            lines[-1] += " By default the one stored in the workdir."
        lines += ["", "`--config.FIELD=VALUE`", ": Value of one [field of the recipe](config.md).", ""]
    for flag in flags_of(made):
        lines += [f"`{written(flag)}`", f": {about_flag(flag)}", ""]
    return "\n".join(lines)


def flags_of(made: Command) -> list[Any]:
    """Returns the flags of a command in alphabetical order, without ``--help``."""
    return [made.values[name] for name in sorted(made.values) if name not in ("help", "h", "f")]


def written(flag: Any) -> str:
    """Returns a flag as it is typed, e.g. ``--data-dir=TEXT``."""
    name = f"--{flag.name.replace('_', '-')}"
    kind = flag.flag_type()
    if kind == "bool":
        return name
    if kind == "string enum":
        return f"{name}={'|'.join(flag.parser.enum_values)}"
    return f"{name}={ {'int': 'N', 'float': 'NUMBER'}.get(kind, 'LIST' if 'list' in kind else 'TEXT') }"


def about_flag(flag: Any) -> str:
    """Returns the help of a flag, its default and the values that it may have."""
    # absl puts the words of a choice in front of its help, and what repeating means behind it.
    text = " ".join((flag.help or "").split()).partition(".;")[0]
    parts = [sentence(re.sub(r"^<[^>]*>: ", "", text))]
    if flag.short_name:
        parts.append(f"Short: `-{flag.short_name}`.")
    if flag.flag_type() in ("int", "float") and flag.parser.syntactic_help:
        parts.append(f"It must be {without_limit(flag.parser.syntactic_help)}.")
    if flag.default not in (None, False, "", []):
        default = ",".join(flag.default) if isinstance(flag.default, list) else flag.default
        off = f"; `--no{flag.name}` switches it off" if flag.default is True else ""
        parts.append(f"Default: `{default}`{off}.")
    return " ".join(parts)


def sentence(text: str) -> str:
    """Returns a text that begins with a capital letter and ends with a full stop."""
    text = text.strip()
    first = text[:1].upper() if text[:1].isascii() else text[:1]  # α is a name
    return f"{first}{text[1:]}" + ("" if text.endswith((".", "?")) else ".") if text else ""


def _trainer() -> list[str]:
    return [name for name in trainer_cli.COMMANDS if name not in ("data", "launch")]


def _module(name: str) -> str:
    return trainer_cli._MODULES.get(name, name)


def _command(name: str, place: str, arguments: list[str] | None = None) -> Command:
    """Runs a command until it asks for its flags, and returns what it asks for."""
    module, _, function = place.partition(":")
    run = getattr(import_module(module), function)
    asked: dict[str, Any] = {}

    def parse_flags(
        command: str, arguments: Any, define: Callable[[flags.FlagValues], None] | None = None, **options: Any
    ) -> None:
        asked.update(options, define=define)
        raise _Asked

    # A default that is taken from the environment is not that of the reader.
    unset = {
        name: value for name, value in os.environ.items() if not name.startswith(("GOOGLE_", "CLOUDSDK"))
    }
    with mock.patch.dict(os.environ, unset, clear=True), _parser(parse_flags):
        try:
            run(arguments or [])
        except _Asked:
            pass
        values = flags.FlagValues()
        if asked.get("workdir"):
            flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
        if asked["define"]:
            asked["define"](values)
    words = asked.get("words") is not None or name in BEHIND_DASHES
    return Command(name, values, words, bool(asked.get("config")), _about(name))


@contextmanager
def _parser(parse_flags: Callable[..., None]) -> Iterator[None]:
    """Lets all modules of the command lines ask this parser."""
    names = [f"efficientnet_pod.cli.{_module(name)}" for name in trainer_cli.COMMANDS]
    names += [f"launch.{name}" for name in ("flags", "follow", "rehearse", "doctor.doctor", "image.image")]
    with ExitStack() as patches:
        for module in map(import_module, names):
            if hasattr(module, "parse_flags"):
                patches.enter_context(mock.patch.object(module, "parse_flags", parse_flags))
        yield


def _about(name: str) -> str:
    """Returns the sentence of a command in its program's usage."""
    table, _, word = name.rpartition(" ")
    usage = {"": trainer_cli.USAGE, "data": data_cli.USAGE, "launch": launch_cli.USAGE}[table]
    line = next(line for line in usage.splitlines() if line.startswith(f"  {word} "))
    return line.strip().removeprefix(word)
