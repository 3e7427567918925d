"""Owns our side of the input comparison: the project's own pipeline from photos to host batches."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.pipeline import eval_batches, train_batches
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.pod.memory import ask_for_huge_pages
from efficientnet_pod.recipe.preprocessing import Preprocessing

IMAGE_SIZE = 224
POLICIES = {"RandAugment": "randaugment", "AutoAugment": "autoaugment"}


def prepare(photos: Path, task: str, batch: int, *, resize: str, dtype: str) -> tuple[Iterator, str]:
    """Returns the endless batches of images, as numpy arrays, and a description of them."""
    ask_for_huge_pages()  # as the command line does before training
    source = open_source(f"folder:{photos}")
    policy = POLICIES.get(task, "none")
    preprocessing = Preprocessing(image_size=IMAGE_SIZE, dtype=dtype, policy=policy, resize=resize)
    share = HostShare(batch)
    if task == "eval":
        batches = eval_batches(source, preprocessing, share).dataset.repeat().as_numpy_iterator()
    else:
        batches = train_batches(source, preprocessing, share, seed=0).as_numpy_iterator()
    return map(_image, batches), f"{dtype}, resize={resize}"


def _image(batch: dict[str, np.ndarray]) -> np.ndarray:
    return batch["image"]
