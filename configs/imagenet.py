"""EfficientNet as published: RMSProp, exponential decay, 350 epochs at 4,096 images a step.

Source: arXiv 1905.11946 and tensorflow/tpu models/official/efficientnet (batch 4,096 by its maintainers,
tensorflow/tpu#509). Published top-1 with this preprocessing: B0 76.7, B1 78.7, B2 79.8, B3 81.1, B4 82.5,
B5 83.1 %. Machine: TPU v3-32 or larger. Not yet reproduced with this code: no figure of ours stands here.
Command: efficientnet-pod train --config=configs/imagenet.py:b0 --workdir=runs/imagenet-b0
"""

from ml_collections import ConfigDict


def get_config(model: str = "b0") -> ConfigDict:
    """Returns the recipe of one variant, ``configs/imagenet.py:b0`` … ``:b7``."""
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
    config.model.name = model
    config.model.dropout = -1.0  # the variant's
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
    config.data.image_size = 0  # the variant's
    config.data.link_dtype = "auto"
    config.data.resize = "reference"
    config.data.augment = "inception_crop"
    config.data.max_shift = 0
    config.data.min_crop_area = 0.08
    config.data.policy = "none"
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
    return config
