"""EfficientNet at supercomputer scale: LARS with linear scaling, long warm-up and polynomial decay.

Source: arXiv 2011.00071; optimizer, schedule and BN batch from the authors' code (tensorflow/tpu
models/official/efficientnet). The paper's abstract: B5, 83 % top-1 in 64 minutes at 65,536 images a step on
1,024 TPU v3 cores. The base learning rates, warm-up epochs and BN batch below are recalled, not checked
against its tables. Machine: 1,024 TPU v3 cores (v3:16x32). Not yet reproduced with this code: no figure of
ours stands here.
Command: efficientnet-pod train --config=configs/supercomputer.py:b5,65536 --workdir=gs://bucket/b5
Without the pod: efficientnet-pod preflight --config=configs/supercomputer.py:b5,65536 --topology=v3:16x32
"""

from ml_collections import ConfigDict

# Global batch: base learning rate per 256 images, warm-up epochs. Recalled (see above).
LARS_BY_BATCH = {16384: (0.236, 50.0), 32768: (0.118, 50.0), 65536: (0.081, 43.0)}
REPLICAS = 1024
BN_BATCH = 1024  # images that normalise together; the authors' code has a flag, the paper groups of cores


def get_config(model_and_batch: str = "b5,65536") -> ConfigDict:
    """Returns the recipe of ``:MODEL,GLOBAL_BATCH``, e.g. ``configs/supercomputer.py:b2,32768``."""
    model, _, batch = model_and_batch.partition(",")
    if batch not in map(str, LARS_BY_BATCH):
        known = ", ".join(map(str, LARS_BY_BATCH))
        raise ValueError(
            f"'{model_and_batch}' is not MODEL,GLOBAL_BATCH with a batch of {known}, e.g. b5,65536"
        )
    global_batch = int(batch)
    lr_per_256, warmup_epochs = LARS_BY_BATCH[global_batch]

    config = ConfigDict()
    config.platform = "tpu"
    config.cpu_replicas = 1
    config.seed = 0

    config.global_batch = global_batch
    config.bn_group_size = BN_BATCH * REPLICAS // global_batch
    config.epochs = 350.0
    config.label_smoothing = 0.1
    config.ema_decay = 0.9999
    config.eval_epochs = 5.0
    config.eval_raw = False
    config.log_steps = 20
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
    config.optimizer.name = "lars"
    config.optimizer.lars = ConfigDict(
        dict(lr_per_256=lr_per_256, momentum=0.9, weight_decay=1e-5, trust_coefficient=1e-3, epsilon=0.0)
    )
    config.optimizer.rmsprop = ConfigDict(
        dict(lr_per_256=0.016, decay=0.9, momentum=0.9, epsilon=1e-3, l2=1e-5)
    )
    config.optimizer.sgd = ConfigDict(
        dict(lr_per_256=0.1, momentum=0.9, nesterov=True, l2=1e-5, l2_everywhere=False)
    )

    config.schedule = ConfigDict()
    config.schedule.name = "polynomial"
    config.schedule.warmup_epochs = warmup_epochs
    config.schedule.power = 2.0
    config.schedule.end_lr = 0.1  # absolute, the authors' default
    config.schedule.decay_rate = 0.97
    config.schedule.decay_epochs = 2.4

    config.phases = ConfigDict()
    return config
