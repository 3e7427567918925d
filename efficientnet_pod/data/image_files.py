"""Image files as evaluation sees them: found in folders and decoded, each fault with its reason."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from efficientnet_pod.data.bad_images import find_fault
from efficientnet_pod.data.quiet import reason_of, tf
from efficientnet_pod.data.sources.folders import SUFFIXES
from efficientnet_pod.data.transforms.preprocess import eval_image
from efficientnet_pod.recipe.preprocessing import Preprocessing

_THREADS = 8  # each in a decoder of TensorFlow, which lets the others run
_AHEAD = 64  # images decoded and not yet asked for


def find_images(paths: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns the image files, and (path, reason) for each path that has none.

    ``paths`` are files, whatever their suffix, and folders. From a folder all .jpg, .jpeg and .png files at
    any depth are taken, sorted; hidden ones are left out.
    """
    files: list[str] = []
    faults: list[tuple[str, str]] = []
    for path in paths:
        if os.path.isdir(path):
            below = list(_below(path, faults))
            files += below
            if not below:
                faults.append((path, "there is no .jpg, .jpeg or .png file in this folder"))
        elif os.path.exists(path):
            files.append(path)
        else:
            faults.append((path, "it does not exist"))
    return files, faults


def _below(folder: str, faults: list[tuple[str, str]]) -> Iterator[str]:
    def note(error: OSError) -> None:
        faults.append((str(error.filename), f"it cannot be read: {error.strerror}"))

    for parent, folders, names in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield os.path.join(parent, name)


def decode_files(
    paths: Sequence[str], preprocessing: Preprocessing
) -> Iterator[tuple[str, np.ndarray | str]]:
    """Yields each path with its image or, if there is none, the reason in one line.

    Images are as evaluation sees them: (image_size, image_size, 3) of ``preprocessing.dtype``, levels of
    0..255.
    """
    as_evaluated = tf.function(lambda image: eval_image(image, preprocessing), autograph=False)

    def decode(path: str) -> np.ndarray | str:
        try:
            with open(path, "rb") as file:
                image = tf.constant(file.read())
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        try:
            return as_evaluated(image).numpy()
        except tf.errors.OpError as error:
            return find_fault({"image": image, "label": 0}, 1) or reason_of(error)

    pool = ThreadPoolExecutor(_THREADS)
    waiting: deque[tuple[str, Future[np.ndarray | str]]] = deque()
    try:
        for path in paths:
            waiting.append((path, pool.submit(decode, path)))
            if len(waiting) > _AHEAD:
                path, future = waiting.popleft()
                yield path, future.result()
        for path, future in waiting:
            yield path, future.result()
    finally:  # whoever stops asking does not wait for what is ahead
        pool.shutdown(wait=False, cancel_futures=True)
