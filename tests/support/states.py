"""Train states of random bits, their digests, and the checkpoints that hold them."""

import os

import jax
import ml_dtypes
import numpy as np

from efficientnet_pod.run.state import TrainState
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints
from efficientnet_pod.workdir.checkpoints.commit import joint_digest, tensor_digests


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


def bits(state):
    return jax.tree.map(lambda leaf: (str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()), state)


def abstract(state):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)


def digest_of(state):
    """Returns the digest that ``commit.json`` has of a state."""
    return joint_digest(tensor_digests(state))


def save_states(folder, *steps, **options):
    with Checkpoints(folder, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), metrics={"top1": step / 10, "loss": 1.0})


def newest(folder):
    """Returns step and state of the newest good checkpoint, and the warnings."""
    warnings = []
    with Checkpoints(folder, warn=warnings.append) as checkpoints:
        restored = checkpoints.restore_newest(abstract(make_state(0)))
    step, state, _ = restored or (None, None, None)
    return step, state, warnings


def names(folder):
    return sorted(os.listdir(folder))


def damage(path, kind):
    raw = bytearray(path.read_bytes())
    if kind == "delete":
        path.unlink()
        return
    raw[len(raw) // 2] ^= 0x10
    path.write_bytes(raw if kind == "flip" else raw[: len(raw) // 2])
