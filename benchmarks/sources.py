"""What each kind of source gives: undecoded images, and batches of 224 pixels, in one run beside TFDS.

The same photos, again and again, as a folder, as ArrayRecord and TFRecord files of TFDS, as Parquet files of
Hugging Face's layout and as webdataset's shards, on the local disk and in the page cache. All streams are of
one process, and take turns; while one is timed, the others stand still with full buffers. TFDS reads its
TFRecord files with its own shuffling, and decodes nothing. With --hosts=8 each stream but that one is of the
first of eight hosts. "In Python" is the share of CPU time in functions that tf.data calls.
Commands: python -m benchmarks.sources; python -m benchmarks.sources --hosts=8
"""

import io
import itertools
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from absl import app, flags

from benchmarks.photos import CACHE, photos
from efficientnet_pod.pod.memory import ask_for_huge_pages

FLAGS = flags.FLAGS
flags.DEFINE_string("photos", str(CACHE), "Folder of the photos, which are made if they are not there.")
flags.DEFINE_integer("images", 4096, "Training images of each source.")
flags.DEFINE_integer("files", 16, "Record, Parquet and tar files of each source.")
flags.DEFINE_integer(
    "hosts", 1, "Hosts that share the images out, each with a replica; the first one's rate is shown."
)
flags.DEFINE_integer("rounds", 3, "Turns of each kind.")
flags.DEFINE_list("kinds", [], "Kinds to measure; all by default.")

_KINDS = ("folder", "ArrayRecord", "TFRecord", "Parquet", "tar", "TFDS itself")
_BATCH, _UNTIMED = 128, 12
_STEPS = {"undecoded": 60, "batches": 12}  # timed
_seconds_in_python = [0.0]  # of CPU time


def main(_: list[str]) -> None:
    """Prints a table in Markdown for undecoded images and for batches."""
    _time_python()
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), photos(Path(FLAGS.photos)))
        for what in _STEPS:
            kinds = [kind for kind in FLAGS.kinds or _KINDS if (what, kind) != ("batches", "TFDS itself")]
            before, streams = os.getloadavg()[0], {kind: _stream(folder, kind, what) for kind in kinds}
            turns = [{kind: _turn(streams[kind], what) for kind in kinds} for _ in range(FLAGS.rounds)]
            print(f"\nload average {before:.1f} to {os.getloadavg()[0]:.1f}, n = {FLAGS.rounds}\n")
            print(f"| {what} | images/s | images/CPU s | in Python, % |\n|---|---|---|---|")
            for kind in kinds:
                columns = [_spread([turn[kind][column] for turn in turns]) for column in range(3)]
                print(f"| {kind} | " + " | ".join(columns) + " |", flush=True)
            del streams
    sys.stdout.flush()
    os._exit(0)  # without the wait for TensorFlow's threads


def _spread(values: list[float]) -> str:
    return f"{median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


def _time_python() -> None:
    """Counts the CPU time of Python's functions in the data sets that are made from now on."""
    import tensorflow as tf

    make = tf.numpy_function

    def timed(function: Callable, *arguments: Any, **named: Any) -> tf.Tensor:
        def call(*values: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*values)
            finally:  # one thread at a time has the interpreter
                _seconds_in_python[0] += time.thread_time() - start

        return make(call, *arguments, **named)

    tf.numpy_function = timed


def _turn(stream: Iterator, what: str) -> tuple[float, float, float]:
    """Returns a turn's images a second, images a second of CPU time, and percent of it in Python."""
    for _ in range(_UNTIMED):
        next(stream)
    wall, cpu, python = time.perf_counter(), time.process_time(), _seconds_in_python[0]
    for _ in range(_STEPS[what]):
        next(stream)
    images, cpu = _STEPS[what] * _BATCH, time.process_time() - cpu
    wall, python = time.perf_counter() - wall, _seconds_in_python[0] - python
    return images / wall, images / cpu, 100 * python / cpu


