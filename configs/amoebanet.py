"""AmoebaNet-D (6, 256): ImageNet to 93 % top-5 in 1.1 hours on 64 TPU v2 chips, by DAWNBench.

Source: tensorflow/tpu models/official/amoeba_net and the three entries of dawn-bench-entries, ImageNet/train:
v2-8, a sixteenth and a quarter of a TPU v2 pod; accuracies and hours are theirs. An epoch of the source is
⌊1,281,167 / batch⌋ steps, so 35 epochs are 34.91 passes over the images at 4,096. Different from it: 1,000
classes instead of 1,001, of which one is empty; an image whose crop fails ten times, not a hundred, is
cropped as in evaluation, not taken whole. Not yet reproduced with this code: no figure of ours stands here.
Command: efficientnet-pod train --config=configs/amoebanet.py:v2-128 --workdir=gs://bucket/amoebanet
    --config.data.data_dir=gs://bucket/tfds
Before you pay: efficientnet-pod preflight --config=configs/amoebanet.py:v2-128 --topology=v2-128
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from efficientnet_pod.recipe.base_config import base_config, require_row

IMAGES = 1_281_167  # of ImageNet


class Entry(NamedTuple):
    """An entry of DAWNBench: its numbers, and what it reached."""

    global_batch: int
    warmup_epochs: float
    epochs: int
    published: str


ENTRIES = {
    "v2-8": Entry(1024, 0.35, 35, "76.20 % top-1, 93.11 % top-5; 93 % in 7.475 hours for $49.30"),
    "v2-32": Entry(4096, 3.0, 35, "76.36 % top-1, 93.17 % top-5; 93 % in 1.973 hours"),
    "v2-128": Entry(4096, 3.0, 41, "76.39 % top-1, 93.03 % top-5; 93 % in 1.109 hours"),
}


def get_config(cores: str = "v2-128") -> ConfigDict:
    """Returns the recipe of ``:v2-8``, ``:v2-32`` or ``:v2-128``."""
    require_row(cores, ENTRIES)
    entry = ENTRIES[cores]
    steps = IMAGES // entry.global_batch
    epoch = steps * entry.global_batch / IMAGES  # of the source, as a share of a pass over the images

    config = base_config()
    config.platform = "tpu"
    config.global_batch = entry.global_batch
    config.epochs = entry.epochs * epoch
    config.label_smoothing = 0.1
    config.ema_decay = 0.9999
    config.eval_epochs = epoch
    config.model.name = "amoebanet_d"
    config.model.bn_epsilon = 1e-5
    config.model.auxiliary_weight = 0.4
    config.data.resize = "bilinear"
    config.data.mean_rgb = config.data.stddev_rgb = (0.5, 0.5, 0.5)
    config.data.min_crop_area = 0.05
    config.data.color_offsets = True
    config.data.eval_crop = "stretched"
    config.optimizer.name = "rmsprop"
    config.optimizer.rmsprop.lr_per_256 = 0.64
    config.optimizer.rmsprop.epsilon = 1.0
    config.optimizer.rmsprop.l2 = 4e-5
    config.optimizer.rmsprop.l2_biases = False
    config.schedule.name = "exponential"
    config.schedule.decay_rate = 0.88
    config.schedule.decay_epochs = epoch
    config.schedule.warmup_epochs = entry.warmup_epochs * epoch
    peak = 0.64 * entry.global_batch / 256
    config.schedule.end_lr = 1e-4 * peak
    config.notes = (
        f"peak learning rate 0.64 × {entry.global_batch:,} / 256 = {peak:.4g}, × 0.88 every {steps:,} steps, "
        f"warm-up {entry.warmup_epochs:g} epochs: tensorflow/tpu, amoeba_net",
        f"published: {entry.published} on {cores} (DAWNBench)",
    )
    return config
