"""Bad input: the example that cannot be used, its fault, and one line that says so."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from efficientnet_pod.data.names import printable
from efficientnet_pod.data.quiet import reason_of, tf
from efficientnet_pod.data.skips import SKIP_FLAG, Skips
from efficientnet_pod.data.sources.tfrecord_bytes import locate_corruption
from efficientnet_pod.data.sources.types import Indexed, Records
from efficientnet_pod.data.transforms.other_formats import decode_by_pillow, size_by_pillow
from efficientnet_pod.data.transforms.preprocess import JPEG_END, JPEG_MAGIC, MAX_PIXELS, PNG_MAGIC
from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.workdir.files import GIT_LFS

_SCAN_MAGIC = b"\xff\xda"  # begins the pixel data of a JPEG
_SAMPLE_IMAGES, _SAMPLE_SECONDS, _SAMPLE_THREADS = 300, 3.0, 8
_BASELINE = (b"\xff\xc0", b"\xff\xc1")  # frame headers of a JPEG that is not progressive


def find_fault(example: Mapping[str, Any], num_classes: int) -> str | None:
    """Returns why one undecoded example (eager tensors or numpy) cannot be used, on one line; None if it can.

    The image is decoded whole. This also finds a JPEG that was cut and given an end marker: its lower part is
    grey, but no decoder reports it, so it does not stop training. A progressive JPEG loses detail instead,
    which is not found.
    """
    return _label_fault(example, num_classes) or _image_fault(example["image"])


def _label_fault(example: Mapping[str, Any], num_classes: int) -> str | None:
    label = int(example["label"])
    return None if 0 <= label < num_classes else f"its label {label} is outside 0..{num_classes - 1}"


def _image_fault(image: Any, *, silent: bool = True) -> str | None:
    """Returns the fault of an image; with ``silent`` also one that no decoder reports."""
    tensor = tf.convert_to_tensor(image)
    if tensor.dtype != tf.string:
        return None
    data = bytes(tensor.numpy())
    if not data:
        return "it is empty, 0 bytes"
    if data.startswith(PNG_MAGIC):
        return _png_fault(data)
    if data.startswith(JPEG_MAGIC):
        return _jpeg_fault(data, silent=silent)
    if data.startswith(GIT_LFS):
        return "it is a pointer of Git LFS, not the image, which git lfs pull fetches"
    return _other_fault(data)


def _png_fault(data: bytes) -> str | None:
    if len(data) < 24:
        return "truncated PNG, its header is incomplete"
    width, height = struct.unpack(">II", data[16:24])
    if fault := _size_fault(width, height):
        return fault
    try:
        tf.image.decode_png(data, channels=3)
    except tf.errors.InvalidArgumentError:
        return "damaged PNG" if b"IEND" in data else "truncated PNG, its end is missing"
    return None


def _jpeg_fault(data: bytes, *, silent: bool) -> str | None:
    truncated = "truncated JPEG, its end marker is missing"
    if JPEG_END not in data:
        return truncated
    try:
        height, width, _ = tf.image.extract_jpeg_shape(data).numpy()
    except tf.errors.InvalidArgumentError:
        return "damaged JPEG, its header cannot be read"
    if fault := _size_fault(width, height):
        return fault
    try:
        pixels = tf.image.decode_jpeg(data, channels=3).numpy()
    except tf.errors.InvalidArgumentError:
        # The end marker may belong to a preview in the header.
        return truncated if data.rfind(JPEG_END) < data.rfind(_SCAN_MAGIC) else "damaged JPEG"
    if silent and _ends_early(data, pixels):
        return "truncated JPEG, to which an end marker was added"
    return None


def _other_fault(data: bytes) -> str | None:
    try:
        height, width = size_by_pillow(data)
        if not (fault := _size_fault(width, height)):
            decode_by_pillow(data)
    except ValueError as error:
        return str(error)
    return fault


def _ends_early(data: bytes, pixels: np.ndarray) -> bool:
    """Returns whether a JPEG was cut and given an end marker.

    Bytes inserted before the marker then change the decoded image. Decoders fill missing pixels with
    mid-grey, so only images that end in it are decoded again.
    """
    if (pixels[-1, -1] != 128).any() or not any(marker in data for marker in _BASELINE):
        return False
    end = data.rfind(JPEG_END)
    try:
        padded = tf.image.decode_jpeg(data[:end] + b"\x55" * 64 + data[end:], channels=3).numpy()
    except tf.errors.InvalidArgumentError:
        return True
    return bool((padded != pixels).any())


def _size_fault(width: int, height: int) -> str | None:
    if int(width) * int(height) <= MAX_PIXELS:
        return None
    return f"{width:,} by {height:,} pixels, more than the {MAX_PIXELS:,} that are allowed"


# One example before it is read: its number in the split, None in record files, and a function that returns
# the arguments of ``Batches.finish``, the undecoded example first.
Undecoded = tuple[int | None, Callable[[], tuple[Any, ...]]]


@dataclass(frozen=True)
class Batches:
    """The batches of one host, in order; bad input ends the iteration with an error of one line.

    Attributes:
      split: ``training`` or ``evaluation``.
      num_classes: number of classes; labels are below.
      open: function to the tf.data data set of the batches from batch ``number`` on.
      look: function to the undecoded examples of batch ``number``.
      finish: function to the function that makes a row of batch ``number``.
      records: the host's records; None if examples are fetched by number.
      skips: counter of training images that cannot be decoded; None if each of them stops the stream.
    """

    split: str
    num_classes: int
    open: Callable[[int], tf.data.Dataset]
    look: Callable[[int], Iterator[Undecoded]]
    finish: Callable[[int], Callable[..., Any]]
    records: Records | None = None
    skips: Skips | None = None

    @property
    def dataset(self) -> tf.data.Dataset:
        """The data set of all batches, with TensorFlow's own errors."""
        return self.open(0)

    def as_numpy_iterator(self) -> Iterator[dict[str, np.ndarray]]:
        """Returns an iterator over the batches.

        If skipping is allowed, an image that cannot be decoded is replaced, with its label, by the nearest
        good one before it in its batch; before the first comes the last. All other images stay in their
        places. The stream is then opened anew behind that batch. Without bad images this costs nothing; each
        costs a second, and record files are read again from the start of the epoch.

        Raises:
          UserError: an image or a record file cannot be used, or more images than may be skipped.
          RunError: an error does not happen again at a second look.
        """
        return self._batches_of(self.open(0).as_numpy_iterator())  # opened now: it begins to read ahead

    def _batches_of(self, stream: Any) -> Iterator[dict[str, np.ndarray]]:
        number = 0
        while True:
            try:
                batch = next(stream)
            except StopIteration:
                return
            except tf.errors.OpError as error:
                del stream  # and its buffers, before there are others
                batch = self._with_bad_images_replaced(number, error)
                stream = self.open(number + 1).as_numpy_iterator()
            yield batch
            number += 1

    def _with_bad_images_replaced(self, number: int, error: tf.errors.OpError) -> dict[str, np.ndarray]:
        """Returns the batch that failed, made one by one."""
        rows: list[Any] = []
        for place, arguments in self._read(number):
            try:
                rows.append(self.finish(number)(*arguments))
            except tf.errors.OpError as row_error:
                rows.append(None)
                reason = find_fault(arguments[0], self.num_classes) or reason_of(row_error)
                self._skip(place, arguments[0], reason)
        good = [row for row in rows if row is not None]
        if len(good) == len(rows):
            raise RunError(
                f"the {self.split} images could not be read: {reason_of(error)}; a second look at the same "
                "images found nothing wrong; start the same command again, which resumes"
            )
        if not good:
            raise UserError(
                f"none of the {len(rows)} images of a batch of the {self.split} split can be used; a skipped "
                "image is replaced by another of its batch; replace or remove them"
            )
        replacement, replaced = good[-1], []
        for row in rows:
            replacement = replacement if row is None else row
            replaced.append(replacement)
        return tf.nest.map_structure(lambda *leaves: np.stack([leaf.numpy() for leaf in leaves]), *replaced)

    def _read(self, number: int) -> Iterator[tuple[int | None, tuple[Any, ...]]]:
        """Yields (number in the split, arguments) of a batch's examples; UserError at an unreadable one."""
        image = "an image"
        try:
            for place, read in self.look(number):
                if place is not None:
                    image = f"image number {place}"
                yield place, read()
        except (tf.errors.OpError, RuntimeError) as error:  # RuntimeError: of a reader written in Python
            if damage := self.records and locate_corruption(self.records):
                raise UserError(
                    f"the {self.split} split is damaged at {damage}; what lies behind it in that file cannot "
                    "be read either, so that nothing is skipped; copy the file anew"
                ) from None
            raise UserError(
                f"{image} of the {self.split} split cannot be read: {reason_of(error)}; make it readable or "
                "remove it"
            ) from None

    def _skip(self, number: int | None, example: Any, reason: str) -> None:
        """Counts a bad image; raises UserError if it must not be skipped."""
        name = printable(example["name"].numpy())
        split = f"of the {self.split} split"
        image = f"image '{name}' " + (split if number is None else f"(number {number} {split})")
        if _label_fault(example, self.num_classes):
            raise UserError(f"{image} cannot be used: {reason}; correct its label or remove it")
        if self.skips and self.skips.allowed:
            return self.skips.add(name, image, reason)
        raise UserError(f"{image} cannot be used: {reason}; {_remedy(may_skip=self.skips is not None)}")


