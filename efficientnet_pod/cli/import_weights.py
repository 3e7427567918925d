"""The command ``import``: weights of another library as a folder of weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from efficientnet_pod.cli.flags import IMAGE_SIZE, define_number, parse_flags
from efficientnet_pod.cli.help import example_of
from efficientnet_pod.cli.host import print_warnings
from efficientnet_pod.data.class_names import names_in
from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.weights.classes import imagenet_names

if TYPE_CHECKING:  # --help does not wait for JAX
    from efficientnet_pod.weights.trained import Trained


def run_import(arguments: Sequence[str]) -> None:
    """Reads the weights that are named, writes the folder and prints a summary."""
    words: list[str] = []
    values = parse_flags("import", arguments, _define, words=words)
    if len(words) != 1 or not values.out:
        missing = "--out" if len(words) == 1 else "one file or folder of weights"
        raise UserError(f"import needs {missing}, e.g. {example_of('import')}")
    from efficientnet_pod.models.registry import NETWORKS
    from efficientnet_pod.weights.convert import convert
    from efficientnet_pod.weights.folder import local_folder, write_folder
    from efficientnet_pod.weights.reading import read_foreign

    out = local_folder(values.out)
    if values.model and values.model not in NETWORKS:
        raise UserError(f"--model={values.model} is unknown{did_you_mean(values.model, NETWORKS)}")
    class_names = _read_class_names(values.class_names) if values.class_names else None
    trained = convert(
        read_foreign(words[0], raw=values.raw),
        network=values.model,
        num_classes=values.num_classes,
        class_names=class_names,
        image_size=values.image_size,
    )
    print_warnings(trained.warnings)
    write_folder(trained, out)
    print(_summary(trained, out))


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("model", None, "Network, e.g. b3; by default the one that fits.", flag_values=values)
    flags.DEFINE_string("out", None, "Folder to write: new, empty, or written by this.", flag_values=values)
    about = "Number of classes, if not the file's: a new classifier, of zeros."
    define_number(values, "num_classes", None, about)
    about = "File with the name of a class on each line, in the order of the logits."
    flags.DEFINE_string("class_names", None, about, flag_values=values)
    about = "Pixels that the weights were trained for; by default the network's."
    define_number(values, "image_size", None, about, IMAGE_SIZE)
    about = "Take the raw weights of a TensorFlow checkpoint, not the averaged ones."
    flags.DEFINE_bool("raw", False, about, flag_values=values)


def _read_class_names(path: str) -> tuple[str, ...]:
    """Returns the names in a text file, one a line; raises UserError if it cannot be read."""
    try:
        return names_in(Path(path).read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--class-names={path} cannot be read: {error}; give a text file in UTF-8") from error


def _summary(trained: "Trained", out: Path) -> str:
    mean, std = (", ".join(f"{value:.4g}" for value in rgb) for rgb in (trained.mean_rgb, trained.stddev_rgb))
    named = " of ImageNet" if trained.class_names == imagenet_names() else ""
    classes = f"{trained.num_classes:,} classes" + (named if trained.class_names else " without names")
    table = f", its table '{trained.origin['table']}'" if "table" in trained.origin else ""
    head = " (a new classifier)" if trained.origin.get("new_classifier") else ""
    return (
        f"{trained.title} of {trained.origin.get('layout', 'efficientnet-pod')}{table}: "
        f"{len(trained.tensors)} tensors, {trained.num_parameters:,} parameters, {classes}{head}\n"
        f"sees {trained.image_size} × {trained.image_size} pixels of {trained.seen}, mean {mean}, "
        f"standard deviation {std}\n"
        f"in {out}: model.safetensors, config.json; next: efficientnet-pod predict {out} photo.jpg"
    )
