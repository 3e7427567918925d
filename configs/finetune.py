"""Fine-tuning: from trained weights to a folder of your own images, in minutes on a laptop.

Source: Kornblith et al., arXiv 1805.08974, section 4 and appendix A (SGD with Nesterov momentum .9, crops of
the usual kind, a batch norm that remembers less of the old data); EfficientNet's transfer learning follows it
(arXiv 1905.11946, section 5.3). They search for rate and decay by data set; these are a beginning.
Command: efficientnet-pod train --config=configs/finetune.py:lite0 --config.init.weights=weights/lite0
    --config.data.name=folder:/photos --workdir=runs/photos
Machine: a CPU; see records/fine_tuning.md for accuracies and times.
"""

from typing import Any

from ml_collections import ConfigDict

from efficientnet_pod.base_config import base_config, require_row

NETWORKS = ("b0", "b1", "b2", "b3", "b4", "b5", "lite0", "lite1", "lite2", "lite3", "lite4", "resnet50")


def get_config(network: str = "b0") -> ConfigDict:
    """Returns the recipe for weights of a network; where they are, and the images, is for the command."""
    require_row(network, NETWORKS)
    config: Any = base_config()
    config.notes = (
        "new layers at the full rate, those that were trained before at a tenth (init.lr_factors)",
        "for a few images a class, --config.init.frozen='stem','block' is faster and as good",
    )
    config.global_batch = 64
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
    config.data.name = "folder:/photos"
    config.data.min_crop_area = 0.2

    config.optimizer.name = "sgd"
    config.optimizer.sgd.lr_per_256 = 0.4
    config.optimizer.sgd.l2 = 1e-5
    config.schedule.name = "polynomial"
    config.schedule.power = 1.0
    config.schedule.warmup_epochs = 1.0

    config.init.lr_factors = (("", 0.1), ("classifier", 1.0))
    return config
