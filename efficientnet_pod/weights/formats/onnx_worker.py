"""The program that writes ``model.onnx`` into a folder of weights and checks it in onnxruntime.

It runs in an environment with jax2onnx, JAX, Flax, etils and safetensors. This package need not be installed
there: its networks and its reading of folders are imported from here.

    onnxenv/bin/python -P efficientnet_pod/weights/formats/onnx_worker.py FOLDER
"""

import importlib
import importlib.util
import json
import logging
import sys
from pathlib import Path
from typing import Any

LACKS = 3  # exit code: a package is missing
FILE = "model.onnx"
_OPSET = 21
# Largest error, as a share of the largest logit. Rounding is 1e-6 to 1e-5, with random weights up to 1e-4.
_TOLERANCE = 1e-3


def main(folder: Path) -> int:
    """Writes the file and prints its figures as JSON; returns the exit code."""
    if "efficientnet_pod" not in sys.modules:
        _find_package(Path(__file__).parents[2])
    try:
        jax2onnx, onnxruntime = map(importlib.import_module, ("jax2onnx", "onnxruntime"))
        from efficientnet_pod.weights.convert import convert
        from efficientnet_pod.weights.reading import read_foreign
    except ModuleNotFoundError as error:
        print(f"{sys.executable} has no {error.name}", file=sys.stderr)
        return LACKS
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it warns of each shape it computes
    trained = convert(read_foreign(str(folder)))
    try:
        model = _converted(trained, jax2onnx)
    except Exception as error:  # a library's converter may raise anything
        reason = str(error).partition("\n")[0]
        print(f"jax2onnx cannot convert {trained.network}: {type(error).__name__}: {reason}", file=sys.stderr)
        return 1
    scratch = folder / f".{FILE}.partial"
    scratch.write_bytes(model.SerializeToString())
    try:
        difference = _difference(trained, onnxruntime, scratch)
        if not difference <= _TOLERANCE:
            print(f"onnxruntime's logits are {difference:.1e} from JAX's", file=sys.stderr)
            return 1
        scratch.replace(folder / FILE)
    finally:
        scratch.unlink(missing_ok=True)
    print(json.dumps({"nodes": len(model.graph.node), "difference": difference}))
    return 0


def _find_package(folder: Path) -> None:
    """Imports this package from its folder; other folders next to it stay out of ``sys.path``."""
    spec = importlib.util.spec_from_file_location(
        "efficientnet_pod", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["efficientnet_pod"] = module
    spec.loader.exec_module(module)


def _converted(trained: Any, jax2onnx: Any) -> Any:
    """Returns the ONNX ``ModelProto`` of levels 0..255 → logits, for any batch."""
    from efficientnet_pod.models.converting import for_converter

    size, program = trained.image_size, trained.program()
    with for_converter():
        model = jax2onnx.to_onnx(
            program,
            [("batch", size, size, 3)],
            model_name=trained.network,
            opset=_OPSET,
            input_names=["images"],
            output_names=["logits"],
        )
    about = {
        "network": trained.network,
        "class_names": json.dumps(list(trained.class_names), ensure_ascii=False),
        "image_size": str(size),
        "view": trained.view,
        "eval_crop_share": str(trained.eval_crop_share),
        # For pixels in 0..1; the program itself normalises.
        "mean": json.dumps(list(trained.mean_rgb)),
        "std": json.dumps(list(trained.stddev_rgb)),
        "input": "float32 RGB levels 0..255, (batch, height, width, 3)",
        "output": "logits",
    }
    for key, value in about.items():
        model.metadata_props.add(key=key, value=value)
    model.producer_name = "efficientnet-pod"
    return model


def _difference(trained: Any, onnxruntime: Any, file: Path) -> float:
    """Returns the largest difference from JAX's logits, as a share of the largest, in batches of 1 and 2."""
    import jax
    import numpy as np

    size = trained.image_size
    images = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype(np.float32)
    expected = np.asarray(jax.jit(trained.logits)(images))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    batches = [session.run(None, {"images": images[:batch]})[0] for batch in (1, 2)]
    worst = max(np.abs(logits - expected[: len(logits)]).max() for logits in batches)
    return float(worst / max(np.abs(expected).max(), 1e-30))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
