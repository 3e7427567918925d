"""Owns the flags of the commands and the recipe they name; a mistake in them is one line."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from efficientnet_pod.errors import UserError, did_you_mean


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
        _define_config(values, arguments)
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
        raise UserError(_unknown_field(arguments) or _one_line(error)) from error
    if values.help:
        print(f"{program} {command}\n{values.get_help()}")
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


def define_hosts(values: flags.FlagValues) -> None:
    """Defines the flags that say where this host is among others."""
    about = "HOST:PORT of process 0, the same on all hosts; by default the hosts find each other."
    flags.DEFINE_string("coordinator", None, about, flag_values=values)
    flags.DEFINE_integer("processes", None, "Number of hosts.", 1, flag_values=values)
    flags.DEFINE_integer("process", None, "Index of this host, from 0.", 0, flag_values=values)


def _define_config(values: flags.FlagValues, arguments: Sequence[str]) -> None:
    about = "Recipe, e.g. configs/digits.py; --config.FIELD=VALUE overrides a field."
    config_flags.DEFINE_config_file(
        "config", None, about, flag_values=values, sys_argv=["efficientnet-pod", *arguments]
    )


def _with_underscores(word: str) -> str:
    """Returns a flag as absl knows it: ``--devices-per-process=2`` with underscores; all else as it is."""
    flag, equals, value = word.partition("=")
    if not flag.startswith("--") or flag.startswith("--config."):
        return word
    return "--" + flag[2:].replace("-", "_") + equals + value


def _unknown_field(arguments: Sequence[str]) -> str | None:
    """Returns the message for the first ``--config.FIELD`` that the config file does not have."""
    values = flags.FlagValues()
    files = [word for word in arguments if word.startswith("--config=")]
    _define_config(values, files)
    try:
        values(["efficientnet-pod", *files])
        config: Any = values.config  # typed as possibly None
        config = config.to_dict()
    except Exception:  # reported by the caller, which met it too
        return None
    for word in arguments:
        if word.startswith("--config."):
            table, where = config, "config"
            for name in word.removeprefix("--config.").partition("=")[0].split("."):
                if not isinstance(table, dict) or name not in table:
                    known = table if isinstance(table, dict) else ()
                    return f"{where} has no field '{name}'{did_you_mean(name, known)}"
                table, where = table[name], f"{where}.{name}"
    return None


def _one_line(error: Exception) -> str:
    """Returns what went wrong; config_flags puts a config file's whole traceback into its message."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"^.*Traceback .*?\w+(Error|Exception): ", "config file: ", text)
    if "Failed loading config file" in text:
        return f"no config file '{text.partition('path]: ')[2].split(' ')[0]}'; the recipes are in configs/"
    return text
