"""Opens a data set by its name."""

from collections.abc import Callable
from importlib import import_module

from efficientnet_pod.data.names import printable
from efficientnet_pod.data.quiet import reason_of, tf
from efficientnet_pod.data.sources.types import Source
from efficientnet_pod.errors import UserError
from efficientnet_pod.workdir.files import expanded

# Module and function; the modules are imported when they are needed, for some take seconds.
_BY_PATH = {
    "folder:": "folders:open_folder",
    "tfrecord:": "imagenet_tfrecords:open_tfrecords",
    "prepared:": "tfds:open_prepared",
    "parquet:": "parquet:open_parquet",
    "tar:": "tars:open_tars",
    "imagenet-tars:": "imagenet_downloads:open_imagenet_tars",
    "kaggle:": "imagenet_downloads:open_kaggle",
    "hf:": "hugging_face:open_hugging_face",
}


def open_source(
    name: str, *, data_dir: str | None = None, train_split: str = "train", eval_split: str = "validation"
) -> Source:
    """Returns the data set called ``name``, checked as far as that is possible without reading it all.

    * ``digits``: the 1,797 digits of scikit-learn, with its own split.
    * ``folder:/path``: ``<split>/<class>/*.jpg``; or ``<class>/*.jpg`` alone, and a fixed tenth of each class
      is held out.
    * ``tfrecord:/path``: ImageNet's record files in the layout of tensorflow/tpu.
    * ``prepared:/path``: a folder with TFDS metadata, written by ``data prepare`` or by TFDS itself.
    * ``parquet:/path``: files in Hugging Face's layout, ``train-00000-of-00294.parquet``.
    * ``tar:/path``: webdataset's shards, ``train-000000.tar`` with ``KEY.jpg`` and ``KEY.cls``.
    * ``imagenet-tars:/path``, ``kaggle:/path``: ImageNet's own archives, and Kaggle's, unpacked.
    * ``hf:OWNER/NAME``: a data set of the Hugging Face hub, by the package ``datasets``.
    * anything else: a TFDS name, ``name[/config][:version]``, read from ``data_dir`` (None: TFDS's default).

    Splits of ``tfrecord``, ``prepared``, ``hf`` and TFDS may be slices such as ``train[:99%]``. In paths and
    in ``data_dir``, ``~`` is the home folder.

    Raises:
      UserError: the data set is missing, out of reach, incomplete or not labelled; or its name is not UTF-8.
    """
    for text in (name, data_dir or "", train_split, eval_split):
        if printable(text) != text and not text.isprintable():
            raise UserError(
                f"'{printable(text)}' cannot be written into the records of a run, which are lines of UTF-8; "
                "rename it, or make a link to it that has another name"
            )
    if name == "digits":
        return _opener("digits:open_digits")()
    try:
        for prefix, place in _BY_PATH.items():
            if name.startswith(prefix):
                path = expanded(name.removeprefix(prefix))
                return _opener(place)(name, path, train_split, eval_split)
        return _opener("tfds:open_tfds")(name, data_dir and expanded(data_dir), train_split, eval_split)
    except UserError:
        raise  # before TensorFlow is loaded, to compare it with its errors
    except (tf.errors.OpError, OSError) as error:  # of an object store, a network or a disk
        raise UserError(
            f"data set '{name}' cannot be reached: {reason_of(error)}; correct the path, or see to network "
            "and credentials"
        ) from None


def _opener(place: str) -> Callable[..., Source]:
    module, _, function = place.partition(":")
    return getattr(import_module(f"efficientnet_pod.data.sources.{module}"), function)
