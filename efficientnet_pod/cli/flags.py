"""The flags of a command, parsed; a mistake in them is one line."""

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from efficientnet_pod.cli.help import field_for, help_of
from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.optim.ranges import Range
from efficientnet_pod.recipe.dotted import unknown_field
from efficientnet_pod.recipe.named import as_file
from efficientnet_pod.workdir.files import expanded
from efficientnet_pod.workdir.workdir import Workdir

AT_LEAST_1, AT_LEAST_0 = Range(1, whole=True), Range(0, whole=True)
IMAGE_SIZE = Range(1, 8192, whole=True)  # pixels


def run_command(
    arguments: Sequence[str], commands: Mapping[str, Callable[[Sequence[str]], int | None]], usage: str
) -> int:
    """Returns the exit code of the command that the arguments begin with; without one the usage is printed.

    ``help COMMAND`` is ``COMMAND --help``.

    Raises:
      UserError: there is no such command; or what the command raises.
    """
    if arguments[:1] == ["help"] and len(arguments) > 1:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage, end="")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in commands:
        kind = "flag" if name.startswith("-") else "command"
        raise UserError(f"unknown {kind} '{name}'{did_you_mean(name, [*commands, '--help'])}")
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
      workdir: whether it takes the folder of a run as a flag; with ``config``, the recipe is by default the
        one stored in that folder.
      words: gets the arguments that are no flags; None: there may be none.
      program: whose command it is.

    Raises:
      UserError: an unknown flag or field, a value of the wrong type, a missing flag or file.
    """
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    arguments = [*map(_as_in_a_shell, arguments[:end]), *arguments[end:]]
    if config:
        arguments = _with_recipe_files(arguments)
    folder = _workdir_alone(arguments) if config and workdir else None
    stored = _stored_recipe(folder) if folder else None
    no_recipe = f"{command} needs --config, e.g. --config=digits"
    no_recipe += f", for '{folder}' has no config.json" if folder else ""
    values = flags.FlagValues()
    values.set_gnu_getopt(words is not None)  # flags may stand behind words
    flags.DEFINE_bool("help", False, "Show the flags.", short_name="h", flag_values=values)
    if workdir:
        flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    if define:
        define(values)
    arguments = [*(_with_underscores(word, values) for word in arguments[:end]), *arguments[end:]]
    try:
        if config:
            about = (
                "Recipe: a name, digits or imagenet:b0, or a file; --config.FIELD=VALUE overrides a field."
            )
            known: dict[str, Any] = {"flag_values": values, "sys_argv": ["efficientnet-pod", *arguments]}
            if stored is None:
                config_flags.DEFINE_config_file("config", None, about, **known)
            else:
                config_flags.DEFINE_config_dict("config", stored, about, **known)
        stray = values([command, *arguments])[1:]
        given = values.config if config else None
        if given is not None:
            given.to_dict()  # config_flags reports a file it could not load at its first use
    except Exception as error:  # what a config file raises is anything
        line = _unknown_field(values, arguments, stored) or _wrong_type(error)
        line = line or _flag_fault(str(error), values, f"{program} {command} --help", config=config)
        line = line or _one_line(error)
        if config and "flag 'config." in line:  # the field of no recipe
            line = no_recipe
        raise UserError(line) from error
    if values.help:
        print(help_of(values, program, command))
        if config:
            from efficientnet_pod.recipe.fields import reference  # no other start waits for it

            print(f"\nfields of a recipe, with the value that does least:\n{reference()}")
        raise SystemExit(0)
    if words is not None:
        words += stray
    elif stray:
        raise UserError(f"'{stray[0]}' is not a flag; flags look like --workdir=PATH")
    if config and given is None:
        raise UserError(no_recipe)
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


def define_checkpoint(values: flags.FlagValues) -> None:
    """Defines the flags that choose among the weights of a run."""
    about = "Checkpoint of a workdir: 'best' by top-1, 'latest' or a step."
    flags.DEFINE_string("checkpoint", "best", about, flag_values=values)
    flags.DEFINE_bool("raw", False, "Take the raw weights, not the averaged ones.", flag_values=values)


def define_exif(values: flags.FlagValues) -> None:
    """Defines the flag for the orientation that cameras note."""
    about = "Orientation of photos noted in EXIF; by default as the weights were trained."
    choices = ["ignored", "respected"]  # of config.data.exif, whose module imports JAX
    flags.DEFINE_enum("exif", None, choices, about, flag_values=values)


def values_of(values: flags.FlagValues, kind: type[Any]) -> dict[str, Any]:
    """Returns the values of the flags that are called as the fields of a dataclass."""
    return {field.name: values[field.name].value for field in dataclasses.fields(kind)}


def _with_underscores(word: str, values: flags.FlagValues) -> str:
    """Returns a flag as absl knows it: ``--devices-per-process=2`` with underscores; all else as it is."""
    flag, equals, value = word.partition("=")
    name = flag.removeprefix("--").replace("-", "_")
    return f"--{name}{equals}{value}" if flag.startswith("--") and name in values else word


def _with_recipe_files(arguments: list[str]) -> list[str]:
    """Returns the arguments with a file for a recipe's name; raises UserError where there is none."""
    found = list(arguments)
    for place, word in enumerate(arguments):
        if word.startswith("--config="):
            found[place] = f"--config={_recipe_file(word.removeprefix('--config='))}"
        elif word == "--config" and place + 1 < len(arguments):
            found[place + 1] = _recipe_file(arguments[place + 1])
    return found


