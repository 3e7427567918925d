"""How well an epoch is mixed: where the images of a data set of ImageNet's size come in two epochs in a row.

The data set is record files with nothing in them, read by the pipeline that training uses. A random
permutation of N puts an image a mean N / 3 away from its place in the epoch before, and two images that are
stored side by side a mean N / 3 apart.
Command: python -m benchmarks.shuffle
"""

import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks.record_files import write_record_files
from efficientnet_pod.data import order
from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.types import Indexed, Records

FLAGS = flags.FLAGS
flags.DEFINE_integer("images", 1_281_167, "Training images.")
flags.DEFINE_integer("shards", 1024, "Record files.")
flags.DEFINE_list("replicas", ["1", "8", "64", "256"], "Replicas, of which the first lane is looked at.")

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9)


def main(_: list[str]) -> None:
    """Prints a table in Markdown."""
    print("| epoch of | images of a lane | from epoch to epoch: mean, quantiles " + str(QUANTILES), end="")
    print(" | stored side by side, apart: median, share within 1,000 |\n|---|---|---|---|")
    uniform = [1 - np.sqrt(1 - q) for q in QUANTILES]
    print(f"| a random permutation | | 0.333; {_figures(uniform)} | 0.293, 2,000 / N |")
    with tempfile.TemporaryDirectory() as folder:
        write_record_files(Path(folder), b"-", images=FLAGS.images, shards=FLAGS.shards)
        records = open_source(f"tfrecord:{folder}").train
        for replicas in map(int, FLAGS.replicas):
            _report(f"record files, {replicas} replicas", records, replicas)
    indexed = Indexed(FLAGS.images, lambda i: {"name": tf.strings.join(["x#", tf.strings.as_string(i)])})
    _report("images by number, any replicas", indexed, 1)


def _report(name: str, examples: Records | Indexed, replicas: int) -> None:
    share = HostShare(replicas, num_devices=replicas, num_replicas=replicas)
    if isinstance(examples, Records):
        count = examples.share(0, share.lanes(examples.num_examples).count).num_examples
        stream = order.shuffled(examples, share, 0)
    else:
        count, stream = examples.num_examples, order.permuted(examples, share, 0)
    names = stream.map(lambda example, key: example["name"]).take(2 * count).batch(8192)
    stored = np.concatenate([_stored_place(batch) for batch in names.as_numpy_iterator()])
    ranks = np.unique(stored, return_inverse=True)[1]  # within the lane
    if len(np.unique(ranks[:count])) != count or len(np.unique(ranks[count:])) != count:
        raise AssertionError("an epoch does not hold each image once")
    first, second = (np.argsort(epoch) for epoch in (ranks[:count], ranks[count:]))  # place of each image
    moved = np.abs(first - second) / count
    apart = np.abs(np.diff(first))
    figures = f"{moved.mean():.3f}; {_figures(np.quantile(moved, QUANTILES))}"
    near = (apart <= 1000).mean()
    print(f"| {name} | {count:,} | {figures} | {np.median(apart) / count:.3f}, {near:.2%} |", flush=True)


def _figures(values: np.ndarray | list[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _stored_place(names: np.ndarray) -> np.ndarray:
    """Returns file number · 10^7 + number in the file, int64."""
    places = np.empty(len(names), np.int64)
    for i, name in enumerate(names):
        path, _, number = name.rpartition(b"#")
        file = path.rpartition(b"/")[2]
        places[i] = int(number) + (10**7 * int(file.split(b"-")[1]) if b"-" in file else 0)
    return places


if __name__ == "__main__":
    app.run(main)
