"""Owns the JPEG files of the input benchmarks: photo-like, about 110 kB at 500 x 375, in class folders.

ImageNet cannot be shipped, and noise or smooth gradients alone would flatter one decoder over another. A
file here is a mixture: a lit background, overlapping shapes with hard edges, textures whose spectrum falls
with frequency, and a lens blur; or a window of one of scikit-learn's two photographs. Its JPEG quality is the
one that brings it nearest to a size drawn around ImageNet's.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

# ImageNet's training files: 110 kB on average, most 500 pixels wide, a quarter upright.
LONG_SIDE, SHORT_SIDE = 500, 375
MEDIAN_BYTES, SPREAD = 116_000, 0.35  # some cannot be made so large; the mean is 110 kB
CLASSES = 8
PHOTOGRAPHS_IN = 8  # one file in so many is a window of a real photograph
CACHE = Path(".cache/benchmark_photos")


def photos(folder: Path = CACHE, *, count: int = 512) -> Path:
    """Returns the folder with ``<split>/<class>/*.jpg``, splits train and validation of ``count`` files each.

    Equal counts give equal pixels everywhere. Files already there are kept.
    """
    for split, offset in (("train", 0), ("validation", count)):
        for number in range(count):
            path = folder / split / f"class_{number % CLASSES}" / f"{number:06d}.jpg"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_suffix(".partial")
                partial.write_bytes(photo(offset + number))
                partial.rename(path)
    return folder


def photo(seed: int) -> bytes:
    """Returns one JPEG: upright in a quarter of the seeds, 4:2:0 in three quarters, else 4:4:4."""
    rng = np.random.default_rng(seed)
    size = (SHORT_SIDE, LONG_SIDE) if rng.random() < 0.25 else (LONG_SIDE, SHORT_SIDE)
    image = _window(rng, size) if seed % PHOTOGRAPHS_IN == 0 else _scene(rng, size)
    subsampling = "4:2:0" if rng.random() < 0.75 else "4:4:4"
    return _encode(image, MEDIAN_BYTES * rng.lognormal(0, SPREAD), subsampling)


def _encode(image: Image.Image, target: float, subsampling: str) -> bytes:
    """Returns the JPEG of quality 60 to 98 that is nearest to ``target`` bytes, found by bisection."""
    low, high, tried = 60, 98, {}
    while low <= high:
        quality = (low + high) // 2
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality, subsampling=subsampling)
        tried[quality] = stream.getvalue()
        if len(tried[quality]) < target:
            low = quality + 1
        else:
            high = quality - 1
    return min(tried.values(), key=lambda data: abs(len(data) - target))


def _window(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Returns a part of a photograph of scikit-learn, 427 x 640, at nearly its own scale."""
    from sklearn.datasets import load_sample_image

    whole = Image.fromarray(load_sample_image(("china.jpg", "flower.jpg")[int(rng.integers(2))]))
    width, height = size
    scale = min(whole.width / width, whole.height / height) * rng.uniform(0.8, 1.0)
    wide, high = width * scale, height * scale
    left, top = rng.uniform(0, whole.width - wide), rng.uniform(0, whole.height - high)
    image = whole.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + wide, top + high))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def _scene(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    width, height = size
    across, down = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    slope = rng.normal(0, 25, (2, 3))
    light = rng.uniform(60, 190, 3) + across[..., None] * slope[0] + down[..., None] * slope[1]
    canvas = Image.fromarray(np.clip(light, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for extent in sorted(rng.pareto(1.5, rng.integers(10, 60)) * 18 + 6, reverse=True):
        _shape(draw, rng, rng.uniform(0, 1, 2) * size, min(extent, width / 2))
    canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    # Light varies far more than colour, as in photographs.
    texture = rng.uniform(8, 26) * _noise(rng, height, width, rng.uniform(0.9, 1.3))[..., None]
    texture = texture + np.stack([rng.uniform(2, 6) * _noise(rng, height, width, 1.4) for _ in range(3)], -1)
    pixels = np.asarray(canvas, np.float64) + texture
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _shape(draw: ImageDraw.ImageDraw, rng: np.random.Generator, centre: np.ndarray, extent: float) -> None:
    colour = tuple(int(level) for level in np.clip(rng.normal(rng.uniform(20, 235), 30, 3), 0, 255))
    x, y = centre
    tall = extent * rng.uniform(0.4, 1.6)
    if rng.random() < 0.5:
        draw.ellipse((x - extent, y - tall, x + extent, y + tall), fill=colour)
        return
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
    corners = zip(x + extent * np.cos(angles), y + tall * np.sin(angles), strict=True)
    draw.polygon([(float(a), float(b)) for a, b in corners], fill=colour)


def _noise(rng: np.random.Generator, height: int, width: int, exponent: float) -> np.ndarray:
    """Returns noise of mean 0 and deviation 1 whose amplitude falls as 1 / frequency ** exponent."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency**exponent
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, (height, width))
    return noise / noise.std()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, default=CACHE, help="the folder to fill")
    parser.add_argument("--count", type=int, default=512, help="files of each split")
    flags = parser.parse_args()
    sizes = [path.stat().st_size for path in photos(flags.photos, count=flags.count).glob("*/*/*.jpg")]
    low, middle, high = np.percentile(sizes, (5, 50, 95)) / 1000
    mean = np.mean(sizes) / 1000
    print(f"{len(sizes)} files, mean {mean:.0f} kB, median {middle:.0f}, 5 to 95 %: {low:.0f} to {high:.0f}")


if __name__ == "__main__":
    main()
