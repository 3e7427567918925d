"""TensorFlow functions compiled by XLA on the host, in a process where JAX has an XLA of its own."""

import functools
import os
from collections.abc import Callable

from efficientnet_pod.data.quiet import tf


def compiled(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """Returns the function as one compiled program for each set of shapes; for use in tf.data or eagerly.

    A program is compiled when it first runs, once a process: 0.1 s for one operation, 2 s for a policy.
    """
    program = tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*arguments: tf.Tensor) -> tf.Tensor:
        _start_compiler()
        return program(*arguments)

    return call


@functools.cache
def _start_compiler() -> None:
    """Starts TensorFlow's XLA without XLA_FLAGS, which are JAX's, and the user's.

    TensorFlow reads them once, at its first compilation, and aborts the process at one that it does not know;
    its XLA is of another age than JAX's.
    """
    flags = os.environ.pop("XLA_FLAGS", None)
    if flags is None:
        return
    try:
        with tf.init_scope():
            tf.function(lambda number: number + 1, jit_compile=True, autograph=False)(tf.constant(0))
    finally:
        os.environ["XLA_FLAGS"] = flags
