"""The recipe that evaluates given weights on given images, and whether their classes are the same."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.base_config import base_config
from efficientnet_pod.weights.classes import readable
from efficientnet_pod.weights.trained import Trained

PER_REPLICA = 32  # images, where nobody says how many: B7's activations of them still fit 16 GB
CPU_REPLICAS = 1  # of weights that come without a recipe; more would share the same cores
SPLIT = "validation"


@dataclasses.dataclass(frozen=True)
class Asked:
    """What of an evaluation is not as the weights or their recipe have it; None: as they do.

    Attributes:
      data: name of the images.
      data_dir: where TFDS keeps them.
      split: evaluated.
      batch: images a step, all replicas together.
      image_size: pixels.
      flip: evaluate mirror images too.
    """

    data: str | None = None
    data_dir: str | None = None
    split: str | None = None
    batch: int | None = None
    image_size: int | None = None
    flip: bool | None = None

    @property
    def only_flips(self) -> bool:
        """Whether images and batches stay as they are."""
        return dataclasses.replace(self, flip=None) == Asked()

    def applied(self, config: dict[str, Any]) -> dict[str, Any]:
        """Returns a config that evaluates so.

        Raises:
          UserError: the images have no such split, or none is named where one is needed.
        """
        if self.flip is not None:
            config = config | {"eval_flip": self.flip}
        if self.only_flips:
            return config
        data = dict(config["data"])
        if self.data:
            data |= {"name": self.data, "data_dir": self.data_dir or ""}
        if self.data_dir:
            data["data_dir"] = self.data_dir
        if self.split and data["name"] == "digits" and self.split != SPLIT:
            raise UserError(
                f"--split={self.split}: digits evaluates its 360 held-out images; leave out --split"
            )
        if self.data or self.split:  # one name for both: the other split need not be there
            data |= dict.fromkeys(("train_split", "eval_split"), self.split or SPLIT)
        data |= {"image_size": self.image_size or data["image_size"], "max_shift": 0}
        # What is of training alone, and might not suit these images or devices.
        config = config | {"phases": {}, "bn_group_size": 1, "data": data}
        config["model"] = config["model"] | {"ghost_batch": 0}
        return config | {"global_batch": self.batch or config["global_batch"]}


def config_of(trained: Trained) -> dict[str, Any]:
    """Returns a config whose network, and whose images' size and view, are those of weights; for any data."""
    config = base_config().to_dict()
    config["cpu_replicas"] = CPU_REPLICAS
    settings = {name: value for name, value in trained.settings.items() if name in config["model"]}
    config["model"] |= settings | {"name": trained.network, "bn_epsilon": trained.bn_epsilon, "dtype": "auto"}
    config["data"] |= {
        "image_size": trained.image_size,
        "augment": trained.augment,
        "resize": trained.resize,
        "mean_rgb": trained.mean_rgb,
        "stddev_rgb": trained.stddev_rgb,
    }
    return config


def compare_classes(
    num_classes: int, names: Sequence[str], found: Sequence[str], *, weights: str, data: str
) -> str | None:
    """Returns a warning if the classes of weights and images are called differently, None if alike.

    Args:
      num_classes: of the weights.
      names: by label, words or WordNet's numbers; empty where nobody said them.
      found: those of the images.
      weights: where they are, for messages.
      data: likewise the images.

    Raises:
      UserError: they are not as many, or the same in another order.
    """
    if len(found) != num_classes:
        raise UserError(
            f"'{weights}' tells {num_classes:,} classes apart and '{data}' has {len(found):,}; "
            "name images of the same classes with --data, or other weights"
        )
    names, found = readable(names), readable(found)
    differ = [label for label, pair in enumerate(zip(names, found, strict=False)) if pair[0] != pair[1]]
    if not differ:
        return None
    first = differ[0]
    said = f"class {first} is '{names[first]}' in '{weights}' and '{found[first]}' in '{data}'"
    if set(names) == set(found):
        raise UserError(
            f"{said}: the same classes in another order, each would be taken for another; "
            "name images whose labels are in the order of the weights"
        )
    return f"{said}; {len(differ):,} of {num_classes:,} names differ; labels are compared by number"
