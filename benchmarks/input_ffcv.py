"""Owns the FFCV side of the input comparison; runs in FFCV's own Python, since it needs OpenCV and Numba.

FFCV reads files of its own: this one holds the very bytes of the photos, at their size.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ffcv.fields import IntField, RGBImageField, rgb_image
from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
from ffcv.writer import DatasetWriter
from PIL import Image

IMAGE_SIZE = 224
MEAN = 255 * np.array((0.485, 0.456, 0.406))
STDDEV = 255 * np.array((0.229, 0.224, 0.225))


class _Photos:
    """Decodes photo after photo, as the writer wants, and remembers the bytes of the last one."""

    def __init__(self, folder: Path):
        self.paths = sorted(folder.glob("*/*.jpg"))
        self.encoded = b""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        self.encoded = self.paths[index].read_bytes()
        return np.asarray(Image.open(self.paths[index]).convert("RGB")), index

    def encode(self, pixels: np.ndarray, quality: int) -> np.ndarray:
        """Takes the place of FFCV's encoder, which would make smaller files of another quality."""
        return np.frombuffer(self.encoded, np.uint8)


def prepare(photos: Path, task: str, batch: int, *, cores: int, normalise: bool) -> tuple[Iterator, str]:
    """Returns the endless batches of images, as torch tensors, and a description of them."""
    split = "validation" if task == "eval" else "train"
    file = photos / f"{split}.beton"
    if not file.exists():
        _write(_Photos(photos / split), file)
    size = (IMAGE_SIZE, IMAGE_SIZE)
    if task == "eval":
        image = [CenterCropRGBImageDecoder(size, ratio=224 / 256)]
    else:
        image = [RandomResizedCropRGBImageDecoder(size), RandomHorizontalFlip()]
    if normalise:
        image.append(NormalizeImage(MEAN, STDDEV, np.float32))
    loader = Loader(
        str(file),
        batch_size=batch,
        num_workers=cores,
        order=OrderOption.SEQUENTIAL if task == "eval" else OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={"image": [*image, ToTensor(), ToTorchImage()], "label": [IntDecoder(), ToTensor()]},
    )
    return _forever(loader), "float32 normalised" if normalise else "uint8"


def _write(photos: _Photos, file: Path) -> None:
    rgb_image.encode_jpeg = photos.encode
    partial = file.with_suffix(".partial")
    fields = {"image": RGBImageField(write_mode="jpg"), "label": IntField()}
    DatasetWriter(str(partial), fields, num_workers=1).from_indexed_dataset(photos)
    partial.rename(file)


def _forever(loader: Loader) -> Iterator:
    while True:
        for images, _ in loader:
            yield images
