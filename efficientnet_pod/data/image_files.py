"""Images as evaluation sees them, of files and of memory, each fault with its reason; files in folders."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from efficientnet_pod.data.bad_images import find_fault
from efficientnet_pod.data.quiet import reason_of, tf
from efficientnet_pod.data.sources.folders import NO_FILE, SUFFIXES, entries
from efficientnet_pod.data.transforms.orientation import UPRIGHT, noted_orientation
from efficientnet_pod.data.transforms.preprocess import eval_image
from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.preprocessing import Preprocessing

Photo = str | os.PathLike[str] | np.ndarray | Image.Image

_THREADS = 8  # each in a decoder of TensorFlow, which lets the others run
_AHEAD = 64  # images decoded and not yet asked for


def find_images(paths: Iterable[str]) -> tuple[list[str], list[tuple[str, str]], list[str]]:
    """Returns the image files, (path, reason) for each path that has none, and the files left out.

    ``paths`` are files, whatever their suffix, and folders. From a folder all files named as images are
    taken, as in training, and at any depth, sorted; hidden ones are left out.
    """
    files: list[str] = []
    faults: list[tuple[str, str]] = []
    others: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            below = len(files) + len(faults)
            _add_below(path, files, faults, others)
            if below == len(files) + len(faults):
                faults.append((path, f"there is no image in this folder ({', '.join(SUFFIXES)})"))
        elif os.path.isfile(path):
            files.append(path)
        else:
            faults.append((path, f"it {NO_FILE}" if os.path.exists(path) else "it does not exist"))
    return files, faults, others


def _add_below(
    folder: str,
    files: list[str],
    faults: list[tuple[str, str]],
    others: list[str],
    above: frozenset[tuple[int, int]] = frozenset(),
) -> None:
    """Adds a folder's images, then those of its folders, without following links to a folder ``above``."""
    try:
        status, listed = os.stat(folder), entries(folder)
    except OSError as error:
        faults.append((folder, f"it cannot be read: {error.strerror}"))
        return
    identity = status.st_dev, status.st_ino
    if identity in above:
        return
    for entry in listed:
        if entry.fault:
            faults.append((entry.path, f"it {entry.fault}"))
        elif not entry.is_folder:
            (files if entry.name.lower().endswith(SUFFIXES) else others).append(entry.path)
    for entry in listed:
        if entry.is_folder:
            _add_below(entry.path, files, faults, others, above | {identity})


def count_turned(paths: Iterable[str]) -> int:
    """Returns how many image files note in EXIF that the photo does not stand as it is stored."""
    count = 0
    for path in paths:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            count += int(noted_orientation(file.read()) != UPRIGHT)
    return count


def decode_files(
    paths: Iterable[str], preprocessing: Preprocessing
) -> Iterator[tuple[str, np.ndarray | str]]:
    """Yields each path with its image or, if there is none, the reason in one line.

    Images are as evaluation sees them: (image_size, image_size, 3) of ``preprocessing.dtype``, levels of
    0..255.
    """
    for path, pixels in decode_images(paths, preprocessing):
        yield str(path), pixels


