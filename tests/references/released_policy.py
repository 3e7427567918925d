"""The operations of RandAugment as they were released with EfficientNet, faults included, in numpy alone.

Source: tensorflow/tpu, models/official/efficientnet/autoaugment.py; what its numbers become as bytes, in
TensorFlow 1.15, and what its shifts do beyond 7 bits.
"""

import numpy as np

TRANSLATE, CUTOUT, FILL = 100.0, 40, 128
Pixels = np.ndarray


def released(op: str, magnitude: float, pixels: Pixels, draws: tuple[float, float]) -> tuple[Pixels, Pixels]:
    """Returns the image after an operation, and which of its pixels rounding of coordinates does not decide.

    Args:
      op: name of the operation.
      magnitude: RandAugment's.
      pixels: uint8 (height, width, 3).
      draws: two numbers in 0..1; the first is the sign of a move, both are the place of the grey square.
    """
    share, height, width = magnitude / 10, *pixels.shape[:2]
    sign, levels = 1 if draws[0] < 0.5 else -1, np.arange(256)
    if op in ("Invert", "Posterize", "Solarize", "SolarizeAdd"):
        return _of_levels(op, share, levels)[pixels].astype(np.uint8), _all(pixels)
    if op in ("AutoContrast", "Equalize"):
        tables = [(_stretched if op == "AutoContrast" else _equalised)(pixels[..., c]) for c in range(3)]
        return np.stack([tables[c][pixels[..., c]] for c in range(3)], -1).astype(np.uint8), _all(pixels)
    if op in ("Color", "Contrast", "Brightness", "Sharpness"):
        factor = np.float32(share * 1.8 + 0.1)
        origin = _degenerate(op, pixels).astype(np.float32)
        blended = origin + factor * (pixels.astype(np.float32) - origin)
        return np.clip(blended, 0, 255).astype(np.uint8), _all(pixels)
    if op == "Cutout":
        half, image = int(share * CUTOUT), pixels.copy()
        row, column = int(draws[0] * height), int(draws[1] * width)
        image[max(row - half, 0) : row + half, max(column - half, 0) : column + half] = FILL
        return image, _all(pixels)
    slope, pixels_moved, angle = sign * share * 0.3, sign * share * TRANSLATE, sign * np.radians(share * 30)
    cos, sin, x, y = np.cos(angle), np.sin(angle), (width - 1) / 2, (height - 1) / 2
    return _moved(
        pixels,
        *{
            "Rotate": ((cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y)),
            "ShearX": ((1, slope, 0), (0, 1, 0)),
            "ShearY": ((1, 0, 0), (slope, 1, 0)),
            "TranslateX": ((1, 0, pixels_moved), (0, 1, 0)),
            "TranslateY": ((1, 0, 0), (0, 1, pixels_moved)),
        }[op],
    )


def _all(pixels: Pixels) -> Pixels:
    return np.ones(pixels.shape[:2], bool)


def _of_levels(op: str, share: float, levels: np.ndarray) -> np.ndarray:
    """Returns what becomes of the levels 0 to 255."""
    if op == "Invert":
        return 255 - levels
    if op == "Posterize":
        shift = min(int(np.array(8 - int(share * 4)).astype(np.uint8)), 7)
        return (levels >> shift) << shift
    if op == "Solarize":
        threshold = int(np.array(int(share * 256)).astype(np.uint8))
        return np.where(levels < threshold, levels, 255 - levels)
    return np.where(levels < 128, np.minimum(levels + int(share * 110), 255), levels)


def _stretched(channel: Pixels) -> np.ndarray:
    low, high = np.float32(channel.min()), np.float32(channel.max())
    if low == high:
        return np.arange(256)
    scale = np.float32(255) / (high - low)
    return np.clip(np.arange(256, dtype=np.float32) * scale + -low * scale, 0, 255).astype(np.uint8)


def _equalised(channel: Pixels) -> np.ndarray:
    histogram = np.bincount(channel.ravel(), minlength=256)
    step = (histogram.sum() - histogram[histogram > 0][-1]) // 255
    if step == 0:
        return np.arange(256)
    table = (np.cumsum(histogram) + step // 2) // step
    return np.clip(np.concatenate([[0], table[:-1]]), 0, 255)


def _degenerate(op: str, pixels: Pixels) -> Pixels:
    """Returns the image that a factor of 0 gives."""
    if op == "Brightness":
        return np.zeros_like(pixels)
    if op == "Color":
        grey = (pixels.astype(np.float32) / 255) @ np.float32([0.2989, 0.587, 0.114]) * np.float32(255.5)
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if op == "Contrast":
        return np.full_like(pixels, int(min(pixels.shape[0] * pixels.shape[1] / 256, 255)))
    smooth, height, width = pixels.copy(), *pixels.shape[:2]
    values = pixels.astype(np.int64)
    total = 4 * values[1:-1, 1:-1]
    for y in range(3):
        for x in range(3):
            total = total + values[y : y + height - 2, x : x + width - 2]
    smooth[1:-1, 1:-1] = total // 13
    return smooth


def _moved(pixels: Pixels, x_row: tuple, y_row: tuple) -> tuple[Pixels, Pixels]:
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    sources = [a * x + b * y + c for a, b, c in (y_row, x_row)]
    sure = np.all([np.abs(s - np.floor(s) - 0.5) > 0.01 for s in sources], axis=0)
    rows, columns = (np.floor(s + 0.5).astype(int) for s in sources)
    inside = (rows >= 0) & (rows < pixels.shape[0]) & (columns >= 0) & (columns < pixels.shape[1])
    nearest = pixels[np.where(inside, rows, 0), np.where(inside, columns, 0)]
    return np.where(inside[..., None], nearest, FILL).astype(np.uint8), sure
