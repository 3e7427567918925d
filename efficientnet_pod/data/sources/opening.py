"""Opens a data set by its name."""

from efficientnet_pod.data.names import printable
from efficientnet_pod.data.quiet import reason_of, tf
from efficientnet_pod.data.sources.digits import open_digits
from efficientnet_pod.data.sources.folders import open_folder
from efficientnet_pod.data.sources.hugging_face import open_hugging_face
from efficientnet_pod.data.sources.imagenet_downloads import open_imagenet_tars, open_kaggle
from efficientnet_pod.data.sources.imagenet_tfrecords import open_tfrecords
from efficientnet_pod.data.sources.parquet import open_parquet
from efficientnet_pod.data.sources.tars import open_tars
from efficientnet_pod.data.sources.tfds import open_prepared, open_tfds
from efficientnet_pod.data.sources.types import Source
from efficientnet_pod.errors import UserError
from efficientnet_pod.workdir.files import expanded

_BY_PATH = {
    "folder:": open_folder,
    "tfrecord:": open_tfrecords,
    "prepared:": open_prepared,
    "parquet:": open_parquet,
    "tar:": open_tars,
    "imagenet-tars:": open_imagenet_tars,
    "kaggle:": open_kaggle,
    "hf:": open_hugging_face,
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
        return open_digits()
    try:
        for prefix, open_path in _BY_PATH.items():
            if name.startswith(prefix):
                return open_path(name, expanded(name.removeprefix(prefix)), train_split, eval_split)
        return open_tfds(name, data_dir and expanded(data_dir), train_split, eval_split)
    except (tf.errors.OpError, OSError) as error:  # of an object store, a network or a disk
        raise UserError(
            f"data set '{name}' cannot be reached: {reason_of(error)}; correct the path, or see to network "
            "and credentials"
        ) from None
