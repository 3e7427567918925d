"""TensorFlow for this package: silent, on the CPU alone, its errors on one line.

Import ``tf`` from here. It is loaded at its first use, which takes seconds that a plan or a report need not
wait for. Every GPU is hidden from it before its runtime starts, because the accelerators are JAX's.
"""

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

__all__ = ["decoder_messages", "load", "reason_of", "tf"]


_KERAS = "keras.src.optimizers"  # what TensorFlow loads of Keras
_LOCK = threading.Lock()
_loaded: list[Any] = []


def load() -> Any:
    """Returns TensorFlow; for libraries, such as TFDS, that would otherwise start it as it is."""
    with _LOCK:
        if not _loaded:
            with _refused(_KERAS):
                import tensorflow

            # tensorflow_datasets warns of deprecations that no user can change.
            tensorflow.get_logger().setLevel("ERROR")
            tensorflow.config.set_visible_devices([], "GPU")
            _loaded.append(tensorflow)
        return _loaded[0]


@contextmanager
def _refused(module: str) -> Iterator[None]:
    """Lets the import of a module fail inside the block, unless it is loaded.

    At its end TensorFlow loads Keras, with scikit-learn and Matplotlib, for a second or more. It does without
    where there is none, and looks for it again when somebody asks for ``tf.keras``.
    """
    modules: dict[str, Any] = sys.modules
    if module in modules:
        yield
        return
    modules[module] = None
    try:
        yield
    finally:
        del modules[module]


class _TensorFlow:
    """TensorFlow's names, each found when it is first asked for."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(load(), name)
        setattr(self, name, value)
        return value


if TYPE_CHECKING:
    import tensorflow as tf
else:
    tf = _TensorFlow()


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


@contextmanager
def decoder_messages() -> Iterator[list[str]]:
    """Gives the lines that libjpeg prints inside the block, once it has ended, in place of printing them.

    libjpeg prints ``Corrupt JPEG data: ...`` of an image that it can still decode, without a name, to the
    standard error of the whole process. All else that is printed there comes out at the end of the block, so
    only one thread may use this, and briefly.
    """
    messages: list[str] = []
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield messages
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            caught.seek(0)
            for line in caught.read().decode(errors="replace").splitlines():
                if line.startswith("Corrupt JPEG data"):
                    messages.append(line)
                else:
                    print(line, file=sys.stderr)
