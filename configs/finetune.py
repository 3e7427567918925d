"""Fine-tuning: from trained weights to a folder of your own images, in minutes on a laptop.

Source: Kornblith et al., arXiv 1805.08974: SGD with Nesterov momentum .9, crops of the usual kind, rate and
decay searched for by data set; EfficientNet's transfer learning follows it (arXiv 1905.11946, section 5.3).
The values here were found on photographs (records/fine_tuning.md): a beginning for others.
Command: efficientnet-pod train --config=configs/finetune.py:lite0 --config.init.weights=weights/lite0
    --config.data.name=folder:/photos --workdir=runs/photos
Machine: a CPU; see records/fine_tuning.md for accuracies and times.
"""

from typing import Any

from ml_collections import ConfigDict

from efficientnet_pod.recipe.base_config import base_config, require_row

NETWORKS = ("b0", "b1", "b2", "b3", "b4", "b5", "lite0", "lite1", "lite2", "lite3", "lite4",
            "v2_b0", "v2_b1", "v2_b2", "v2_b3", "v2_s", "v2_m", "v2_l", "resnet50")  # fmt: skip


def get_config(network: str = "b0") -> ConfigDict:
    """Returns the recipe for weights of a network; where they are, and the images, is for the command."""
    require_row(network, NETWORKS)
    config: Any = base_config()
    config.notes = (
        "the new classifier at the full rate, trained layers at .1 of it, batch norm as it was (config.init)",
        "in half the time, almost as good: --config.init.frozen=\"('stem','block','head')\"",
    )
    config.global_batch = 64
    config.replicas = "auto"
    config.epochs = 10.0
    config.label_smoothing = 0.1
    config.eval_epochs = 1.0
    config.log_steps = 10

    config.model.name = network
    config.model.bn_momentum = 0.9
    if network == "resnet50":
        config.model.bn_epsilon = 1e-5
    if network.startswith("lite"):  # the pixels that the lite networks were made for
        config.data.mean_rgb = (127 / 255,) * 3
        config.data.stddev_rgb = (128 / 255,) * 3
    if network in ("v2_s", "v2_m", "v2_l"):
        config.data.mean_rgb = config.data.stddev_rgb = (128 / 255,) * 3
    config.data.name = "folder:/photos"
    config.data.exif = "respected"  # photos of one's own come from cameras
    config.data.min_crop_area = 0.2

    config.optimizer.name = "sgd"
    config.optimizer.sgd.lr_per_256 = 0.02
    config.optimizer.sgd.l2 = 1e-5
    config.schedule.name = "polynomial"
    config.schedule.power = 1.0
    config.schedule.warmup_epochs = 1.0

    config.init.lr_factors = (("", 0.1), ("classifier", 1.0))
    config.init.bn_statistics = "keep"
    return config
