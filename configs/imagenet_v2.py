"""EfficientNetV2 as published: images that grow in four stages, RMSProp, 350 epochs at 4,096 images a step.

Source: arXiv 2104.00298 and google/automl efficientnetv2 (effnetv2_configs.py, hparams.py, main.py,
preprocessing.py); accuracies from its README. A stage has a quarter of the epochs. With the sizes grow the
magnitude of RandAugment and, for M and L, the α of mixup and CutMix. The dropout is that of the code for all
stages; the paper's table lets it grow too. B0 to B3 have AutoAugment, and the crops and colours of the first
version. S, M and L are evaluated on the whole image, stretched to a square. Their bilinear kernel is here
TensorFlow 1's, whose samples lie half a pixel from the source's. The source mixes half of a batch by mixup
and half by CutMix; here each image draws one of them. Machine: TPU v3-32 or larger. Not yet reproduced with
this code: no figure of ours stands here.
Command: efficientnet-pod train --config=configs/imagenet_v2.py:s --workdir=runs/v2-s
Before you pay: efficientnet-pod preflight --config=configs/imagenet_v2.py:s --topology=v3-256
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from efficientnet_pod.recipe.base_config import base_config, require_row

STAGES = 4
FIRST_SIZE, FIRST_MAGNITUDE = 128, 5.0  # sizes grow from the first one, which no stage has


class Row(NamedTuple):
    """A network: what its last stage trains with, and its published top-1 in percent."""

    size: int
    top1: float
    magnitude: float = 0.0  # of RandAugment; 0: AutoAugment
    mixing: float = 0.0  # α of mixup and CutMix
    hours: str = ""


ROWS = {
    "b0": Row(192, 78.7),
    "b1": Row(192, 79.8),
    "b2": Row(208, 80.5),
    "b3": Row(240, 82.1),
    "s": Row(300, 83.9, 10.0, hours=" in 7.1 hours on 32 cores of TPU v3, the hours recalled from the paper"),
    "m": Row(384, 85.2, 15.0, 0.2),
    "l": Row(384, 85.7, 20.0, 0.5),
}


def get_config(name: str = "s") -> ConfigDict:
    """Returns the recipe of ``:b0`` to ``:b3``, ``:s``, ``:m`` or ``:l``."""
    require_row(name, ROWS)
    row = ROWS[name]

    config = base_config()
    config.global_batch = 4096
    config.bn_group_size = 8
    config.epochs = 350.0
    config.label_smoothing = 0.1
    config.ema_decay = 0.9999
    config.eval_epochs = 5.0
    config.model.name = f"v2_{name}"
    config.model.survival_probability = 0.8
    config.model.bn_momentum = 0.9
    config.data.policy = "randaugment" if row.magnitude else "autoaugment"
    if row.magnitude:
        config.data.mean_rgb = config.data.stddev_rgb = (128 / 255,) * 3
        config.data.resize = "bilinear"
        config.data.min_crop_area = 0.05
        config.data.eval_crop = "stretched"
        config.data.eval_crop_share = 1.0
        config.data.policy_magnitude = row.magnitude
        config.data.mixup = config.data.cutmix = row.mixing
    config.optimizer.name = "rmsprop"
    config.optimizer.rmsprop.l2_biases = False
    config.schedule.name = "exponential"
    config.schedule.warmup_epochs = 5.0
    for stage in range(STAGES):
        grown = stage / (STAGES - 1)
        phase = dict(
            from_epoch=config.get_ref("epochs") * stage / STAGES,
            image_size=int(FIRST_SIZE + (row.size - FIRST_SIZE) * (stage + 1) / STAGES),
        )
        if row.magnitude:
            phase["policy_magnitude"] = FIRST_MAGNITUDE + (row.magnitude - FIRST_MAGNITUDE) * grown
        if row.mixing:
            phase["mixup"] = phase["cutmix"] = row.mixing * grown
        config.phases[f"stage{stage + 1}"] = ConfigDict(phase)
    config.notes = (f"published: {row.top1} % top-1{row.hours} (google/automl, EfficientNetV2's README)",)
    return config