def _recipe_file(config: str) -> str:
    """Returns the file of a recipe with its row; raises UserError if one of them is missing."""
    if not config:
        raise UserError("the name of the recipe is empty; give one, e.g. --config=digits")
    if config.endswith(":"):
        raise UserError(f"'{config}' has no row behind its colon; leave the colon out, or name a row")
    return as_file(config)


def load_config(config: str) -> ConfigDict:
    """Returns the config of a recipe's name or file, with its row behind a colon.

    Raises:
      UserError: there is no such recipe, or its file cannot be loaded.
    """
    return parse_flags("config", [f"--config={config}"], config=True).config


def _as_in_a_shell(word: str) -> str:
    """Returns a flag with the home folder for the ``~`` of ``--flag=~/path``, which shells leave to us."""
    flag, equals, value = word.partition("=")
    return flag + equals + expanded(value) if flag.startswith("-") else word


def _workdir_alone(arguments: Sequence[str]) -> str | None:
    """Returns the workdir of a command that names no recipe, None of any other command."""
    if any(word == "--config" or word.startswith("--config=") for word in arguments):
        return None
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    try:
        values(["", *arguments], known_only=True)
    except flags.Error:  # whose words are those of all flags
        return None
    return values.workdir


def _stored_recipe(folder: str) -> ConfigDict | None:
    """Returns the recipe in a workdir, None if there is none; raises UserError if it is damaged."""
    workdir = Workdir(folder)
    if not (workdir.path / "config.json").exists():
        return None
    return ConfigDict(_with_tuples(workdir.read("config.json")))


def _with_tuples(value: Any) -> Any:
    """Returns a value of JSON as recipes have it: no lists, but tuples."""
    if isinstance(value, dict):
        return {name: _with_tuples(part) for name, part in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _unknown_field(
    values: flags.FlagValues, arguments: Sequence[str], recipe: ConfigDict | None
) -> str | None:
    """Returns the message for the first ``--config.FIELD`` that the recipe lacks; None if it has them all.

    ``recipe`` is None if the arguments name its file.
    """
    paths = [word.removeprefix("--config=") for word in arguments if word.startswith("--config=")]
    paths += [path for word, path in pairwise(arguments) if word == "--config"]
    try:
        parser: Any = values["config"].parser if recipe is None else None  # of config_flags
        table_of_all = (parser.parse(paths[-1]) if recipe is None else recipe).to_dict()
    except Exception:  # there is no recipe, or it cannot be loaded: the first error says so
        return None
    for word in arguments:
        if word.startswith("--config."):
            name = word.removeprefix("--config.").partition("=")[0]
            if message := unknown_field(table_of_all, name):
                return message
    return None


def _flag_fault(message: str, values: flags.FlagValues, see: str, *, config: bool) -> str | None:
    """Returns what is wrong with a flag by absl's message on it, and the remedy; None for other messages.

    With `config`, an unknown flag may mean a field of the recipe. `see` is the command that lists the flags.
    """
    if missing := re.fullmatch(r"Missing value for flag (--\S+)", message):
        return f"{missing[1]} needs a value, {missing[1]}=…; the flags: {see}"
    unknown = re.search(r"Unknown command line flag '([\w-]+)'", message)
    if not unknown:
        return None
    if config:
        from efficientnet_pod.recipe.fields import all_fields  # no other start waits for it

        if field := field_for(unknown[1], (field.name for field in all_fields())):
            return f"unknown flag --{unknown[1]}; of the recipe it is --config.{field}"
    near = difflib.get_close_matches(unknown[1], [name for name in values if "." not in name], n=1)
    return f"unknown flag --{unknown[1]}" + (
        f"; did you mean --{near[0]}?" if near else f"; the flags: {see}"
    )


# The ends of what config_flags says of a value that is not of its field's type.
_WRONG_TYPES = {
    "invalid literal for int": "a whole number",
    "could not convert string to float": "a number",
    "Non-boolean argument": "true or false",
    "as a ConfigDict": "a table; set one of its fields, --config.{name}.FIELD=VALUE",
}


def _wrong_type(error: Exception) -> str | None:
    """Returns the message for the value of a field that is not of its type; None for any other error."""
    match = re.fullmatch(r"flag --config\.([\w.]+)=(.*?): (.*)", str(error), re.DOTALL)
    kind = next((kind for words, kind in _WRONG_TYPES.items() if match and words in match[3]), None)
    if not match or not kind:
        return None
    from efficientnet_pod.recipe.fields import all_fields  # no other start waits for it

    name, value = match[1], match[2]
    allowed = next((field.allowed for field in all_fields() if field.name == name), None)
    if allowed and kind.endswith("number"):
        return allowed.refusal(f"config.{name}", value)
    return f"config.{name}={value!r} must be {kind.format(name=name)}"


def _one_line(error: Exception) -> str:
    """Returns the last line of a message; config_flags puts a config file's whole traceback into it."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"^.*Traceback .*?\w+(Error|Exception): ", "config file: ", text)
    if "Failed loading config file" in text:
        path = text.partition("path]: ")[2].split(" ")[0]
        return f"no config file '{path}'; recipes that come with the trainer go by name, e.g. --config=digits"
    return text
