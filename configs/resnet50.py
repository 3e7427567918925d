"""ResNet-50 in minutes, by linear scaling at 8,192 and LARS to 65,536 images a step; and on mixed images.

Source: Goyal et al., arXiv 1706.02677: 76.3 % top-1 in one hour on 256 P100, section 5.1. LARS: MLPerf
Training 0.7, ResNet-50, whose target is 75.9 % top-1; values of the JAX and TensorFlow submissions
(mlcommons/training_results_v0.7). CutMix and mixup: Yun et al., arXiv 1905.04899; accuracies of the README of
clovaai/CutMix-PyTorch, all else of its train.py, which also varies colours and lighting.
Not yet reproduced with this code: no figure of ours stands here.
Command: efficientnet-pod train --config=configs/resnet50.py:goyal --workdir=runs/resnet50
Before you pay: efficientnet-pod preflight --config=configs/resnet50.py:lars,65536 --topology=v3-2048
"""

from typing import Any

from ml_collections import ConfigDict

from efficientnet_pod.recipe.base_config import base_config, require_row

# Global batch: absolute peak learning rate, warm-up epochs, epochs, momentum, weight decay.
LARS = {
    32768: (29.0, 18.0, 64.0, 0.929, 1e-4),
    65536: (23.081, 33.0, 92.0, 0.95372, 1e-4),
}
BN_BATCH = 64  # images that normalise together: eight cores of eight images, in the record submissions
REPLICAS = 2048
MIXED = {"cutmix": 78.60, "mixup": 77.42}  # published top-1 in percent, the best of the evaluations
KNOWN = ("goyal", *(f"lars,{batch}" for batch in LARS), *MIXED)


def get_config(row: str = "goyal") -> ConfigDict:
    """Returns the recipe of ``:goyal``, ``:lars,GLOBAL_BATCH``, ``:cutmix`` or ``:mixup``."""
    require_row(row, KNOWN)
    config = base_config()
    config.model.name = "resnet50"
    config.model.bn_epsilon = 1e-5
    if row == "goyal":
        return _goyal(config)
    if row in MIXED:
        return _mixed(config, row)
    return _lars(config, int(row.removeprefix("lars,")))


def _goyal(config: Any) -> ConfigDict:
    config.global_batch = 8192  # 32 images on each of 256 GPUs, which normalise alone
    config.epochs = 90.0
    config.model.zero_init_residual = True
    config.schedule.name = "piecewise"
    epochs = (
        (0, 1 / 32),
        (5, 1),
        (30, 1),
        (30, 0.1),
        (60, 0.1),
        (60, 0.01),
        (80, 0.01),
        (80, 1e-3),
        (90, 1e-3),
    )
    config.schedule.knots = tuple((epoch / 90, float(factor)) for epoch, factor in epochs)
    config.notes = (
        "peak learning rate 0.1 × 8,192 / 256 = 3.2, from 0.1 in five epochs; a tenth at 30, 60 and 80: "
        "arXiv 1706.02677, sections 2.1, 2.2 and 5.1",
        "published: 76.3 % top-1 (23.74 % error) in one hour on 256 P100",
    )
    return config


def _lars(config: Any, global_batch: int) -> ConfigDict:
    peak, warmup_epochs, epochs, momentum, weight_decay = LARS[global_batch]
    config.platform = "tpu"
    config.global_batch = global_batch
    config.bn_group_size = BN_BATCH * REPLICAS // global_batch
    config.epochs = epochs
    config.eval_epochs = 4.0
    config.label_smoothing = 0.1
    config.log_steps = 20
    config.optimizer.name = "lars"
    config.optimizer.lars = ConfigDict(
        dict(
            lr_per_256=peak * 256 / global_batch,
            momentum=momentum,
            weight_decay=weight_decay,
            trust_coefficient=1e-3,
            epsilon=0.0,
        )
    )
    config.schedule.name = "polynomial"
    config.schedule.warmup_epochs = warmup_epochs
    config.schedule.end_lr = 1e-4
    config.notes = (
        f"peak learning rate {peak:g}, warm-up {warmup_epochs:g} epochs, momentum {momentum:g}: MLPerf "
        "Training 0.7, ResNet-50 in JAX",
        "published: 75.9 % top-1, MLPerf's target"
        + ("; in 28 seconds on 8,192 TPU v3 cores" if global_batch == 65536 else ""),
    )
    return config


def _mixed(config: Any, row: str) -> ConfigDict:
    config.global_batch = 256
    config.epochs = 300.0
    config.data[row] = 1.0
    config.optimizer.sgd.l2_everywhere = True
    config.schedule.name = "piecewise"
    drops = ((0, 1.0), (75, 1.0), (75, 0.1), (150, 0.1), (150, 0.01), (225, 0.01), (225, 1e-3), (300, 1e-3))
    config.schedule.knots = tuple((epoch / 300, factor) for epoch, factor in drops)
    config.notes = (
        "learning rate 0.1, a tenth at 75, 150 and 225: CutMix-PyTorch, train.py; mixup's α is recalled",
        f"published: {MIXED[row]:.2f} % top-1 with {row} (CutMix-PyTorch's README), 76.32 % without",
    )
    return config
