"""What happens to images on the device, against numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from efficientnet_pod.images import normalise


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.bfloat16, jnp.float32])
def test_levels_become_shares_less_the_mean_over_the_deviation(dtype):
    levels = np.arange(256).repeat(3).reshape(1, 16, 16, 3)
    expected = (levels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    images = normalise(jnp.asarray(levels, dtype))
    assert images.dtype == jnp.float32
    np.testing.assert_allclose(images, expected, atol=1e-5)
