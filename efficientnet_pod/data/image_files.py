"""Image files as evaluation sees them: found in folders and decoded, each fault with its reason."""

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from efficientnet_pod.data.bad_images import find_fault
from efficientnet_pod.data.quiet import reason_of, tf
from efficientnet_pod.data.sources.folders import NO_FILE, SUFFIXES, entries
from efficientnet_pod.data.transforms.orientation import UPRIGHT, noted_orientation
from efficientnet_pod.data.transforms.preprocess import eval_image
from efficientnet_pod.recipe.preprocessing import Preprocessing

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
