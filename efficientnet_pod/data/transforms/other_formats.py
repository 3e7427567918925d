"""WebP, GIF, BMP and AVIF by Pillow, in place of TensorFlow's decoders, which refuse most of them.

Of an animation the first picture is taken. Python decodes one image at a time in part; where that is too
slow, convert the files to JPEG or PNG.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from efficientnet_pod.data.python_calls import call_python
from efficientnet_pod.data.quiet import tf

_FORMATS = ("WEBP", "GIF", "BMP", "AVIF")
_MAGIC = (("WEBP", 8, b"WEBP"), ("GIF", 0, b"GIF8"), ("BMP", 0, b"BM"), ("AVIF", 4, b"ftypavi"))


def other_size(image: tf.Tensor) -> tf.Tensor:
    """Returns (height, width), int32, of an encoded image, from its header; InvalidArgumentError."""
    return tf.ensure_shape(call_python(size_by_pillow, image, dtype=tf.int32), (2,))


def decode_other(image: tf.Tensor) -> tf.Tensor:
    """Returns uint8 (height, width, 3) of an encoded image, transparency dropped; InvalidArgumentError."""
    return tf.ensure_shape(call_python(decode_by_pillow, image, dtype=tf.uint8), (None, None, 3))


def size_by_pillow(data: bytes) -> np.ndarray:
    """Returns (height, width), int32; raises ValueError for other formats and damaged headers."""
    with _opened(data) as image:
        return np.array([image.height, image.width], np.int32)


def decode_by_pillow(data: bytes) -> np.ndarray:
    """Returns uint8 (height, width, 3); raises ValueError for other formats and damaged images."""
    with _opened(data) as image:
        try:
            return np.asarray(image.convert("RGB"))
        except Exception as error:  # Pillow has many, of which OSError is the most frequent
            raise ValueError(f"damaged {image.format}: {error}") from error


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except Exception as error:
        kind = next((name for name, place, magic in _MAGIC if data[place:].startswith(magic)), None)
        fault = f"neither JPEG, PNG, WebP, GIF, BMP nor AVIF, it begins with {data[:8]!r}"
        raise ValueError(f"damaged {kind}, its header cannot be read" if kind else fault) from error
