"""The recipe that evaluates given weights on given images, and a comparison of their classes."""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.base_config import base_config
from efficientnet_pod.weights.classes import keys_of, readable
from efficientnet_pod.weights.trained import Trained

PER_REPLICA = 32  # images by default: B7's activations of them still fit 16 GB
CPU_REPLICAS = 1  # for weights without a recipe; more would share the same cores
SPLIT = "validation"


@dataclasses.dataclass(frozen=True)
class Overrides:
    """Overrides of an evaluation. None keeps the value of the weights, or of their recipe.

    Attributes:
      data: name of the images.
      data_dir: folder of TFDS's data.
      split: split that is evaluated.
      batch: images a step, all replicas together.
      image_size: height and width in pixels.
      flip: whether mirror images are evaluated too.
      exif: ``ignored`` or ``respected``: whether photos are turned upright as EXIF notes.
    """

    data: str | None = None
    data_dir: str | None = None
    split: str | None = None
    batch: int | None = None
    image_size: int | None = None
    flip: bool | None = None
    exif: str | None = None

    def applied(self, config: dict[str, Any]) -> dict[str, Any]:
        """Returns the config with these values.

        Raises:
          UserError: the images have no such split, or none is named where one is needed.
        """
        if self.flip is not None:
            config = config | {"eval_flip": self.flip}
        if self.exif is not None:
            config = config | {"data": config["data"] | {"exif": self.exif}}
        if dataclasses.replace(self, flip=None, exif=None) == Overrides():
            return config  # images and batches stay as they are
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
        # These fields only matter for training, and might not suit these images or devices.
        config = config | {"phases": {}, "bn_group_size": 1, "data": data}
        config["model"] = config["model"] | {"ghost_batch": 0, "auxiliary_weight": 0.0}
        return config | {"global_batch": self.batch or config["global_batch"]}


def config_for(trained: Trained) -> dict[str, Any]:
    """Returns a config with the network, image size and view of weights; the images are not named."""
    config = base_config().to_dict()
    config["cpu_replicas"] = CPU_REPLICAS
    settings = {name: value for name, value in trained.settings.items() if name in config["model"]}
    config["model"] |= settings | {"name": trained.network, "bn_epsilon": trained.bn_epsilon, "dtype": "auto"}
    config["data"] |= {
        "image_size": trained.image_size,
        "augment": trained.augment,
        "resize": trained.resize,
        "eval_crop": trained.eval_crop,
        "eval_crop_share": trained.eval_crop_share,
        "exif": trained.exif,
        "mean_rgb": trained.mean_rgb,
        "stddev_rgb": trained.stddev_rgb,
    }
    return config


def labels_by_name(
    num_classes: int, names: Sequence[str], image_names: Sequence[str], *, weights: str, data: str
) -> tuple[tuple[int, ...] | None, str | None]:
    """Returns the weights' label of each class of the images, by its name, and a warning or None.

    The labels are None where classes are compared by number: where one side has no names, or mere numbers.
    The warning says that names then differ.

    Args:
      num_classes: number of the weights' classes.
      names: names of the weights' classes by label, words or WordNet's numbers; empty if they are not known.
      image_names: names of the images' classes by label.
      weights: path of the weights, for messages.
      data: name of the images, for messages.

    Raises:
      UserError: the weights do not know a class of the images, or by number there are more or fewer.
    """
    theirs, keys = keys_of(names), keys_of(image_names)
    if theirs == keys:  # a name may then stand for two classes, as in some data sets
        return tuple(range(len(keys))), None
    label_of = {key: label for label, key in enumerate(theirs)}
    unknown = [name for name, key in zip(image_names, keys, strict=True) if key not in label_of]
    if not unknown:
        return tuple(label_of[key] for key in keys), None
    named = next((name for name in unknown if not name.isdecimal()), None)
    if named is not None and not all(name.isdecimal() for name in names):
        near = difflib.get_close_matches(named, readable(names), n=1)
        raise UserError(
            f"class '{named}' of '{data}' is none of the {num_classes:,} classes of '{weights}'"
            f"{f', which has {near[0]!r}' if near else ''}; name images whose classes it knows with --data, "
            "rename the class, or name those of the weights anew: import --class-names=FILE"
        )
    if len(image_names) != num_classes:
        raise UserError(
            f"'{weights}' tells {num_classes:,} classes apart and '{data}' has {len(image_names):,}; "
            "name images of the same classes with --data, or other weights"
        )
    if not names:
        return None, None
    differ = [label for label, key in enumerate(keys) if key != theirs[label]]
    first = differ[0]
    one, other = (readable(side)[first] for side in (names, image_names))
    return None, (
        f"class {first} is '{one}' in '{weights}' and '{other}' in '{data}'; {len(differ):,} of "
        f"{num_classes:,} names differ; labels are compared by number"
    )
