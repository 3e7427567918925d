"""The command ``export``: trained weights as files that other programs open."""

from collections.abc import Sequence

from absl import flags

from efficientnet_pod.cli.flags import define_checkpoint, define_number, parse_flags, values_of
from efficientnet_pod.cli.help import example_of
from efficientnet_pod.cli.host import print_warnings
from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.optim.ranges import Range
from efficientnet_pod.pod.terminal import console, table


def run_export(arguments: Sequence[str]) -> None:
    """Writes the folder that the flags name and prints its files."""
    words: list[str] = []
    values = parse_flags("export", arguments, _define, words=words)
    if len(words) != 1 or not values.out:
        missing = "--out" if len(words) == 1 else "one workdir, folder or file of weights"
        raise UserError(f"export needs {missing}, e.g. {example_of('export')}")
    import jax  # --help does not wait for it

    from efficientnet_pod.weights.export import FORMATS, export
    from efficientnet_pod.weights.folder import local_folder
    from efficientnet_pod.weights.hub import push, require_repository
    from efficientnet_pod.weights.model_card import Published
    from efficientnet_pod.weights.open import open_weights

    for name in values.to:
        if name not in FORMATS:
            raise UserError(f"--to={name} is unknown{did_you_mean(name, FORMATS)}")
    # Nothing is computed: a program for a TPU or a GPU is made on any machine.
    jax.config.update("jax_platforms", "cpu")
    out = local_folder(values.out)
    repository = require_repository(values.push) if values.push is not None else ""
    trained = open_weights(words[0], which=values.checkpoint, raw=values.raw, average=values.average)
    print_warnings(trained.warnings)
    published = Published(**values_of(values, Published))
    files = export(trained, out, values.to, onnx_python=values.onnx_python, published=published)
    rows = table(str(out), "bytes", "")
    for file in files:
        rows.add_row(file.name, f"{file.size:,}", file.purpose)
    card = (out / "README.md").stat().st_size
    rows.add_row("README.md", f"{card:,}", "the model card, with lines that load each of these")
    rows.columns[2].justify, rows.columns[2].no_wrap = "left", False
    console().print(rows)
    if repository:
        page = push(out, [*(file.name for file in files), "README.md"], repository)
        console().print(f"sent to {page}", soft_wrap=True)


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", None, "Folder to write: new, empty, or written by this.", flag_values=values)
    about = "What to write besides model.safetensors: safetensors, keras, stablehlo, onnx."
    flags.DEFINE_list("to", ["safetensors"], about, flag_values=values)
    define_checkpoint(values)
    about = "Newest checkpoints of a workdir to take the mean of; 1 takes the one of --checkpoint."
    define_number(values, "average", 1, about, Range(1, 1000, whole=True))
    texts = {
        "license": "Licence for the model card, e.g. apache-2.0; by default the one stated with the weights.",
        "dataset_name": "Name of the images for the model card; by default that of a public data set.",
        "push": "Repository on the hub to send the files to, hf:OWNER/NAME; made where there is none.",
        "base_model": "OWNER/NAME of the weights it began with; by default known of those from the hub.",
    }
    for name, about in texts.items():
        flags.DEFINE_string(name, None, about, flag_values=values)
    about = "Python of an environment with jax2onnx, e.g. onnxenv/bin/python; by default this one."
    flags.DEFINE_string("onnx_python", None, about, flag_values=values)
