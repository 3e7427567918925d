"""Weights from Keras and back: the largest difference of logits for each network, through real files.

Random weights, with batch norm's statistics those of the images, so that the images matter. Each network is
written by Keras, read here, and its logits compared; then exported here, read by Keras, and compared again.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "references"))

import jax
import numpy as np
from keras_reference import randomise

import efficientnet_pod as ep
from efficientnet_pod.weights.formats.keras import write_keras

CLASSES = 1000


def agreement(name: str, size: int, suffix: str) -> str:
    """Returns a row of the table."""
    import keras

    options = {"weights": None, "classes": CLASSES, "classifier_activation": None}
    network = getattr(keras.applications, f"EfficientNet{name.replace('_', '').upper()}")
    model = network(input_shape=(size, size, 3), **options)
    levels = np.random.default_rng(0).uniform(0, 255, (4, size, size, 3)).astype(np.float32)
    randomise(model, levels, seed=1)
    expected = np.asarray(model(levels, training=False))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"w{suffix}"
        model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
        began = time.monotonic()
        trained = ep.trained(str(path))
        seconds, megabytes = time.monotonic() - began, path.stat().st_size / 1e6
        apply = jax.jit(trained.logits)
        found = np.asarray(apply(levels))
        write_keras(trained, Path(folder) / "back.weights.h5")
        again = network(input_shape=(size, size, 3), **options)
        again.load_weights(Path(folder) / "back.weights.h5")
        back = np.asarray(again(levels, training=False))
    scale = np.abs(expected).max()
    spread = np.std(expected, axis=0).mean() / scale
    return (
        f"| {name} | {size} | {suffix} | {megabytes:.0f} | {seconds:.1f} | {spread:.2f} "
        f"| {np.abs(found - expected).max() / scale:.1e} | {np.abs(back - expected).max() / scale:.1e} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default="b0,b1,b2,b3,b4,b5,v2_b0,v2_b1,v2_b2,v2_b3,v2_s")
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--suffix", default=".weights.h5", choices=(".weights.h5", ".keras"))
    flags = parser.parse_args()
    print("| network | pixels | file | MB | read in s | spread of a logit | from Keras | and back |")
    print("|---|---|---|---|---|---|---|---|")
    for name in flags.models.split(","):
        print(agreement(name, flags.size, flags.suffix), flush=True)


if __name__ == "__main__":
    main()
