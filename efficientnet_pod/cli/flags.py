"""The flags of a command, parsed; a mistake in them is one line."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.optim.ranges import Range

AT_LEAST_1, AT_LEAST_0 = Range(1, whole=True), Range(0, whole=True)
IMAGE_SIZE = Range(1, 8192, whole=True)  # pixels


def run_command(
    arguments: Sequence[str], commands: Mapping[str, Callable[[Sequence[str]], int | None]], usage: str
) -> int:
    """Returns the exit code of the command that the arguments begin with; without one the usage is printed.

    Raises:
      UserError: there is no such command; or what the command raises.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage, end="")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in commands:
        raise UserError(f"unknown command '{name}'{did_you_mean(name, commands)}")
    return commands[name](rest) or 0


def parse_flags(
    command: str,
    arguments: Sequence[str],
    define: Callable[[flags.FlagValues], None] | None = None,
    *,
    config: bool = False,
    workdir: bool = False,
    words: list[str] | None = None,
    program: str = "efficientnet-pod",
) -> flags.FlagValues:
    """Returns the parsed flags of one command.

    Args:
      command: its name.
      arguments: what follows it.
      define: defines its own flags.
      config: whether it takes a recipe.
      workdir: whether it takes the folder of a run as a flag.
      words: gets the arguments that are no flags; None: there may be none.
      program: whose command it is.

    Raises:
      UserError: an unknown flag or field, a value of the wrong type, a missing flag or file.
    """
    arguments = [_with_underscores(word) for word in arguments]
    values = flags.FlagValues()
    values.set_gnu_getopt(words is not None)  # flags may stand behind words
    flags.DEFINE_bool("help", False, "Show the flags.", short_name="h", flag_values=values)
    if config:
        about = "Recipe, e.g. configs/digits.py; --config.FIELD=VALUE overrides a field."
        argv = ["efficientnet-pod", *arguments]
        config_flags.DEFINE_config_file("config", None, about, flag_values=values, sys_argv=argv)
    if workdir:
        flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    if define:
        define(values)
    try:
        stray = values([command, *arguments])[1:]
        given = values.config if config else None
        if given is not None:
            given.to_dict()  # config_flags reports a file it could not load at its first use
    except Exception as error:  # what a config file raises is anything
        raise UserError(_unknown_field(values, arguments) or _one_line(error)) from error
    if values.help:
        print(f"{program} {command}\n{values.get_help()}")
        if config:
            from efficientnet_pod.recipe.fields import reference  # no other start waits for it

            print(f"\nfields of a recipe, with the value that does least:\n{reference()}")
        raise SystemExit(0)
    if words is not None:
        words += stray
    elif stray:
        raise UserError(f"'{stray[0]}' is not a flag; flags look like --workdir=PATH")
    if config and given is None:
        raise UserError(f"{command} needs --config, e.g. --config=configs/digits.py")
    if workdir and values.workdir is None:
        raise UserError(f"{command} needs --workdir, e.g. --workdir=runs/digits")
    # Libraries that read absl's global flags must find them parsed.
    flags.FLAGS.mark_as_parsed()
    return values


class _Number(flags.ArgumentParser):
    """The parser of a flag whose number must be in a range."""

    def __init__(self, allowed: Range):
        super().__init__()
        self._allowed, self.syntactic_help = allowed, str(allowed)

    def parse(self, argument: Any) -> Any:
        """Returns the number; raises ValueError, whose message follows the flag with its value."""
        try:
            number = int(argument) if self._allowed.whole else float(argument)
        except ValueError:
            number = None
        if not self._allowed.holds(number):
            raise ValueError(f"it must be {self._allowed}")
        return number

    def flag_type(self) -> str:
        """Returns the word that absl has for the type."""
        return "int" if self._allowed.whole else "float"


def define_number(
    values: flags.FlagValues, name: str, default: float | None, about: str, allowed: Range = AT_LEAST_1
) -> None:
    """Defines a flag whose number must be in a range, which the help shows."""
    flags.DEFINE(
        _Number(allowed), name, default, about, flag_values=values, serializer=flags.ArgumentSerializer()
    )


def overrides_of(values: flags.FlagValues) -> tuple[str, ...]:
    """Returns the dotted names of the recipe's fields that were set on the command line."""
    return tuple(config_flags.get_override_values(values["config"]))


def define_checkpoint(values: flags.FlagValues, default: str | None = "best", rule: str = "") -> None:
    """Defines the flags that choose among the weights of a run; ``rule`` explains the default in the help."""
    about = f"Checkpoint of a workdir: 'best', 'latest' or a step{rule}."
    flags.DEFINE_string("checkpoint", default, about, flag_values=values)
    flags.DEFINE_bool("raw", False, "Take the raw weights, not the averaged ones.", flag_values=values)


def values_of(values: flags.FlagValues, kind: type[Any]) -> dict[str, Any]:
    """Returns the values of the flags that are called as the fields of a dataclass."""
    return {field.name: values[field.name].value for field in dataclasses.fields(kind)}


def _with_underscores(word: str) -> str:
    """Returns a flag as absl knows it: ``--devices-per-process=2`` with underscores; all else as it is."""
    flag, equals, value = word.partition("=")
    if not flag.startswith("--") or flag.startswith("--config."):
        return word
    return "--" + flag[2:].replace("-", "_") + equals + value


def _unknown_field(values: flags.FlagValues, arguments: Sequence[str]) -> str | None:
    """Returns the message for the first ``--config.FIELD`` that the recipe lacks; None if it has them all."""
    paths = [word.removeprefix("--config=") for word in arguments if word.startswith("--config=")]
    try:
        parser: Any = values["config"].parser  # of config_flags
        recipe = parser.parse(paths[-1]).to_dict()
    except Exception:  # there is no recipe, or it cannot be loaded: the first error says so
        return None
    for word in arguments:
        if word.startswith("--config."):
            table, path = recipe, "config"
            for name in word.removeprefix("--config.").partition("=")[0].split("."):
                if not isinstance(table, dict) or name not in table:
                    known = table if isinstance(table, dict) else ()
                    return f"{path} has no field '{name}'{did_you_mean(name, known)}"
                table, path = table[name], f"{path}.{name}"
    return None


def _one_line(error: Exception) -> str:
    """Returns the last line of a message; config_flags puts a config file's whole traceback into it."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"^.*Traceback .*?\w+(Error|Exception): ", "config file: ", text)
    if "Failed loading config file" in text:
        return f"no config file '{text.partition('path]: ')[2].split(' ')[0]}'; the recipes are in configs/"
    return text
