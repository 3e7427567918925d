"""The orientation that a camera notes in EXIF: read, undone, and written into a copy."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from efficientnet_pod.data.python_calls import call_python
from efficientnet_pod.data.quiet import tf

UPRIGHT = 1
# Orientations that are undone by a mirror image, after rows and columns have changed places from 5 on.
# Source: CIPA DC-008 (Exif 2.32), tag 0x0112.
_LEFT_RIGHT, _UPSIDE_DOWN, _FIRST_TRANSPOSED = (2, 3, 6, 7), (3, 4, 7, 8), 5


def orientation_of(image: tf.Tensor, exif: str) -> tf.Tensor | None:
    """Returns the orientation that an encoded image notes, int32, 1 to 8; 1 if it is upright or notes none.

    None if ``exif``, the field of :class:`.Preprocessing`, is ``ignored``, and for arrays: pixels are upright
    as they are stored.
    """
    if exif == "ignored" or image.dtype != tf.string:
        return None
    return tf.ensure_shape(call_python(noted_orientation, image, dtype=tf.int32), ())


def noted_orientation(data: bytes) -> np.int32:
    """Returns the orientation, 1 to 8, that an encoded image notes; 1 if it notes none or is damaged."""
    if data.startswith(b"\x89PNG") and b"eXIf" not in data and b"Raw profile type" not in data:
        return np.int32(UPRIGHT)  # Pillow decodes a whole PNG to find that out
    try:
        with Image.open(io.BytesIO(data)) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except Exception:  # Pillow has many; whoever decodes the image finds out what is wrong
        orientation = UPRIGHT
    return np.int32(orientation if orientation in range(UPRIGHT, 9) else UPRIGHT)


def upright_size(height: Any, width: Any, orientation: tf.Tensor | None) -> tuple[Any, Any]:
    """Returns height and width of the upright image, from those stored; and the other way round."""
    if orientation is None:
        return height, width
    is_transposed = orientation >= _FIRST_TRANSPOSED
    return tf.where(is_transposed, width, height), tf.where(is_transposed, height, width)


def upright(pixels: tf.Tensor, orientation: tf.Tensor | None) -> tf.Tensor:
    """Returns stored pixels (height, width, 3), or a crop of them, as they stand upright."""
    if orientation is None:
        return pixels
    turned = tf.cond(
        orientation >= _FIRST_TRANSPOSED, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels
    )
    return tf.reverse(turned, tf.where(_mirrored(orientation))[:, 0])


def stored_box(box: tf.Tensor, size: tuple[tf.Tensor, tf.Tensor], orientation: tf.Tensor | None) -> tf.Tensor:
    """Returns the place in the stored image of a box (top, left, height, width) of the upright one.

    ``size`` is height and width of the upright image.
    """
    if orientation is None:
        return box
    begin = tf.where(_mirrored(orientation), tf.stack(size) - box[:2] - box[2:], box[:2])
    is_transposed = orientation >= _FIRST_TRANSPOSED
    stored = tf.concat([begin, box[2:]], 0)
    return tf.where(is_transposed, tf.gather(stored, [1, 0, 3, 2]), stored)


def _mirrored(orientation: tf.Tensor) -> tf.Tensor:
    """Returns bool (2,): whether rows, and whether columns, are in reverse."""
    return tf.stack([tf.reduce_any(orientation == numbers) for numbers in (_UPSIDE_DOWN, _LEFT_RIGHT)])


def with_note(jpeg: tf.Tensor, orientation: tf.Tensor | None) -> tf.Tensor:
    """Returns an encoded JPEG that notes the orientation; an upright one as it is."""
    if orientation is None:
        return jpeg
    note = tf.gather(tf.constant([b"", *map(_segment, range(UPRIGHT + 1, 9))]), orientation - UPRIGHT)
    start = 2  # bytes of the marker that begins a JPEG
    rest = tf.strings.substr(jpeg, start, tf.strings.length(jpeg) - start)
    return tf.strings.join([tf.strings.substr(jpeg, 0, start), note, rest])


def _segment(orientation: int) -> bytes:
    """Returns the segment of a JPEG with this one entry: a short number (type 3), one of them."""
    table = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, ExifTags.Base.Orientation, 3, 1, orientation, 0, 0)
    content = b"Exif\0\0" + table
    return b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content
