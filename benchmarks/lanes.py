"""What many lanes of record files cost one host that reads them all: start, rate, memory, threads and files.

Every line is a process of its own, in turns. The images are small JPEGs, all alike, on the local disk and in
the page cache after the first round. "Read" is the stream of undecoded images, "made" that of batches.
Command: python -m benchmarks.lanes
"""

import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks.record_files import write_record_files
from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.order import shuffled
from efficientnet_pod.data.pipeline import train_batches
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.types import Records
from efficientnet_pod.recipe.preprocessing import Preprocessing

FLAGS = flags.FLAGS
flags.DEFINE_integer("images", 51_200, "Training images.")
flags.DEFINE_integer("shards", 256, "Record files.")
flags.DEFINE_list("replicas", ["1", "8", "64", "256"], "Replicas, all on one host.")
flags.DEFINE_integer("global_batch", 512, "Images of a step.")
flags.DEFINE_integer("rounds", 5, "Processes for each number of replicas and kind.")
flags.DEFINE_string("measure", "", "Internal: FOLDER,KIND,REPLICAS.")

_STEPS = {"read": 80, "made": 16}  # timed, after the first


def main(_: list[str]) -> None:
    """Prints a table in Markdown."""
    if FLAGS.measure:
        return _measure(*FLAGS.measure.split(","))
    with tempfile.TemporaryDirectory() as folder:
        noise = np.random.default_rng(0).integers(0, 256, (160, 200, 3), dtype=np.uint8)
        image = tf.io.encode_jpeg(noise, quality=75).numpy()  # 20 kB
        write_record_files(Path(folder), image, images=FLAGS.images, shards=FLAGS.shards)
        cases = list(itertools.product(_STEPS, FLAGS.replicas))
        rounds = [{case: _process(folder, *case) for case in cases} for _ in range(FLAGS.rounds)]
    print("| | replicas | first batch, s | images/s | peak memory, MiB | threads | files |")
    print("|---|---|---|---|---|---|---|")
    for kind, replicas in cases:
        figures = [each[kind, replicas] for each in rounds]
        columns = [_spread([figure[name] for figure in figures]) for name in figures[0]]
        print(f"| {kind} | {replicas} | " + " | ".join(columns) + " |", flush=True)


def _spread(values: list[float]) -> str:
    return f"{median(values):,.4g} ({min(values):,.4g}-{max(values):,.4g})"


def _process(folder: str, kind: str, replicas: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.lanes", f"--measure={folder},{kind},{replicas}"]
    command.append(f"--global_batch={FLAGS.global_batch}")
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _measure(folder: str, kind: str, replicas: str) -> None:
    """Prints the figures of one stream as JSON."""
    source = open_source(f"tfrecord:{folder}")
    assert isinstance(source.train, Records)
    batch, steps = FLAGS.global_batch, _STEPS[kind]
    share = HostShare(batch, num_replicas=int(replicas))
    began = time.perf_counter()
    if kind == "read":
        options = tf.data.Options()
        options.autotune.enabled = False
        names = shuffled(source.train, share, 0).map(lambda example, key: tf.strings.length(example["image"]))
        stream = iter(names.batch(batch).with_options(options))
    else:
        stream = train_batches(source, Preprocessing(64, dtype="uint8"), share, seed=0).as_numpy_iterator()
    next(stream)
    first = time.perf_counter()
    for _ in range(steps):
        next(stream)
    rate = steps * batch / (time.perf_counter() - first)
    status = Path("/proc/self/status").read_text()
    figures = {
        "first": first - began,
        "rate": rate,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "threads": int(status.partition("Threads:")[2].split()[0]),
        "files": sum(os.path.realpath(file).startswith(folder) for file in Path("/proc/self/fd").iterdir()),
    }
    print(json.dumps(figures), flush=True)
    os._exit(0)  # without the wait for TensorFlow's threads


if __name__ == "__main__":
    app.run(main)
