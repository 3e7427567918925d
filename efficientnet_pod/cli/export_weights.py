"""The command ``export``: trained weights as files that other programs open."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from absl import flags
from etils import epath

from efficientnet_pod.cli.flags import parse_flags
from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.workdir.files import cannot_write, is_remote

if TYPE_CHECKING:
    from efficientnet_pod.weights.trained import Trained

_EXAMPLE = "efficientnet-pod export runs/digits --out=exported --to=safetensors,stablehlo"


class Format(NamedTuple):
    """One way to write weights.

    Attributes:
      file: its name in the folder.
      what: what it is for.
      use: lines of Python that load it, with the folder and the network for {folder} and {network}.
    """

    file: str
    what: str
    use: str


FORMATS = {
    "safetensors": Format(
        "model.safetensors", "weights in timm's names, with config.json; import reads it", ""
    ),
    "keras": Format(
        "model.weights.h5",
        "weights for keras.applications",
        "import keras\n\nmodel = keras.applications.EfficientNet{network}(\n    weights=None, "
        "classes={classes}, input_shape=({size}, {size}, 3)\n)\n"
        'model.load_weights("{folder}/model.weights.h5")  # takes pixels of 0..255, gives probabilities',
    ),
    "stablehlo": Format(
        "model.stablehlo",
        "program for cpu, tpu and cuda: uint8 pixels in, logits out",
        "import pathlib\n\nfrom jax import export\n\n"
        'program = export.deserialize(bytearray(pathlib.Path("{folder}/model.stablehlo").read_bytes()))\n'
        "logits = program.call(images)  # uint8 (batch, {size}, {size}, 3), levels of 0..255",
    ),
    "onnx": Format(
        "model.onnx",
        "program for onnxruntime: float32 pixels in, logits out",
        'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{folder}/model.onnx")\n'
        "(logits,) = session.run(None, {{session.get_inputs()[0].name: images}})  # float32 levels of 0..255",
    ),
}


def run_export(arguments: Sequence[str]) -> None:
    """Writes the folder."""
    words: list[str] = []
    values = parse_flags("export", arguments, _define, words=words)
    if len(words) != 1 or not values.out:
        missing = "--out" if len(words) == 1 else "one workdir, folder or file of weights"
        raise UserError(f"export needs {missing}, e.g. {_EXAMPLE}")
    for name in values.to:
        if name not in FORMATS:
            raise UserError(f"--to={name} is unknown{did_you_mean(name, FORMATS)}")
    import jax

    from efficientnet_pod.weights.folder import require_own
    from efficientnet_pod.weights.open import open_weights

    # Nothing is computed: a program for a TPU or a GPU is made on any machine.
    jax.config.update("jax_platforms", "cpu")
    if is_remote(values.out):
        raise UserError(f"--out={values.out} is not on this machine; name a local folder and copy it there")
    out = Path(values.out)
    require_own(out)
    trained = open_weights(words[0], which=values.checkpoint, raw=values.raw)
    export(trained, out, values.to, onnx_python=values.onnx_python)
    _print(trained, out)


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", None, "Folder to write: new, empty, or written by this.", flag_values=values)
    about = f"What to write beside model.safetensors: {', '.join(FORMATS)}."
    flags.DEFINE_list("to", ["safetensors"], about, flag_values=values)
    flags.DEFINE_string("checkpoint", "best", "Of a workdir: 'best', 'latest' or a step.", flag_values=values)
    flags.DEFINE_bool("raw", False, "Take the raw weights, not the averaged ones.", flag_values=values)
    about = "Python of an environment with jax2onnx, e.g. onnxenv/bin/python; by default this one."
    flags.DEFINE_string("onnx_python", None, about, flag_values=values)


def export(trained: "Trained", out: Path, formats: Sequence[str], *, onnx_python: str | None = None) -> None:
    """Writes the folder of weights, a model card, and the other formats that are asked for; all or nothing.

    Args:
      trained: the weights.
      out: folder; new, empty, or written by this.
      formats: of :data:`FORMATS`.
      onnx_python: Python that has jax2onnx; None: this one.

    Raises:
      UserError: the network has no such form, a package is missing, or the folder holds other files.
    """
    from efficientnet_pod.weights.folder import require_own, write_folder
    from efficientnet_pod.weights.model_card import model_card

    require_own(out)
    scratch = out.parent / f".{out.name}.partial"
    if scratch.exists():
        shutil.rmtree(scratch)
    try:
        write_folder(trained, scratch)
        for name in FORMATS:
            if name in formats and (write := _writer(name, onnx_python)):
                write(trained, scratch / FORMATS[name].file)
        card = model_card(trained, _files(trained, scratch, out), name=out.resolve().name, folder=str(out))
        (scratch / "README.md").write_text(card, encoding="utf-8")
        out.mkdir(parents=True, exist_ok=True)
        for form in FORMATS.values():  # of other weights, from an earlier export
            if not (scratch / form.file).exists():
                (out / form.file).unlink(missing_ok=True)
        for file in sorted(scratch.iterdir()):
            file.replace(out / file.name)
    except OSError as error:
        raise UserError(cannot_write(epath.Path(out) / "README.md", error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _writer(name: str, onnx_python: str | None) -> Callable[["Trained", Path], None] | None:
    """Returns what writes a format; None for the folder itself."""
    match name:
        case "keras":
            from efficientnet_pod.weights.formats.keras_writer import write_keras

            return write_keras
        case "stablehlo":
            from efficientnet_pod.weights.formats.stablehlo import write_stablehlo

            return write_stablehlo
        case "onnx":
            from efficientnet_pod.weights.formats.onnx_export import write_onnx

            # Of the folder of weights, which is all that the other environment reads.
            return lambda trained, path: write_onnx(path.parent, onnx_python)
    return None


def _files(trained: "Trained", folder: Path, out: Path) -> list:
    from efficientnet_pod.weights.model_card import CardFile

    found = []
    for form in FORMATS.values():
        if (folder / form.file).exists():
            use = form.use.format(
                folder=out,
                network=trained.network.upper(),
                classes=trained.num_classes,
                size=trained.image_size,
            )
            found.append(CardFile(form.file, (folder / form.file).stat().st_size, form.what, use))
    config = "what the network is, what it sees, the names of its classes"
    return [*found, CardFile("config.json", (folder / "config.json").stat().st_size, config)]


def _print(trained: "Trained", out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column(str(out))
    table.add_column("bytes", justify="right")
    table.add_column("")
    for file in _files(trained, out, out):
        table.add_row(file.name, f"{file.size:,}", file.what)
    table.add_row(
        "README.md",
        f"{(out / 'README.md').stat().st_size:,}",
        "the model card, with lines that load each of these",
    )
    Console().print(table)
