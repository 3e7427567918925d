"""Images on disk for the tests of data/: encoded arrays, class folders, TFDS data sets real and mocked."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


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
    """Makes TFDS produce ``num_examples`` random examples in each split of a data set that looks prepared."""
    builder = tfds.builder(name, data_dir=root)
    builder.info.set_splits(
        tfds.core.splits.SplitDict(
            [tfds.core.SplitInfo(name=s, shard_lengths=[num_examples], num_bytes=1) for s in splits]
        )
    )
    builder.data_path.mkdir(parents=True)
    builder.info.write_to_directory(builder.data_path)
    with tfds.testing.mock_data(num_examples=num_examples, data_dir=str(root)):
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


def prepare_numbered_photos(root: Path) -> Path:
    """Writes numbered_photos as record files, the training split in four shards; returns the data_dir."""
    builder = NumberedPhotos(data_dir=root)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=4))
    return root