def decode_images(
    images: Iterable[Photo], preprocessing: Preprocessing
) -> Iterator[tuple[Photo, np.ndarray | str]]:
    """Yields each image with its pixels as of :func:`decode_files`, or with the reason why there are none.

    An array holds the pixels of a file: uint8 (height, width, 3), of any size, upright. A PIL image is first
    converted as the decoder does it: grey, palettes and CMYK become RGB, transparency is dropped, 16 bits
    are reduced to the upper 8; and it is turned as its EXIF notes if ``preprocessing`` respects that.

    A photo and its file give the same bits, with two exceptions. A JPEG file is decoded no further than its
    crop: if its colours have half the resolution, as in most cameras, the outermost two columns may differ
    (in one of six photographs, by up to 12 levels of 255). And ``resize="fast"`` decodes large JPEG files at
    a smaller size.
    """
    from_bytes, from_pixels = _programs(preprocessing)
    loading = Lock()  # a PIL image that stands in the list twice is loaded at its first use

    def decode(image: Photo) -> np.ndarray | str:
        if not isinstance(image, str | os.PathLike):
            try:
                with loading:
                    pixels = _pixels(image, preprocessing)
            except UserError as error:
                return str(error)
            return from_pixels(pixels).numpy()
        try:
            with open(image, "rb") as file:
                content = tf.constant(file.read())
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        try:
            return from_bytes(content).numpy()
        except tf.errors.OpError as error:
            return find_fault({"image": content, "label": 0}, 1) or reason_of(error)

    pool = ThreadPoolExecutor(_THREADS)
    waiting: deque[tuple[Photo, Future[np.ndarray | str]]] = deque()
    try:
        for image in images:
            waiting.append((image, pool.submit(decode, image)))
            if len(waiting) > _AHEAD:
                image, future = waiting.popleft()
                yield image, future.result()
        for image, future in waiting:
            yield image, future.result()
    finally:  # whoever stops asking does not wait for what is ahead
        pool.shutdown(wait=False, cancel_futures=True)


@lru_cache(maxsize=8)  # tracing takes a fifth of a second, and a notebook asks for one image after the other
def _programs(preprocessing: Preprocessing) -> tuple[Callable[..., tf.Tensor], Callable[..., tf.Tensor]]:
    """Returns the functions that show evaluation an encoded image, and uint8 pixels (height, width, 3)."""

    def as_evaluated(image: tf.Tensor) -> tf.Tensor:
        return eval_image(image, preprocessing)

    encoded, decoded = tf.TensorSpec((), tf.string), tf.TensorSpec((None, None, 3), tf.uint8)
    from_bytes, from_pixels = (
        tf.function(as_evaluated, input_signature=[kind], autograph=False) for kind in (encoded, decoded)
    )
    return from_bytes, from_pixels


def _pixels(image: Any, preprocessing: Preprocessing) -> np.ndarray:
    """Returns uint8 (height, width, 3) of an image in memory; raises UserError for anything else."""
    if isinstance(image, Image.Image):
        return _as_decoded(image, turned=preprocessing.exif == "respected")
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"it is a {type(image).__name__}; give a path, a PIL image or a uint8 array (height, width, 3): "
            "np.asarray(image)"
        )
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return image
    remedy = "PIL.Image.open(file) has one"
    if image.dtype != np.uint8:
        remedy = "of values in 0..1 take (255 * image).round().astype(np.uint8)"
    elif image.ndim == 2:
        remedy = "of a grey image take np.stack([image] * 3, axis=-1)"
    elif image.ndim == 3 and image.shape[2] == 4:
        remedy = "of RGBA take image[..., :3]"
    elif image.ndim == 3 and image.shape[2] == 1:
        remedy = "of a grey image take np.repeat(image, 3, axis=-1)"
    raise UserError(
        f"it is {image.dtype} {image.shape} and must be uint8 (height, width, 3), levels of 0..255; {remedy}"
    )


def _as_decoded(image: Image.Image, *, turned: bool) -> np.ndarray:
    """Returns the pixels of a PIL image as the decoder has them for a file; raises UserError."""
    if image.mode in ("I", "F"):
        raise UserError(
            f"its mode is {image.mode}, whose levels have no fixed range; bring them to 0..255 and take "
            "image.convert('L')"
        )
    try:
        upright = ImageOps.exif_transpose(image) if turned else image
        if image.mode.startswith("I;16"):  # Pillow would clip them
            return np.stack([(np.asarray(upright) >> 8).astype(np.uint8)] * 3, axis=-1)
        return np.asarray(upright.convert("RGB"))
    except Exception as error:  # Pillow has many, of which OSError is the most frequent
        raise UserError(f"Pillow cannot load it: {error}; give another, or its path") from error
