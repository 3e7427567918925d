"""TensorFlow functions compiled by TensorFlow's XLA on the host, beside the XLA of JAX."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

from efficientnet_pod.data.quiet import tf


def compiled(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """Returns the function as one compiled program for each set of shapes, for tf.data or eager calls.

    A program is compiled at its first run in a process: 0.1 s for one operation, 2 s for a policy.
    """

    @functools.cache
    def program() -> Callable[..., tf.Tensor]:
        _start_compiler()
        return tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*arguments: tf.Tensor) -> tf.Tensor:
        return program()(*arguments)

    return call


@functools.cache
def _start_compiler() -> None:
    """Starts TensorFlow's XLA without XLA_FLAGS, which the user has set for JAX.

    TensorFlow reads the flags once, at its first compilation, and aborts the process at a flag that it does
    not know. Its XLA is of another version than JAX's.
    """
    flags = os.environ.pop("XLA_FLAGS", None)
    if flags is None:
        return
    try:
        with tf.init_scope():
            tf.function(lambda number: number + 1, jit_compile=True, autograph=False)(tf.constant(0))
    finally:
        os.environ["XLA_FLAGS"] = flags
