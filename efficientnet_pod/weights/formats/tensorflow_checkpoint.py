"""Checkpoints of TensorFlow, read: files ``….index`` and ``….data-…`` with one prefix."""

import itertools
import re
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from efficientnet_pod.errors import UserError
from efficientnet_pod.weights.foreign import as_float32, check_size
from efficientnet_pod.weights.layouts import TENSORFLOW
from efficientnet_pod.weights.paths import Tensors
from efficientnet_pod.workdir.files import is_misread, linked

_AVERAGE = "/ExponentialMovingAverage"


def find_checkpoint(path: Path) -> str | None:
    """Returns the prefix of the checkpoint at a path; None if there is none.

    The path is a prefix, one of the files, or a folder that holds one checkpoint.
    """
    if path.is_dir():
        files = list(path.glob("*.index"))
        return str(files[0]).removesuffix(".index") if len(files) == 1 else None
    prefix = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", str(path))
    return prefix if Path(f"{prefix}.index").exists() else None


def files_of(prefix: str) -> list[Path]:
    """Returns the files of a checkpoint, sorted."""
    folder, start = Path(prefix).parent, f"{Path(prefix).name}."
    return sorted(file for file in folder.iterdir() if file.name.startswith(start))


def read_checkpoint(prefix: str, *, raw: bool) -> Tensors:
    """Returns the tensors, by their names without the common scope, such as ``efficientnet-b0/``.

    They are the averages over the training, which were evaluated; with ``raw``, the weights themselves.

    Raises:
      UserError: it is cut off, damaged or too large.
    """
    from efficientnet_pod.data.quiet import tf  # TensorFlow takes seconds to import

    links = ExitStack()
    try:
        path = Path(prefix)
        if is_misread(path):
            names = {file.name.removeprefix(path.name): file.absolute() for file in files_of(prefix)}
            folder = links.enter_context(linked({f"model{ending}": file for ending, file in names.items()}))
            path = folder / "model"
        reader = tf.train.load_checkpoint(str(path))
        shapes = reader.get_variable_to_shape_map()
        types = reader.get_variable_to_dtype_map()
        own_names = {name.removesuffix(_AVERAGE) for name in shapes}
        # An optimizer's slot is called as its variable, and then as the optimizer: kernel/LARSOptimizer.
        slots = {name for name in own_names if own_names & set(_outer(name))}
        kept = [name for name in shapes if name.removesuffix(_AVERAGE) not in slots]
        kept = [name for name in kept if not TENSORFLOW.is_ignored(_scopeless(name.removesuffix(_AVERAGE)))]
        kept = [name for name in kept if types[name].is_floating]
        check_size(prefix, len(shapes), sum(int(np.prod(shapes[name])) * types[name].size for name in kept))
        averaged = {name.removesuffix(_AVERAGE) for name in kept if name.endswith(_AVERAGE)}
        tensors: Tensors = {}
        for name in kept:
            own, is_average = name.removesuffix(_AVERAGE), name.endswith(_AVERAGE)
            if is_average if raw else (own in averaged and not is_average):
                continue
            tensors[_scopeless(own)] = as_float32(prefix, name, reader.get_tensor(name))
    except UserError:
        raise
    except (tf.errors.OpError, LookupError, ValueError, RuntimeError) as error:  # of TensorFlow's reader
        reason = str(error).splitlines()[0]
        raise UserError(f"checkpoint '{prefix}' is cut off or damaged: {reason}; fetch it again") from error
    finally:
        links.close()  # the reader opens files when it needs them
    return tensors


def _outer(name: str) -> list[str]:
    """Returns the names that this one continues: of ``a/b/c``, ``a`` and ``a/b``."""
    return list(itertools.accumulate(name.split("/")[:-1], "{}/{}".format))


def _scopeless(name: str) -> str:
    """Returns a name without its scope ``efficientnet-b0/``, in some releases ``efficientnet-b0/model/``."""
    return re.sub(r"^efficientnet-[a-z0-9]+/(model/)?", "", name)
