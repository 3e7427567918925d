"""The contact sheet of predictions: each image as the network saw it, with what it was taken for."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from efficientnet_pod.errors import UserError

MOST = 100  # images on a sheet
_COLUMNS, _INCHES, _LONGEST = 8, 1.6, 26  # tiles in a row, their width, letters of a title


def write_sheet(path: str, shown: Sequence[tuple[str, str]], how: Any) -> int:
    """Writes a PNG of the first :data:`MOST` images and returns how many it shows.

    Args:
      path: of the PNG.
      shown: image files, each with its title.
      how: what evaluation does to them, a ``data.preprocess.Preprocessing``.

    Raises:
      UserError: it cannot be written.
    """
    from efficientnet_pod.data.image_files import decoded  # TensorFlow takes seconds to import

    tiles = shown[:MOST]
    columns = min(_COLUMNS, math.ceil(math.sqrt(len(tiles))))
    rows = math.ceil(len(tiles) / columns)
    figure = Figure((columns * _INCHES, rows * (_INCHES + 0.2)), dpi=120, layout="constrained")
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for each in axes:
        each.set_axis_off()
    images = decoded([file for file, _ in tiles], how)
    for each, (_, title), (_, image) in zip(axes, tiles, images, strict=False):
        if not isinstance(image, str):  # a file may have gone since
            each.imshow(np.clip(np.rint(image), 0, 255).astype(np.uint8), interpolation="nearest")
        name, _, probability = title.rpartition(" ")
        short = name if len(name) < _LONGEST else f"{name[: _LONGEST - 1]}…"
        each.set_title(f"{short}\n{probability}", fontsize=6, parse_math=False)
    canvas = FigureCanvasAgg(figure)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # of scripts that the font lacks: boxes stand for them
            canvas.print_png(path)
    except OSError as error:
        raise UserError(f"--sheet={path} cannot be written: {error.strerror}; name another file") from error
    return len(tiles)
