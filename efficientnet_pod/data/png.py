"""Images as PNG files, for people to look at."""

import numpy as np

from efficientnet_pod.data.quiet import tf


def encode_png(levels: np.ndarray, *, longest_side: int) -> bytes:
    """Returns the file of an image, made smaller where a side is longer than so many pixels.

    Args:
      levels: 0 to 255, of any real dtype, (height, width, 3); rounded, not scaled.
      longest_side: pixels.
    """
    image = tf.constant(levels.astype(np.float32))
    scale = min(1.0, longest_side / max(levels.shape[:2]))
    if scale < 1:
        size = [max(1, round(side * scale)) for side in levels.shape[:2]]
        image = tf.image.resize(image, size, method="area")
    image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
    return tf.io.encode_png(image).numpy()
