"""The contact sheet of predictions: each image as the network saw it, under its class and probability."""

import math
from collections.abc import Sequence

from efficientnet_pod.data.contact_sheet import write_contact_sheet
from efficientnet_pod.data.image_files import decode_files
from efficientnet_pod.recipe.preprocessing import Preprocessing

MOST = 100  # images on a sheet
_COLUMNS, _SIDE, _LONGEST = 8, 192, 26  # tiles in a row, their pixels, letters of a title


def write_sheet(path: str, shown: Sequence[tuple[str, str]], preprocessing: Preprocessing) -> int:
    """Writes a PNG of the first :data:`MOST` images and returns how many it shows.

    The images are files, each with its title: a class name, a space and a probability. Raises RunError if
    the PNG cannot be written.
    """
    files, titles = zip(*shown[:MOST], strict=True)
    images = [image for _, image in decode_files(files, preprocessing)]
    write_contact_sheet(
        path,
        [None if isinstance(image, str) else image for image in images],  # a file may have gone since
        columns=min(_COLUMNS, math.ceil(math.sqrt(len(files)))),
        side=_SIDE,
        titles=[_two_lines(title) for title in titles],
    )
    return len(files)


def _two_lines(title: str) -> str:
    name, _, probability = title.rpartition(" ")
    short = name if len(name) < _LONGEST else f"{name[: _LONGEST - 1]}…"
    return f"{short}\n{probability}"
