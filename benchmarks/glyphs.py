"""Images drawn from a distribution that is known, so that the best possible accuracy is known too."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Glyphs:
    """Ten classes of blurred glyphs: each image has its class's, anywhere in it, under noise.

    Attributes:
      size: height and width of an image, pixels.
      side: of a glyph.
      contrast: standard deviation of a glyph, levels of 0..255 around 128.
      noise: standard deviation of the noise of every pixel, likewise.
      classes: number of glyphs.
      blur: standard deviation of the Gaussian that smooths them, pixels.
    """

    size: int = 32
    side: int = 8
    contrast: float = 24.0
    noise: float = 48.0
    classes: int = 10
    blur: float = 1.0

    def glyphs(self) -> np.ndarray:
        """Returns float64 (classes, side, side, 3), all of mean 0 and one energy; the same everywhere."""
        rng = np.random.Generator(np.random.Philox(key=np.array([0, self.side], np.uint64)))
        white = rng.normal(size=(self.classes, self.side, self.side, 3))
        kernel = np.exp(-2 * (np.pi * self.blur * np.fft.fftfreq(self.side)) ** 2)
        spectra = np.fft.fft2(white, axes=(1, 2)) * np.outer(kernel, kernel)[..., None]
        smooth = np.fft.ifft2(spectra, axes=(1, 2)).real
        smooth -= smooth.mean(axis=(1, 2, 3), keepdims=True)
        return self.contrast * smooth / smooth.std(axis=(1, 2, 3), keepdims=True)

    def draw(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns images, uint8 (count, size, size, 3), and int32 labels, of each class as many as can be."""
        rng = np.random.Generator(np.random.Philox(key=np.array([1, seed], np.uint64)))
        labels = rng.permutation(np.arange(count) % self.classes)
        levels = 128 + self.noise * rng.normal(size=(count, self.size, self.size, 3))
        place = np.arange(self.side)
        rows, columns = rng.integers(self.size - self.side + 1, size=(2, count, 1, 1))
        levels[np.arange(count)[:, None, None], rows + place[:, None], columns + place] += self.glyphs()[
            labels
        ]
        return np.rint(np.clip(levels, 0, 255)).astype(np.uint8), labels.astype(np.int32)

    def best_guess(self, images: np.ndarray) -> np.ndarray:
        """Returns the most probable class of each image, int64 (count,): no classifier is right more often.

        The likelihood of a class is the mean over all places of ``exp(<image, glyph there> / noise²)``: all
        glyphs have one energy, so that the rest of the Gaussian cancels. The rounding of the levels and their
        clipping at 0 and 255 are left out.
        """
        windows = np.lib.stride_tricks.sliding_window_view(
            images.astype(np.float64) - 128, (self.side, self.side), axis=(1, 2)
        )
        overlap = np.einsum("nyxcij,kijc->nkyx", windows, self.glyphs(), optimize=True) / self.noise**2
        most = overlap.max(axis=(2, 3), keepdims=True)
        likelihood = np.log(np.exp(overlap - most).sum(axis=(2, 3))) + most[..., 0, 0]
        return np.argmax(likelihood, axis=1)