def _write(root: Path, photo_folder: Path) -> None:
    """Writes every kind of source into a folder of its name."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import tensorflow as tf
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    from efficientnet_pod.data.shards import features_of

    classes = sorted(folder.name for folder in (photo_folder / "train").iterdir())
    features, huggingface = features_of(classes), {"label": {"names": classes}}
    for kind in _KINDS[1:-1]:
        (root / kind).mkdir()
    for split, count in (("train", FLAGS.images), ("validation", 32)):
        files = FLAGS.files if split == "train" else 1
        images = itertools.cycle(sorted((photo_folder / split).glob("*/*.jpg"), key=lambda file: file.name))
        for number in range(files):
            part = list(itertools.islice(images, count // files))
            of = f"{number:05}-of-{files:05}"
            labels = [classes.index(file.parent.name) for file in part]
            writer = ArrayRecordWriter(
                str(root / f"ArrayRecord/photos-{split}.array_record-{of}"), "group_size:1,uncompressed"
            )
            shard = tarfile.open(root / f"tar/{split}-{number:06}.tar", "w")
            with shard, tf.io.TFRecordWriter(str(root / f"TFRecord/photos-{split}.tfrecord-{of}")) as records:
                for place, (file, label) in enumerate(zip(part, labels, strict=True)):
                    content, key = file.read_bytes(), f"{number:05}_{place:05}"
                    example = features.encode_example({"image": io.BytesIO(content), "label": label})
                    records.write(features.serialize_example(example))
                    writer.write(features.serialize_example(example))
                    for name, data in ((f"{key}.jpg", content), (f"{key}.cls", str(label).encode())):
                        info = tarfile.TarInfo(name)
                        info.size = len(data)
                        shard.addfile(info, io.BytesIO(data))
                    link = root / "folder" / split / file.parent.name / f"{key}.jpg"
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.write_bytes(content)
            writer.close()
            rows = [{"bytes": file.read_bytes(), "path": file.name} for file in part]
            table = pa.table({"image": rows, "label": labels}).replace_schema_metadata(
                {"huggingface": json.dumps({"info": {"features": huggingface}})}
            )
            pq.write_table(table, root / f"Parquet/{split}-{of}.parquet", row_group_size=100)
    (root / "tar/classnames.txt").write_text("\n".join(classes))
    for kind in ("ArrayRecord", "TFRecord"):
        tfds.folder_dataset.write_metadata(
            data_dir=root / kind,
            features=features,
            version="1.0.0",
            check_data=False,
            split_infos=[
                tfds.core.SplitInfo(name=split, shard_lengths=[count // files] * files, num_bytes=0)
                for split, count, files in (("train", FLAGS.images, FLAGS.files), ("validation", 32, 1))
            ],
        )


def _stream(folder: str, kind: str, what: str) -> Iterator:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from efficientnet_pod.data.host_share import HostShare
    from efficientnet_pod.data.order import permuted, shuffled
    from efficientnet_pod.data.pipeline import train_batches
    from efficientnet_pod.data.sources.opening import open_source
    from efficientnet_pod.data.sources.types import Indexed
    from efficientnet_pod.recipe.preprocessing import Preprocessing

    options = tf.data.Options()
    options.autotune.enabled = kind == "TFDS itself"
    if kind == "TFDS itself":
        builder = tfds.builder_from_directory(f"{folder}/TFRecord")
        decoders = {"image": tfds.decode.SkipDecoding()}
        theirs = builder.as_dataset(split="train", decoders=decoders, shuffle_files=True)
        images = theirs.repeat().shuffle(4096).map(lambda example: tf.strings.length(example["image"]))
        return iter(images.batch(_BATCH).prefetch(2).with_options(options))
    share = HostShare(_BATCH * FLAGS.hosts, num_devices=FLAGS.hosts, num_replicas=FLAGS.hosts)
    word = {"ArrayRecord": "prepared", "TFRecord": "prepared"}.get(kind, kind.lower())
    source = open_source(f"{word}:{folder}/{kind}")
    if what == "batches":
        preprocessing = Preprocessing(224, dtype="uint8")
        return train_batches(source, preprocessing, share, seed=0).as_numpy_iterator()
    order = permuted if isinstance(source.train, Indexed) else shuffled
    images = order(source.train, share, 0).map(lambda example, _: tf.strings.length(example["image"]))
    return iter(images.batch(_BATCH).prefetch(2).with_options(options))


if __name__ == "__main__":
    ask_for_huge_pages()  # as the command line does before training
    app.run(main)
