"""Normalisation on the device against numpy; its constants are those of every recipe."""

import jax.numpy as jnp
import numpy as np
import pytest

from efficientnet_pod.models.inputs import MEAN_RGB, STDDEV_RGB, normalise
from efficientnet_pod.recipe.base_config import base_config


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.bfloat16, jnp.float32])
def test_levels_become_shares_less_the_mean_over_the_deviation(dtype):
    levels = np.arange(256).repeat(3).reshape(1, 16, 16, 3)
    expected = (levels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    images = normalise(jnp.asarray(levels, dtype))
    assert images.dtype == jnp.float32
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_a_recipe_has_the_same_constants():
    data = base_config().data
    assert (data.mean_rgb, data.stddev_rgb) == (MEAN_RGB, STDDEV_RGB)
