"""EfficientNet-B0 on handwritten digits: a pod in miniature, on any laptop.

Source: the 1,797 digits of scikit-learn (8×8 grey, shown at 32×32), 1,437 to train and 360 to evaluate;
the recipe of arXiv 2011.00071 at a small scale.
Command: efficientnet-pod train --config=configs/digits.py --workdir=runs/digits
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the recipe."""
    config = ConfigDict()
    config.platform = "cpu"
    config.cpu_replicas = 8
    config.seed = 0

    config.global_batch = 128
    config.bn_group_size = 4  # 64 images normalise together
    config.epochs = 28.0
    config.label_smoothing = 0.1
    config.ema_decay = 0.9
    config.eval_epochs = 7.0
    config.eval_raw = False
    config.log_steps = 10
    config.keep_checkpoints = 2
    config.checkpoint_minutes = 10.0
    config.on_non_finite = "stop"
    config.stuck_seconds = 600.0

    config.model = ConfigDict()
    config.model.name = "b0"
    config.model.dropout = -1.0
    config.model.survival_probability = 0.9
    config.model.bn_momentum = 0.9  # 314 steps: .99 would remember its initial variance
    config.model.bn_epsilon = 1e-3
    config.model.zero_init_residual = False
    config.model.ghost_batch = 0
    config.model.bn_scale = 0.0
    config.model.dtype = "auto"

    config.data = ConfigDict()
    config.data.name = "digits"
    config.data.data_dir = ""
    config.data.train_split = "train"
    config.data.eval_split = "validation"
    config.data.image_size = 32
    config.data.link_dtype = "auto"
    config.data.resize = "reference"
    config.data.augment = "shift"
    config.data.max_shift = 3
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
    config.optimizer.name = "lars"
    # In so few steps kernels must move faster, relative to their norm, than the published .001 lets them. A
    # learning rate of 10 would do that too, and blow up batch norm and biases, which LARS does not adapt.
    # Twice as fast, or in 157 steps of 256, rounding decides how a run ends: 84 to 99 %.
    config.optimizer.lars = ConfigDict(
        dict(lr_per_256=0.2, momentum=0.9, weight_decay=1e-5, trust_coefficient=0.05, epsilon=0.0)
    )
    config.optimizer.rmsprop = ConfigDict(
        dict(lr_per_256=0.016, decay=0.9, momentum=0.9, epsilon=1e-3, l2=1e-5)
    )
    config.optimizer.sgd = ConfigDict(
        dict(lr_per_256=0.1, momentum=0.9, nesterov=True, l2=1e-4, l2_everywhere=False)
    )

    config.schedule = ConfigDict()
    config.schedule.name = "polynomial"
    config.schedule.warmup_epochs = 3.0
    config.schedule.power = 2.0
    config.schedule.end_lr = 0.0
    config.schedule.decay_rate = 0.97
    config.schedule.decay_epochs = 2.4

    config.phases = ConfigDict()
    return config