def _remedy(*, may_skip: bool) -> str:
    if may_skip:
        return f"replace or remove it, or let each host skip up to N such images: {SKIP_FLAG}=N"
    return "replace or remove it; evaluation skips none: the accuracy on fewer images is another number"


def look_at_sample(examples: Indexed | Records, *, split: str, may_skip: bool) -> None:
    """Looks at some images of all parts of a split, for a few seconds, before minutes of compilation.

    Args:
      examples: the split; record files, which are read from the front, are not looked at, nor are arrays.
      split: ``training`` or ``evaluation``.
      may_skip: whether the recipe has a field that lets bad images be skipped.

    Raises:
      UserError: an image cannot be used.
    """
    if not isinstance(examples, Indexed):
        return
    read: Any = tf.data.Dataset.range(1).map(examples.fetch).element_spec  # traced, and no image read
    if read["image"].dtype != tf.string:
        return
    end = time.monotonic() + _SAMPLE_SECONDS
    # Evenly over the split, in which the classes follow each other.
    numbers = np.unique(np.linspace(0, examples.num_examples - 1, _SAMPLE_IMAGES).astype(np.int64))

    def fault_of(number: int) -> str | None:
        if time.monotonic() > end:
            return None
        try:
            example = examples.fetch(tf.constant(number, tf.int64))
        except (tf.errors.OpError, RuntimeError) as error:  # RuntimeError: of a reader written in Python
            return f"image number {number} of the {split} split cannot be read: {reason_of(error)}"
        fault = _image_fault(example["image"], silent=False)
        image = f"image '{printable(bytes(example['name'].numpy()))}' (number {number} of the {split} split)"
        return f"{image} cannot be used: {fault}" if fault else None

    with ThreadPoolExecutor(_SAMPLE_THREADS) as pool:
        order = np.random.default_rng(0).permutation(numbers).tolist()
        if fault := next(filter(None, pool.map(fault_of, order)), None):
            raise UserError(f"{fault}; {_remedy(may_skip=may_skip)}")
