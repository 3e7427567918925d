"""The commands ``data describe`` and ``data prepare``."""

from collections.abc import Callable, Sequence

from absl import flags

from efficientnet_pod.cli.flags import define_number, parse_flags
from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.optim.ranges import Range
from efficientnet_pod.pod.terminal import plural
from efficientnet_pod.workdir.files import is_remote, require_output

_SPLITS_OF = "imagenet:b0"  # a recipe with the splits train and validation
USAGE = """usage: efficientnet-pod data COMMAND [FLAGS]

commands:
  describe  print counts, classes and sizes, check a sample of the images, write a contact sheet
  prepare   write a copy with smaller images, which can be read in any order; the same command resumes

efficientnet-pod data COMMAND --help lists the flags.
example: efficientnet-pod data prepare --config=configs/imagenet.py:b0 --resize=256 --output=/data/small
"""


def run_data(arguments: Sequence[str]) -> None:
    """Runs one of the commands of the usage; raises `UserError` for a mistake."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        raise SystemExit(0 if arguments else 2)
    name, *rest = arguments
    if name not in COMMANDS:
        raise UserError(f"unknown command 'data {name}'{did_you_mean(name, COMMANDS)}")
    COMMANDS[name](rest)


def _describe(arguments: Sequence[str]) -> None:
    def define(values: flags.FlagValues) -> None:
        about = "Images of each split to check: a number, or 'all'."
        flags.DEFINE_string("check", "1000", about, flag_values=values)
        about = "PNG to write: eight images, evaluated and augmented."
        flags.DEFINE_string("sheet", None, about, flag_values=values)

    values = parse_flags("data describe", arguments, define, config=True)
    check = values.check
    if check != "all" and not (check.isdecimal() and int(check)):
        raise UserError(f"--check={check} is not a number above 0; give the images of each split, or 'all'")
    if values.sheet is not None:
        require_output(values.sheet, "--sheet")
    from efficientnet_pod.data.inspect import describe_data  # --help does not wait for TensorFlow
    from efficientnet_pod.models.registry import network_named
    from efficientnet_pod.recipe.reading import read_recipe
    from efficientnet_pod.run.run import open_images

    recipe = read_recipe(values.config.to_dict())
    network = network_named(recipe.model.name)
    source = open_images(recipe)
    bad = describe_data(
        source,
        recipe.data,
        image_size=recipe.data.image_size or network.image_size,
        check=None if check == "all" else int(check),
        sheet=values.sheet,
    )
    if bad:
        raise UserError(f"{plural(bad, 'bad image')} in '{source.name}'; replace or remove them")


def _prepare(arguments: Sequence[str]) -> None:
    def define(values: flags.FlagValues) -> None:
        about = "Pixels of the short side that images keep at most."
        define_number(values, "resize", None, about, Range(1, 65_536, whole=True))
        flags.DEFINE_string("output", None, "Folder of the copy.", flag_values=values)
        about = "Quality of the JPEGs that are written."
        define_number(values, "quality", 95, about, Range(1, 100, whole=True))
        about = "Images by the names of config.data.name, e.g. kaggle:/path or imagenet-tars:/path."
        flags.DEFINE_string("from", None, about, flag_values=values)

    names_source = any(word.partition("=")[0] == "--from" for word in arguments)
    if names_source and not any(word.partition("=")[0] == "--config" for word in arguments):
        arguments = [f"--config={_SPLITS_OF}", *arguments]
    values = parse_flags("data prepare", arguments, define, config=True)
    for name, example in (("resize", "256"), ("output", "/data/small")):
        if values[name].value is None:
            raise UserError(f"data prepare needs --{name}, e.g. --{name}={example}")
    if not is_remote(values.output):
        require_output(values.output, "--output", folder=True)
    from efficientnet_pod.data.prepare import prepare
    from efficientnet_pod.recipe.reading import read_recipe

    config = values.config.to_dict()
    if values["from"].value is not None:
        config["data"]["name"] = values["from"].value
    recipe = read_recipe(config)
    copy = prepare(recipe.data, resize=values.resize, output=values.output, quality=values.quality)
    for warning in copy.warnings:
        print(f"warning: {warning}")
    before, after = copy.bytes_before / 1e6, copy.bytes_after / 1e6
    written = "complete before this start"
    if copy.written:
        written = f"{copy.written:,} of them written by this start"
    print(f"{copy.images:,} images, {before:,.1f} MB before, {after:,.1f} MB now; {written}")
    print(f"to use them: --config.data.name=prepared:{values.output}")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"describe": _describe, "prepare": _prepare}
