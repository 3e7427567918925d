"""Every field a recipe has, at the value that does least: a recipe names only what makes it that recipe."""

import difflib
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict, FieldReference


class UnknownRowError(ValueError):
    """A recipe has no such row; ``known`` are those it has."""

    known: tuple[str, ...] = ()


def require_row(row: str, known: Iterable[str]) -> None:
    """Raises :class:`UnknownRowError` for an unknown row of a recipe."""
    rows = tuple(known)
    if row not in rows:
        near = difflib.get_close_matches(row, rows, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        error = UnknownRowError(f"the recipe has no ':{row}'; {hint}known: {'  '.join(rows)}")
        error.known = rows
        raise error


def base_config() -> Any:
    """Returns a ConfigDict with the fields of :class:`.recipe.Recipe`, which explains them.

    No augmentation but the published crop, no regularisation, no averaged weights, SGD at a constant rate. A
    recipe sets the rest; what it sets is what its source asks for.
    """
    config = ConfigDict()
    config.notes = ()
    config.platform = "any"
    config.cpu_replicas = 1
    config.seed = 0

    config.global_batch = 256
    config.replicas = FieldReference(0, field_type=object)  # a number, or a word
    config.bn_group_size = 1
    config.epochs = 90.0
    config.label_smoothing = 0.0
    config.ema_decay = 0.0
    config.eval_epochs = 1.0
    config.eval_raw = False
    config.eval_flip = False
    config.log_steps = 100
    config.keep_checkpoints = 3
    config.checkpoint_minutes = 10.0
    config.on_non_finite = "stop"
    config.stuck_seconds = 600.0
    config.profile = ""
    config.trackers = ()

    config.model = ConfigDict()
    config.model.name = "b0"
    config.model.dropout = -1.0  # the network's
    config.model.survival_probability = 1.0
    config.model.bn_momentum = 0.9
    config.model.bn_epsilon = 1e-3
    config.model.zero_init_residual = False
    config.model.ghost_batch = 0
    config.model.bn_scale = 0.0
    config.model.auxiliary_weight = 0.0
    config.model.recompute = False
    config.model.padding = "same"
    config.model.dtype = "auto"

    config.data = ConfigDict()
    config.data.name = "imagenet2012"
    config.data.data_dir = ""
    config.data.train_split = "train"
    config.data.eval_split = "validation"
    config.data.image_size = 0  # the network's
    config.data.link_dtype = "auto"
    config.data.resize = "reference"
    config.data.exif = "ignored"
    config.data.mean_rgb = (0.485, 0.456, 0.406)  # ImageNet's
    config.data.stddev_rgb = (0.229, 0.224, 0.225)
    config.data.augment = "inception_crop"
    config.data.max_shift = 0
    config.data.min_crop_area = 0.08
    config.data.color_offsets = False
    config.data.policy = "none"
    config.data.policy_layers = 2
    config.data.policy_magnitude = 10.0
    config.data.policy_bugs = False
    config.data.cutout = 0
    config.data.erasing = 0.0
    config.data.mixup = 0.0
    config.data.cutmix = 0.0
    config.data.eval_crop = "square"
    config.data.eval_crop_share = 0.875
    config.data.class_weights = FieldReference("none", field_type=object)  # a word, or a table
    config.data.sampling = "epoch"
    config.data.in_memory = False
    config.data.skip_corrupt = 0

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"
    sgd = dict(lr_per_256=0.1, momentum=0.9, nesterov=True, l2=1e-4, l2_everywhere=False)
    rmsprop = dict(lr_per_256=0.016, decay=0.9, momentum=0.9, epsilon=1e-3, l2=1e-5, l2_biases=True)
    lars = dict(lr_per_256=0.236, momentum=0.9, weight_decay=1e-5, trust_coefficient=1e-3, epsilon=0.0)
    adamw = dict(lr_per_256=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=1e-2)
    config.optimizer.update(sgd=sgd, rmsprop=rmsprop, lars=lars, adamw=adamw, lamb={**adamw, "epsilon": 1e-6})

    config.schedule = ConfigDict()
    config.schedule.name = "constant"
    config.schedule.warmup_epochs = 0.0
    config.schedule.power = 2.0
    config.schedule.end_lr = 0.0
    config.schedule.decay_rate = 0.97
    config.schedule.decay_epochs = 2.4
    config.schedule.knots = ()

    config.phases = ConfigDict()

    config.init = ConfigDict()
    config.init.weights = ""  # random ones
    config.init.frozen = ()
    config.init.lr_factors = ()
    config.init.bn_statistics = "train"
    config.init.bn_images = 2048

    config.stop = ConfigDict()
    config.stop.at_top1 = 0.0
    config.stop.patience_epochs = 0.0
    return config
