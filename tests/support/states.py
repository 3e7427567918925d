"""Train states of random bits."""

import ml_dtypes
import numpy as np

from efficientnet_pod.run.state import TrainState


def make_state(step, *, width=32, ema=False):
    """A state of random bits with every dtype, and zeros of either sign."""
    rng = np.random.default_rng(step)
    kernel = rng.standard_normal((width, 64)).astype(np.float32)
    params = {"stem": {"kernel": kernel, "bias": np.full(7, -0.0, np.float32)}}
    stats = {
        "stem": {"mean": rng.standard_normal(9).astype(ml_dtypes.bfloat16), "var": np.zeros(9, np.float32)}
    }
    average = {"params": params, "batch_stats": stats} if ema else None
    return TrainState(np.array(step, np.int32), params, stats, (np.array([True]), (), None), average)
