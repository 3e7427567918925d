"""Logits of two programs that must agree; and of images that must matter to them."""

import numpy as np


def assert_same_logits(found: object, expected: np.ndarray, *, of_largest: float = 1e-4) -> None:
    """Fails unless all logits (images, classes) agree to a share of the largest, and images move them.

    With batch-norm statistics that are not those of the images nothing of an image reaches the logits: they
    then move by 2e-7, and any two networks agree. 1 % of the largest is asked for, the mean over the classes.
    """
    scale = np.abs(expected).max()
    difference = np.abs(np.asarray(found) - expected).max() / scale
    print(f"largest difference {difference:.1e} of the largest logit {scale:.3g}")
    moved = np.ptp(expected, axis=0).mean() / scale
    assert moved > 0.01, f"another image moves the logits by {moved:.1e} of the largest: any would agree"
    assert difference <= of_largest
