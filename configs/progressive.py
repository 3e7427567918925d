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

STAGES = 4


def get_config() -> ConfigDict:
    """Returns the recipe."""
    config = ConfigDict()
    config.platform = "any"
    config.cpu_replicas = 1
    config.seed = 0

    config.global_batch = 4096
    config.bn_group_size = 1
    config.epochs = 350.0
    config.label_smoothing = 0.1
    config.ema_decay = 0.9999
    config.eval_epochs = 5.0
    config.eval_raw = False
    config.log_steps = 100
    config.keep_checkpoints = 3
    config.checkpoint_minutes = 10.0
    config.on_non_finite = "stop"
    config.stuck_seconds = 600.0

    config.model = ConfigDict()
    config.model.name = "b0"
    config.model.dropout = 0.2
    config.model.survival_probability = 0.8
    config.model.bn_momentum = 0.99
    config.model.bn_epsilon = 1e-3
    config.model.zero_init_residual = False
    config.model.ghost_batch = 0
    config.model.bn_scale = 0.0
    config.model.dtype = "auto"

    config.data = ConfigDict()
    config.data.name = "imagenet2012"
    config.data.data_dir = ""
    config.data.train_split = "train"
    config.data.eval_split = "validation"
    config.data.image_size = 224
    config.data.link_dtype = "auto"
    config.data.resize = "reference"
    config.data.augment = "inception_crop"
    config.data.max_shift = 0
    config.data.min_crop_area = 0.08
    config.data.policy = "randaugment"
    config.data.policy_layers = 2
    config.data.policy_magnitude = 10.0
    config.data.policy_bugs = False
    config.data.cutout = 0
    config.data.mixup = 0.0
    config.data.cutmix = 0.0
    config.data.eval_crop = "square"
    config.data.skip_corrupt = 0

    config.optimizer = ConfigDict()
    config.optimizer.name = "rmsprop"
    config.optimizer.rmsprop = ConfigDict(
        dict(lr_per_256=0.016, decay=0.9, momentum=0.9, epsilon=1e-3, l2=1e-5)
    )
    config.optimizer.lars = ConfigDict(
        dict(lr_per_256=0.236, momentum=0.9, weight_decay=1e-5, trust_coefficient=1e-3, epsilon=0.0)
    )
    config.optimizer.sgd = ConfigDict(
        dict(lr_per_256=0.1, momentum=0.9, nesterov=True, l2=1e-5, l2_everywhere=False)
    )

    config.schedule = ConfigDict()
    config.schedule.name = "exponential"
    config.schedule.warmup_epochs = 5.0
    config.schedule.power = 2.0
    config.schedule.end_lr = 0.0
    config.schedule.decay_rate = 0.97
    config.schedule.decay_epochs = 2.4

    config.phases = ConfigDict()
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
