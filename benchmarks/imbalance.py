"""What `class_weights` and `sampling` are worth: three digits, one of them rare, on a small ResNet.

The digits 3, 8 and 9 of scikit-learn as a folder: 120, 120 and 6 images to train, 36 each to evaluate. Per
seed and way it prints top-1 and that of the rare class, then mean and standard deviation as Markdown.
Command: python -m benchmarks.imbalance
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from PIL import Image

from efficientnet_pod.data.sources.digits import open_digits
from efficientnet_pod.recipe.base_config import base_config
from efficientnet_pod.recipe.dotted import with_fields
from efficientnet_pod.train.train import train_and_evaluate

FLAGS = flags.FLAGS
flags.DEFINE_integer("seeds", 5, "Runs of each way.")
flags.DEFINE_integer("rare", 6, "Training images of the rare class.")

_IMAGES = {"3": 120, "8": 120, "9": None}  # the rare one last
_WAYS: dict[str, dict[str, Any]] = {
    "neither": {},
    "`class_weights=balanced`": {"data.class_weights": "balanced"},
    "`sampling=balanced`": {"data.sampling": "balanced"},
}


def main(_: list[str]) -> None:
    """Prints each run, then the table."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "digits"
        _write_folder(folder)
        for way, fields in _WAYS.items():
            found = []
            for seed in range(FLAGS.seeds):
                workdir = Path(scratch) / f"{len(rows)}-{seed}"
                summary = train_and_evaluate(_config(folder, seed=seed, **fields), str(workdir))
                per_class = json.loads((workdir / "predictions.json").read_text())["per_class"]
                rates = [correct / images for _, images, correct in sorted(per_class)]
                found.append([summary["final"]["top1"], rates[-1], np.mean(rates[:-1])])
                print(way, seed, *(f"{rate:.1%}" for rate in found[-1]), flush=True)
            mean, spread = np.mean(found, axis=0), np.std(found, axis=0, ddof=1)
            cells = (f"{100 * m:.1f} ± {100 * s:.1f}" for m, s in zip(mean, spread, strict=True))
            rows.append(f"| {way} | {' | '.join(cells)} |")
    print("| | top-1, % | rare class | other classes |", "|---|---|---|---|", *rows, sep="\n")


def _config(folder: Path, **fields: Any) -> dict[str, Any]:
    """Returns twelve epochs of 7.7 steps on one CPU device."""
    small = {
        "platform": "cpu",
        "cpu_replicas": 1,
        "global_batch": 32,
        "epochs": 12.0,
        "eval_epochs": 12.0,
        "model.name": "resnet9",
        "model.bn_epsilon": 1e-5,
        "data.name": f"folder:{folder}",
        "data.image_size": 8,
        "data.augment": "shift",
        "data.max_shift": 1,
        "optimizer.sgd.lr_per_256": 0.4,
        "optimizer.sgd.l2": 5e-4,
        "schedule.name": "polynomial",
        "schedule.power": 1.0,
        "schedule.warmup_epochs": 2.0,
    }
    return with_fields(base_config().to_dict(), small | fields)


def _write_folder(folder: Path) -> None:
    """Writes the training and the held-out images of the three digits as PNG, 8 × 8."""
    digits = open_digits()
    for split, images, most in (
        ("train", digits.train, _IMAGES | {"9": FLAGS.rare}),
        ("validation", digits.eval, dict.fromkeys(_IMAGES)),
    ):
        for label, count in most.items():
            (folder / split / label).mkdir(parents=True)
            for number in np.flatnonzero(images.labels == int(label))[:count]:
                pixels = images.fetch(number)["image"].numpy()
                Image.fromarray(pixels).save(folder / split / label / f"{number:04}.png")


if __name__ == "__main__":
    app.run(main)
