"""Mixup and CutMix against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficientnet_pod.run.mixing import mix

BATCH, HEIGHT, WIDTH = 600, 12, 20


def mixed(*, key=0, **alphas):
    """Images of constant level, so that each pixel of a mixture tells the share it was mixed in."""
    levels = np.random.default_rng(1).normal(size=BATCH).astype(np.float32)
    images = np.broadcast_to(levels[:, None, None, None], (BATCH, HEIGHT, WIDTH, 3))
    labels = np.arange(BATCH, dtype=np.int32)
    result = jax.jit(lambda i, k: mix(i, jnp.asarray(labels), k, **alphas))(images, jax.random.key(key))
    shares = (result.images - np.roll(levels, 1)[:, None, None, None]) / (levels - np.roll(levels, 1))[
        :, None, None, None
    ]
    assert (result.label == labels).all() and (result.partner == np.roll(labels, 1)).all()
    return result, np.asarray(shares)


def beta_quantiles(alpha, at):
    return np.quantile(np.random.default_rng(0).beta(alpha, alpha, 200_000), at)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_adds_two_images_in_the_share_of_their_labels(alpha):
    result, shares = mixed(mixup=alpha, cutmix=0.0)
    np.testing.assert_allclose(
        shares, np.broadcast_to(result.share[:, None, None, None], shares.shape), atol=2e-3
    )
    at = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
    below = [(result.share < q).mean() for q in beta_quantiles(alpha, at)]
    np.testing.assert_allclose(below, at, atol=0.07)  # three deviations of 600 draws are 0.06


def test_cutmix_takes_a_rectangle_and_counts_its_pixels():
    result, shares = mixed(mixup=0.0, cutmix=1.0)
    own = shares > 0.5
    assert np.minimum(np.abs(shares), np.abs(shares - 1)).max() < 2e-3  # each pixel is of one or the other
    centres, expected_area = [], []
    for image, share in zip(own[..., 0], np.asarray(result.share), strict=True):
        cut = np.argwhere(~image)
        assert image.mean() == pytest.approx(share, abs=1e-6)
        if len(cut):
            (top, left), (bottom, right) = cut.min(0), cut.max(0) + 1
            assert len(cut) == (bottom - top) * (right - left)
            centres.append(((top + bottom) / 2 / HEIGHT, (left + right) / 2 / WIDTH))
        expected_area.append(1 - share)
    assert np.allclose(np.mean(centres, 0), 0.5, atol=0.05)
    # By the paper's algorithm: λ uniform, sides √(1 − λ), centre uniform, clipped at the border.
    rng = np.random.default_rng(2)
    area = []
    for side, y, x in zip(np.sqrt(1 - rng.random(50_000)), *rng.random((2, 50_000)), strict=True):
        box = [
            (max(0, int(c * n - side * n / 2)), min(n, int(c * n + side * n / 2)))
            for c, n in ((y, HEIGHT), (x, WIDTH))
        ]
        area.append(np.prod([high - low for low, high in box]) / (HEIGHT * WIDTH))
    assert np.mean(expected_area) == pytest.approx(np.mean(area), abs=0.03)


def test_with_both_half_of_the_images_are_cut():
    _, shares = mixed(mixup=1.0, cutmix=1.0)
    pixels = shares.reshape(BATCH, -1)
    is_added = np.ptp(pixels, axis=1) < 1e-3
    is_added &= (pixels[:, 0] > 0.01) & (pixels[:, 0] < 0.99)
    assert 0.4 < is_added.mean() < 0.6


def test_mixing_depends_on_the_key_alone():
    first, again, other = (mixed(key=key, mixup=0.2, cutmix=1.0)[0].images for key in (0, 0, 1))
    assert (first == again).all() and not (first == other).all()


def test_the_label_with_the_greater_share_is_the_main_one():
    result, _ = mixed(mixup=0.2, cutmix=0.0)
    assert (result.main_label == np.where(result.share >= 0.5, result.label, result.partner)).all()
