"""EfficientNet-B0 on one GPU: the published recipe at its own batch of 4,096 images, a part after the other.

Source: configs/imagenet.py. There 1,024 images normalise together; here as many as the GPU holds at once: at
the first start ``auto`` takes the fewest replicas whose step fits its memory, and the run keeps them.
With few host cores a GPU, ``:fast`` resizes in less time, to other pixels (records/input.md).
Machine: one GPU. Published: 76.7 % top-1. Not yet reproduced with this code.
Command: efficientnet-pod train --config=configs/b0_gpu.py --workdir=runs/b0
Does it fit: efficientnet-pod preflight --config=configs/b0_gpu.py --topology=cuda:a100x1
"""

from ml_collections import ConfigDict

from efficientnet_pod.recipe.base_config import base_config, require_row


def get_config(resize: str = "reference") -> ConfigDict:
    """Returns the recipe of ``:reference`` or ``:fast`` resizing."""
    require_row(resize, ("reference", "fast"))
    config = base_config()
    config.global_batch = 4096
    config.replicas = "auto"
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
