"""Measures what a training image costs a host core, for efficientnet_pod/data/host_cores.py.

Each setting takes its turn in each round, on one core; the cost of an output of S × S pixels is fitted to
decode + output · (S / 224)² by least squares over the medians.
Command: python -m benchmarks.host_cores
"""

import itertools
import os
import statistics
import time
from pathlib import Path

import numpy as np
from absl import app, flags

from benchmarks.photos import photos
from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.pipeline import train_batches
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.pod import memory
from efficientnet_pod.recipe.preprocessing import Preprocessing

FLAGS = flags.FLAGS
flags.DEFINE_string("photos", ".cache/benchmark_photos", "Folder of the photographs.")
flags.DEFINE_integer("rounds", 5, "Turns of each setting.")
flags.DEFINE_integer("batches", 8, "Timed batches of a turn.")

BATCH, SIZES, RESIZES = 64, (224, 448), ("reference", "fast")
POLICIES = {"none": 0, "randaugment": 1, "autoaugment": 1}  # policy → layers


def main(_: list[str]) -> None:
    """Prints a table of the turns and the fitted costs."""
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    memory.ask_for_huge_pages()
    source = open_source(f"folder:{photos(Path(FLAGS.photos))}")
    settings = list(itertools.product(SIZES, RESIZES, POLICIES))
    turns: dict[tuple[int, str, str], list[float]] = {setting: [] for setting in settings}
    for _ in range(FLAGS.rounds):
        for size, resize, policy in settings:
            preprocessing = Preprocessing(size, dtype="uint8", resize=resize, policy=policy, policy_layers=1)
            batches = train_batches(source, preprocessing, HostShare(BATCH), seed=0).as_numpy_iterator()
            for _ in range(3):  # those that were ready
                next(batches)
            began = time.perf_counter()
            for _ in range(FLAGS.batches):
                next(batches)
            turns[size, resize, policy].append(1000 * (time.perf_counter() - began) / FLAGS.batches / BATCH)
    print("| px | resize | policy | ms an image: median (min-max) |\n|---|---|---|---|")
    for (size, resize, policy), values in turns.items():
        spread = f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"
        print(f"| {size} | {resize} | {policy} | {spread} |")
    names = ["decode", *RESIZES, *list(POLICIES)[1:]]
    rows, values = [], []
    for (size, resize, policy), milliseconds in turns.items():
        output = (size / 224) ** 2
        rows.append([1.0, *(output * (name in (resize, policy)) for name in names[1:])])
        values.append(statistics.median(milliseconds))
    costs, *_ = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)
    print(", ".join(f"{name} {cost:.2f}" for name, cost in zip(names, costs, strict=True)) + " ms")


if __name__ == "__main__":
    app.run(main)
