"""EfficientNet as published: RMSProp, exponential decay, 350 epochs at 4,096 images a step.

Source: arXiv 1905.11946 and tensorflow/tpu models/official/efficientnet (batch 4,096 by its maintainers,
tensorflow/tpu#509); accuracies from its README. BN groups of 8 replicas are those of its
``TpuBatchNormalization`` on 16 to 64. It has replicas / 8 on more (128: --config.bn_group_size=16), and 1 on
8 or fewer (--config.bn_group_size=1). AutoAugment: arXiv 1805.09501; ``released`` repeats the
faults of the code it was published with. RandAugment: arXiv 1909.13719; magnitudes, and B5's accuracy, are
recalled. Machine: TPU v3-32 or larger; B0 takes three hours there and 100 dollars on demand, by `preflight`'s
estimate of its step (100 ms). Not yet reproduced with this code: no figure of ours stands here.
``b0,ra4`` goes after the best B0 of today, timm's ``efficientnet_b0.ra4_e3600_r224_in1k``: known of it are
3,600 epochs of AdamW with a beta1 of .6, PyTorch's padding and epsilon, the constants of its pixels, and its
accuracy. Its file of hyper-parameters could not be read: rate, decay, dropouts, strengths of augmentation and
the batch are ours, after MobileNetV4 (arXiv 2404.10518), whose small network it follows.
Command: efficientnet-pod train --config=configs/imagenet.py:b0 --workdir=runs/imagenet-b0
With AutoAugment: --config=configs/imagenet.py:b0,autoaugment
"""

from ml_collections import ConfigDict

from efficientnet_pod.recipe.base_config import base_config, require_row

# Published top-1 in percent: with the preprocessing of ResNet ("none"), with AutoAugment, with RandAugment.
TOP1 = {
    "b0": {"none": 76.7, "autoaugment": 77.1},
    "b1": {"none": 78.7, "autoaugment": 79.1},
    "b2": {"none": 79.8, "autoaugment": 80.1},
    "b3": {"none": 81.1, "autoaugment": 81.6},
    "b4": {"none": 82.5, "autoaugment": 82.9},
    "b5": {"none": 83.1, "autoaugment": 83.6, "randaugment": 83.9},
    "b6": {"autoaugment": 84.0},
    "b7": {"autoaugment": 84.3, "randaugment": 85.0},
}
MAGNITUDES = {"b5": 17.0, "b7": 28.0}  # of RandAugment
README, PAPER = "tensorflow/tpu, EfficientNet's README", "arXiv 1909.13719; magnitude recalled"
RA4 = ("b0,ra4", 78.6)


def get_config(model_and_policy: str = "b0") -> ConfigDict:
    """Returns the recipe of ``:MODEL[,POLICY]``; B6 and B7 were published with a policy alone.

    POLICY is ``autoaugment``, ``released`` (AutoAugment with the faults of its code), ``randaugment`` or
    ``ra4``.
    """
    model, _, policy = model_and_policy.partition(",")
    policy = policy or ("none" if "none" in TOP1.get(model, ("none",)) else "autoaugment")
    row = f"{model},{policy}".removesuffix(",none")
    rows = {
        f"{name},{kind}".removesuffix(",none"): top1
        for name, published in TOP1.items()
        for kind, top1 in (published | {"released": published["autoaugment"]}).items()
    }
    require_row(row, [*rows, RA4[0]])
    if row == RA4[0]:
        return _ra4()

    config = base_config()
    config.global_batch = 4096
    config.bn_group_size = 8
    config.epochs = 350.0
    config.label_smoothing = 0.1
    config.ema_decay = 0.9999
    config.eval_epochs = 5.0
    config.model.name = model
    config.model.survival_probability = 0.8
    config.model.bn_momentum = 0.99
    config.data.policy = "autoaugment" if policy == "released" else policy
    config.data.policy_bugs = policy == "released"
    if policy == "randaugment":
        config.data.policy_layers = 2
        config.data.policy_magnitude = MAGNITUDES[model]
    config.optimizer.name = "rmsprop"
    config.schedule.name = "exponential"
    config.schedule.warmup_epochs = 5.0
    config.notes = (f"published: {rows[row]} % top-1 ({PAPER if policy == 'randaugment' else README})",)
    return config


def _ra4() -> ConfigDict:
    config = base_config()
    config.global_batch = 4096
    config.epochs = 3600.0
    config.label_smoothing = 0.1
    config.ema_decay = 0.9999
    config.eval_epochs = 20.0
    config.model.name = "b0"
    config.model.padding = "symmetric"
    config.model.bn_epsilon = 1e-5
    config.model.dropout = 0.3
    config.model.survival_probability = 0.8
    config.data.mean_rgb = config.data.stddev_rgb = (0.5, 0.5, 0.5)
    config.data.policy = "randaugment"
    config.data.policy_magnitude = 8.0
    config.data.erasing = 0.25
    config.data.eval_crop_share = 0.9
    config.optimizer.name = "adamw"
    config.optimizer.adamw.lr_per_256 = 0.002 / 16
    config.optimizer.adamw.beta1 = 0.6
    config.optimizer.adamw.epsilon = 1e-6
    config.optimizer.adamw.weight_decay = 0.01
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 5.0
    config.notes = (
        "AdamW with beta1 .6 and 3,600 epochs: timm's blog on MobileNet baselines, July 2024",
        "padding, epsilon, constants of pixels and crop: timm's efficientnet_b0.ra4_e3600_r224_in1k",
        "rate, decay, dropouts, RandAugment, erasing, averaging and batch: ours; MobileNetV4's are recalled",
        f"published: {RA4[1]} % top-1 at 224 pixels (timm, results-imagenet.csv)",
    )
    return config
