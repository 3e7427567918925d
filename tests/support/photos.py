"""Images on disk for the tests of data/: encoded arrays, class folders, TFDS data sets."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import constants


def photo(seed: int, height: int = 48, width: int = 64, channels: int = 3) -> np.ndarray:
    """Returns a smooth random uint8 image, which JPEG changes little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, channels), dtype=np.uint8)
    bands = [
        Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC)
        for c in range(channels)
    ]
    return np.stack([np.asarray(band) for band in bands], -1)


def encoded(pixels: np.ndarray, kind: str, mode: str | None = None) -> bytes:
    """Returns the bytes of a "JPEG" or "PNG" file; ``mode`` is Pillow's, where the shape leaves it open."""
    buffer = io.BytesIO()
    image = Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes()) if mode else Image.fromarray(pixels)
    image.save(buffer, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    return buffer.getvalue()


def noted(orientation: int, kind: str = "JPEG", height: int = 60, width: int = 90) -> bytes:
    """Returns an encoded photo of this size that notes the orientation in EXIF."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(photo(orientation, height, width)).save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


def write_folder(root: Path, counts: dict[str, int]) -> Path:
    """Writes ``counts["train/cat"]`` JPEGs into root/train/cat, and so on; returns root."""
    for number, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / folder / f"{i:03}.jpg").write_bytes(encoded(photo(1000 * number + i), "JPEG"))
    return root


@contextlib.contextmanager
def mocked_tfds(
    name: str, num_examples: int, root: Path, splits: tuple[str, ...] = ("train", "validation")
) -> Iterator:
    """Makes TFDS find record files of ``num_examples`` photos in each split of a data set it knows."""
    builder = tfds.builder(name, data_dir=root)
    features = builder.info.features
    size = [side or default for side, default in zip(features["image"].shape[:2], (48, 64), strict=True)]
    builder.data_path.mkdir(parents=True)
    for split in splits:
        file = builder.data_path / f"{builder.name}-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(file)) as writer:
            for i in range(num_examples):
                example = {key: f"{split}{i}" for key in features if key not in ("image", "label")}
                example |= {"image": photo(i, *size), "label": (7 * i) % features["label"].num_classes}
                writer.write(features.serialize_example(features.encode_example(example)))
    infos = [tfds.core.SplitInfo(name=s, shard_lengths=[num_examples], num_bytes=1) for s in splits]
    builder.info.set_splits(tfds.core.splits.SplitDict(infos))
    builder.info.write_to_directory(builder.data_path)
    with mock.patch.object(constants, "DATA_DIR", str(root)):
        yield


class NumberedPhotos(tfds.core.GeneratorBasedBuilder):
    """103 training and 31 validation PNGs, whose labels number them; 5 test images without labels."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=103)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        del dl_manager
        counts = {"train": 103, "validation": 31}
        splits = {split: self._generate_examples(n, labelled=True) for split, n in counts.items()}
        return splits | {"test": self._generate_examples(5, labelled=False)}

    def _generate_examples(self, count: int, labelled: bool) -> Iterator:
        for i in range(count):
            yield i, {"image": np.full((8, 8, 3), i, np.uint8), "label": i if labelled else -1}


def prepare_numbered_photos(root: Path, file_format: str = "tfrecord") -> Path:
    """Writes numbered_photos, the training split in four shards; returns the data_dir."""
    builder = NumberedPhotos(data_dir=root, file_format=file_format)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=4))
    return root


class DamagedPhotos(tfds.core.GeneratorBasedBuilder):
    """12 images in each split, of which number 7 is cut."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=12)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        del dl_manager
        return {split: self._generate_examples() for split in ("train", "validation")}

    def _generate_examples(self):
        for i in range(12):
            data = encoded(photo(i), "JPEG")
            yield i, {"image": io.BytesIO(data[:-100] if i == 7 else data), "label": i}


def imagenet_example(number: int, *, label: int | None = None, synset: str | None = None) -> bytes:
    """Returns record ``number`` in the layout of tensorflow/tpu, labelled ``number`` + 1 if not otherwise."""

    def feature(value: bytes | int) -> tf.train.Feature:
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    values = {
        "image/encoded": encoded(photo(number), "JPEG"),
        "image/class/label": number + 1 if label is None else label,
        "image/filename": f"n{number}.JPEG".encode(),
        "image/height": 48,
    }
    values |= {"image/class/synset": synset.encode()} if synset else {}
    features = tf.train.Features(feature={key: feature(value) for key, value in values.items()})
    return tf.train.Example(features=features).SerializeToString()


def write_records(folder: Path, split: str, counts: list[int], **options) -> list[Path]:
    """Writes split-00000-of-0000N and so on, ``imagenet_example``s numbered through; returns the files."""
    folder.mkdir(exist_ok=True)
    files, number = [], 0
    for shard, count in enumerate(counts):
        files.append(folder / f"{split}-{shard:05}-of-{len(counts):05}")
        with tf.io.TFRecordWriter(str(files[-1])) as writer:
            for _ in range(count):
                writer.write(imagenet_example(number, **options))
                number += 1
    return files
