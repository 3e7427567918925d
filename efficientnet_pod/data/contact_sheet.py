"""Images for people to look at: thumbnails and contact sheets, as PNG files."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from efficientnet_pod.workdir.files import write_result

_GAP, _LETTERS, _LINE = 4, 10, 12  # pixels between tiles, of a title's letters, and of a line of it


def thumbnail(levels: np.ndarray, *, longest_side: int) -> bytes:
    """Returns the PNG of an image, made smaller if a side is longer than ``longest_side`` pixels.

    ``levels`` are 0 to 255, of any real dtype, (height, width, 3); they are rounded, not scaled.
    """
    image = _picture(levels)
    scale = min(1.0, longest_side / max(image.size))
    if scale < 1:
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_contact_sheet(
    path: str,
    images: Sequence[np.ndarray | None],
    *,
    columns: int,
    side: int,
    titles: Sequence[str] = (),
) -> None:
    """Writes a PNG of square tiles, row by row, with white between them.

    Args:
      path: of the PNG.
      images: levels of 0 to 255, of any real dtype, (height, width, 3); None leaves the tile white.
      columns: tiles in a row.
      side: pixels of a tile, to which images of another size are scaled without blending pixels.
      titles: text above each tile, of equally many lines; none by default.

    Raises:
      RunError: the file cannot be written.
    """
    import matplotlib  # a tenth of a second to import; its font has more scripts than Pillow's own

    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), _LETTERS)
    lines = len(titles[0].splitlines()) if titles else 0
    height = side + _GAP + lines * _LINE
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (side + _GAP) + _GAP, rows * height + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        left, top = _GAP + column * (side + _GAP), _GAP + row * height
        if titles:
            draw.text((left, top), titles[number], fill="black", font=font, spacing=_LINE - _LETTERS)
        if image is not None:
            tile = _picture(image).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(tile, (left, top + lines * _LINE))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    write_result(path, file.getvalue())


def _picture(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(levels.astype(np.float32)), 0, 255).astype(np.uint8))
