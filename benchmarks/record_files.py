"""Record files of one image again and again, in tensorflow/tpu's layout, for the benchmarks of lanes."""

from pathlib import Path

import tensorflow as tf


def write_record_files(folder: Path, image: bytes, *, images: int, shards: int) -> None:
    """Writes a training split of so many images and files, and one image to evaluate.

    Args:
      folder: where the files go.
      image: encoded image of every record.
      images: number of training images.
      shards: number of files, whose lengths differ by at most one.
    """
    feature = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[1])),
    }
    record = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    for split, count, files in (("train", images, shards), ("validation", 1, 1)):
        for file in range(files):
            with tf.io.TFRecordWriter(str(folder / f"{split}-{file:05}-of-{files:05}")) as writer:
                for _ in range(count * (file + 1) // files - count * file // files):
                    writer.write(record)
