"""EfficientNet-B0 on handwritten digits: a pod in miniature, on any laptop.

Source: the 1,797 digits of scikit-learn (8×8 grey, shown at 32×32), 1,437 to train and 360 to evaluate;
the recipe of arXiv 2011.00071 at a small scale. ``:raw`` evaluates the weights themselves, not their average.
Command: efficientnet-pod train --config=configs/digits.py --workdir=runs/digits
"""

from ml_collections import ConfigDict

from efficientnet_pod.recipe.base_config import base_config, require_row


def get_config(weights: str = "averaged") -> ConfigDict:
    """Returns the recipe, which evaluates the ``:averaged`` or the ``:raw`` weights."""
    require_row(weights, ("averaged", "raw"))
    config = base_config()
    config.eval_raw = weights == "raw"
    config.platform = "cpu"
    config.cpu_replicas = 8
    config.global_batch = 128
    config.bn_group_size = 4  # 64 images normalise together
    config.epochs = 28.0
    config.label_smoothing = 0.1
    config.ema_decay = 0.9
    config.eval_epochs = 7.0
    config.log_steps = 10
    config.keep_checkpoints = 2

    config.model.name = "b0"
    config.model.survival_probability = 0.9
    config.model.bn_momentum = 0.9  # 314 steps: .99 would remember its initial variance

    config.data.name = "digits"
    config.data.image_size = 32
    config.data.augment = "shift"
    config.data.max_shift = 3

    config.optimizer.name = "lars"
    # In so few steps kernels must move faster, relative to their norm, than the published .001 lets them. A
    # learning rate of 10 would do that too, and blow up batch norm and biases, which LARS does not adapt.
    # Twice as fast, or in 157 steps of 256, rounding decides how a run ends: 84 to 99 %.
    config.optimizer.lars.lr_per_256 = 0.2
    config.optimizer.lars.trust_coefficient = 0.05
    config.schedule.name = "polynomial"
    config.schedule.warmup_epochs = 3.0
    return config
