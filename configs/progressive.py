"""EfficientNet-B0 with progressive resizing: in four stages, images grow and are regularised more strongly.

Source: stages, linear growth and RMSProp with exponential decay as in EfficientNetV2 (arXiv 2104.00298,
section 4), which ties dropout and RandAugment to the image size. The sizes (128 to 224 pixels), magnitudes
(5 to 10), dropout (.1 to .2) and smallest crops (35 to 8 % of the area) are ours, for B0. Evaluation is at
224 pixels throughout. Machine: TPU v3-32 or larger. Not yet reproduced with this code: no figure of ours
stands here.
Command: efficientnet-pod train --config=configs/progressive.py --workdir=runs/progressive
With more small images a step, which the learning rate follows, as imagenet18 had them:
--config.phases.stage1.global_batch=8192
"""

from ml_collections import ConfigDict

from efficientnet_pod.recipe.base_config import base_config

STAGES = 4


def get_config() -> ConfigDict:
    """Returns the recipe."""
    config = base_config()
    config.global_batch = 4096
    config.epochs = 350.0
    config.label_smoothing = 0.1
    config.ema_decay = 0.9999
    config.eval_epochs = 5.0
    config.model.name = "b0"
    config.model.dropout = 0.2
    config.model.survival_probability = 0.8
    config.model.bn_momentum = 0.99
    config.data.image_size = 224
    config.data.policy = "randaugment"
    config.optimizer.name = "rmsprop"
    config.schedule.name = "exponential"
    config.schedule.warmup_epochs = 5.0
    for stage in range(STAGES):
        grown = stage / (STAGES - 1)
        config.phases[f"stage{stage + 1}"] = ConfigDict(
            dict(
                from_epoch=config.get_ref("epochs") * stage / STAGES,
                # Follows config.global_batch until it is set; without the product it would set that too.
                global_batch=config.get_ref("global_batch") * 1,
                image_size=128 + round(96 * grown),
                min_crop_area=0.35 - 0.27 * grown,
                policy_magnitude=5.0 + 5.0 * grown,
                dropout=0.1 + 0.1 * grown,
            )
        )
    return config
