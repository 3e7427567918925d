"""Trained weights exported: the folder of weights, a model card, and files for other programs."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from efficientnet_pod.errors import UserError
from efficientnet_pod.weights.folder import require_own, write_folder
from efficientnet_pod.weights.foreign import CONFIG, WEIGHTS
from efficientnet_pod.weights.formats.keras import write_keras
from efficientnet_pod.weights.formats.onnx_export import write_onnx
from efficientnet_pod.weights.formats.stablehlo import write_stablehlo
from efficientnet_pod.weights.model_card import CardFile, Published, model_card
from efficientnet_pod.weights.trained import Trained
from efficientnet_pod.workdir.files import cannot_write

# What `--to` takes. In their code {folder}, {keras}, {classes} and {size} stand for values.
FORMATS = {
    "safetensors": CardFile(WEIGHTS, "weights in timm's names, with config.json; import reads it"),
    "keras": CardFile(
        "model.weights.h5",
        "weights for keras.applications",
        "import keras\n\nmodel = keras.applications.{keras}(\n    weights=None, "
        "classes={classes}, input_shape=({size}, {size}, 3)\n)\n"
        'model.load_weights("{folder}/model.weights.h5")  # takes pixels of 0..255, gives probabilities',
    ),
    "stablehlo": CardFile(
        "model.stablehlo",
        "program for cpu, tpu and cuda: uint8 pixels in, logits out",
        "import pathlib\n\nfrom jax import export\n\n"
        'program = export.deserialize(bytearray(pathlib.Path("{folder}/model.stablehlo").read_bytes()))\n'
        "logits = program.call(images)  # uint8 (batch, {size}, {size}, 3), levels of 0..255",
    ),
    "onnx": CardFile(
        "model.onnx",
        "program for onnxruntime: float32 pixels in, logits out",
        'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{folder}/model.onnx")\n'
        "(logits,) = session.run(None, {{session.get_inputs()[0].name: images}})  # float32 levels of 0..255",
    ),
}


def export(
    trained: Trained,
    out: Path,
    formats: Sequence[str],
    *,
    onnx_python: str | None = None,
    published: Published | None = None,
) -> list[CardFile]:
    """Writes the folder of weights, a model card, and the other formats asked for, all or none.

    Args:
      trained: the weights.
      out: a new or empty folder, or one written by this function.
      formats: names in :data:`FORMATS`.
      onnx_python: Python that has jax2onnx; None: this one.
      published: facts for the model card.

    Returns:
      The files now in the folder, the model card left out.

    Raises:
      UserError: the network has no such form, a package is missing, or the folder holds other files.
      RunError: another program failed to write its format.
    """
    require_own(out)
    scratch = out.parent / f".{out.name}.partial"
    if scratch.exists():
        shutil.rmtree(scratch)
    try:
        write_folder(trained, scratch)
        if "keras" in formats:
            write_keras(trained, scratch / FORMATS["keras"].name)
        if "stablehlo" in formats:
            write_stablehlo(trained, scratch / FORMATS["stablehlo"].name)
        if "onnx" in formats:  # the other environment reads the folder of weights
            write_onnx(scratch, onnx_python)
        files = _files(trained, scratch, out)
        card = model_card(trained, files, name=out.resolve().name, published=published)
        (scratch / "README.md").write_text(card, encoding="utf-8")
        out.mkdir(parents=True, exist_ok=True)
        for form in FORMATS.values():  # other weights, from an earlier export
            if not (scratch / form.name).exists():
                (out / form.name).unlink(missing_ok=True)
        for file in sorted(scratch.iterdir()):
            file.replace(out / file.name)
    except OSError as error:
        raise UserError(cannot_write(epath.Path(out) / "README.md", error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return files


def _files(trained: Trained, folder: Path, out: Path) -> list[CardFile]:
    values = {
        "folder": out.resolve().name,  # where it lies is nobody's business elsewhere
        "keras": trained.title.replace("-", ""),
        "classes": trained.num_classes,
        "size": trained.image_size,
    }
    config = CardFile(CONFIG, "what the network is, what it sees, the names of its classes")
    return [
        dataclasses.replace(file, code=file.code.format(**values), size=(folder / file.name).stat().st_size)
        for file in (*FORMATS.values(), config)
        if (folder / file.name).exists()
    ]
