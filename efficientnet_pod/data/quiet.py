"""TensorFlow for this package: silent, on the CPU alone, its errors on one line.

Import ``tf`` from here. Every GPU is hidden from it before its runtime starts, because the accelerators are
JAX's.
"""

import re

import tensorflow as tf

__all__ = ["reason_of", "tf"]

tf.get_logger().setLevel("ERROR")  # tensorflow_datasets warns of deprecations that no user can change
tf.config.set_visible_devices([], "GPU")


def reason_of(error: Exception) -> str:
    """Returns an error's message on one line; of TensorFlow's errors without the nodes of the graph.

    If TensorFlow called a Python function that failed, the message is that of the function's RuntimeError.
    """
    text = " ".join(str(getattr(error, "message", error)).split())
    if not isinstance(error, tf.errors.OpError):
        return text.strip("'\"")
    text = text.partition("Traceback (most recent call last)")[0]
    prefix = r"Error in user-defined function passed to \S+ transformation with iterator: \S+: "
    text = re.sub(rf"\{{\{{[^}}]*\}}\}}|\[Op:.*|\[\[.*|{prefix}", "", text)
    return text.rpartition("RuntimeError: ")[2].strip()
