"""The best possible guess on generated images, against the densities written out."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from benchmarks.glyphs import Glyphs

KIND = Glyphs(size=7, side=4, contrast=25.0, noise=40.0, classes=5)


def test_images_are_the_same_everywhere_and_of_each_class_as_many():
    images, labels = KIND.draw(50, seed=3)
    again = KIND.draw(50, seed=3)
    np.testing.assert_array_equal(images, again[0])
    np.testing.assert_array_equal(labels, again[1])
    assert images.shape == (50, 7, 7, 3) and images.dtype == np.uint8 and labels.dtype == np.int32
    assert np.bincount(labels).tolist() == [10] * 5
    assert (images != KIND.draw(50, seed=4)[0]).mean() > 0.9


def test_glyphs_have_one_energy_and_no_mean():
    glyphs = KIND.glyphs()
    np.testing.assert_allclose(glyphs.mean(axis=(1, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose((glyphs**2).sum(axis=(1, 2, 3)), 25.0**2 * 48, rtol=1e-12)


def test_the_best_guess_is_the_class_of_the_highest_density():
    """p(image | class) = mean over places of the product of Gaussians around the glyph there."""
    images, _ = KIND.draw(40, seed=1)
    places = KIND.size - KIND.side + 1
    expected = []
    for image in images.astype(np.float64):
        densities = []
        for glyph in KIND.glyphs():
            of_places = []
            for row in range(places):
                for column in range(places):
                    mean = np.full(image.shape, 128.0)
                    mean[row : row + 4, column : column + 4] += glyph
                    of_places.append(norm.logpdf(image, mean, KIND.noise).sum())
            densities.append(logsumexp(of_places))
        expected.append(np.argmax(densities))
    np.testing.assert_array_equal(KIND.best_guess(images), expected)


def test_less_noise_is_easier_and_noise_alone_is_chance():
    accuracy = {}
    for contrast in (0.001, 15.0, 60.0):
        kind = Glyphs(size=7, side=4, contrast=contrast, noise=40.0, classes=5)
        images, labels = kind.draw(2000, seed=0)
        accuracy[contrast] = np.mean(kind.best_guess(images) == labels)
    assert accuracy[0.001] == pytest.approx(0.2, abs=0.03)
    assert 0.4 < accuracy[15.0] < 0.9 and accuracy[60.0] > 0.99
