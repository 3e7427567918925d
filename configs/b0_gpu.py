"""EfficientNet-B0 on one GPU: the published recipe with the learning rate of a smaller batch.

Source: configs/imagenet.py; the linear rule (arXiv 1706.02677) from 4,096 to 256 images a step. The average
of the weights and of batch norm's statistics is over as many epochs as there: 16 times as many steps.
With few host cores a GPU, ``:fast`` resizes in less time, to other pixels (records/input.md).
Machine: one GPU with 16 GB. Published at 4,096: 76.7 % top-1. Not yet reproduced with this code.
Command: efficientnet-pod train --config=configs/b0_gpu.py --workdir=runs/b0
Does it fit: efficientnet-pod preflight --config=configs/b0_gpu.py --topology=cuda:a100x1
"""

from ml_collections import ConfigDict

from efficientnet_pod.recipe.base_config import base_config, require_row


def get_config(resize: str = "reference") -> ConfigDict:
    """Returns the recipe of ``:reference`` or ``:fast`` resizing."""
    require_row(resize, ("reference", "fast"))
    config = base_config()
    config.global_batch = 256
    config.epochs = 350.0
    config.label_smoothing = 0.1
    config.ema_decay = 0.9999
    config.eval_epochs = 5.0
    config.model.name = "b0"
    config.model.survival_probability = 0.8
    config.model.bn_momentum = 0.99
    config.data.resize = resize
    config.optimizer.name = "rmsprop"
    config.schedule.name = "exponential"
    config.schedule.warmup_epochs = 5.0
    return config
