"""Keras's files of weights, read and written without Keras.

Nothing in a file is executed, and no link out of it is followed.
"""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from efficientnet_pod.errors import UserError
from efficientnet_pod.weights.foreign import MAX_BYTES, as_float32, check_size
from efficientnet_pod.weights.layouts import KERAS, KERAS_NUMBERED
from efficientnet_pod.weights.paths import Tensors
from efficientnet_pod.weights.trained import Trained, image_constants

MEMBER = "model.weights.h5"  # of a .keras archive
# Leaves in the order of their numbers, in files of Keras 3.
_BN_LEAVES = ("gamma", "beta", "moving_mean", "moving_variance")
_NORMALISATION_LEAVES = ("mean", "variance", "count")
_LEAVES = ("kernel", "bias")


def read_keras_archive(path: Path) -> Tensors:
    """Returns the tensors of a ``.keras`` file; its configuration could name code and is not read.

    Raises:
      UserError: it is damaged, holds no weights, or they are too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(MEMBER).file_size
            check_size(str(path), 1, size)
            with archive.open(MEMBER) as member:
                contents = member.read(MAX_BYTES + 1)
    except KeyError as error:
        raise UserError(
            f"'{path}' is a zip archive without {MEMBER}; a .keras file has one: is it another kind of file?"
        ) from error
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise UserError(f"'{path}' is cut off or damaged: {error}; save or fetch it again") from error
    check_size(str(path), 1, len(contents))
    return read_h5(path, io.BytesIO(contents))


def read_h5(path: Path, contents: Any = None) -> Tensors:
    """Returns the tensors of an HDF5 file as ``layer/leaf``, e.g. ``stem_conv/kernel``.

    Keras writes two kinds: whole networks by layer, and ``.weights.h5``, whose leaves are numbered. If the
    layers of the latter have no names either, they are called ``conv2d_3``.

    Args:
      path: place of the file, also for messages.
      contents: opened file, if it is not at that place.

    Raises:
      UserError: it is cut off, damaged or too large; it has links out of itself or objects in it.
    """
    import h5py

    try:
        with h5py.File(contents or path, "r") as file:
            datasets = list(_datasets(path, file))
            check_size(str(path), len(datasets), sum(dataset.nbytes for _, dataset in datasets))
            tensors: Tensors = {}
            for names, dataset in datasets:
                name = _name(names, dataset)
                if name in tensors:
                    raise UserError(
                        f"'{path}' has two tensors called '{name}'; save the network, not one around it"
                    )
                tensors[name] = as_float32(str(path), name, np.asarray(dataset[()]))
            return tensors
    except UserError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"'{path}' is cut off or damaged: {reason}; save or fetch it again") from error


def _datasets(path: Path, group: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields each array with the names of the groups around it; raises UserError for anything else."""
    import h5py

    for name in group:
        place = "/".join((*names, name))
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            kind = "another file" if isinstance(link, h5py.ExternalLink) else "another place"
            raise UserError(
                f"'{path}' has a link to {kind} at '{place}', which is not followed: it could read any file; "
                "save the weights without links"
            )
        entry = group[name]
        if isinstance(entry, h5py.Group):
            if len(names) > 32 or place.startswith("optimizer"):
                continue
            yield from _datasets(path, entry, (*names, name))
            continue
        if entry.external or entry.is_virtual:
            raise UserError(
                f"'{path}' keeps the array '{place}' in another file, which is not read; save it in one file"
            )
        if entry.dtype.kind not in "fiu":
            raise UserError(
                f"'{path}' has an array of type {entry.dtype} at '{place}'; objects are refused, for reading "
                "them can run code: save the weights alone"
            )
        yield (*names, name), entry


def _name(names: tuple[str, ...], dataset: Any) -> str:
    """Returns ``layer/leaf`` for the place of an array in a file."""
    *outer, leaf = names
    if not (outer and outer[-1] == "vars"):
        return f"{outer[-1] if outer else ''}/{leaf.partition(':')[0]}"
    given = dataset.parent.attrs.get("name")
    layer = given if isinstance(given, str) else outer[-2] if len(outer) > 1 else "vars"
    leaves = {4: _BN_LEAVES, 3: _NORMALISATION_LEAVES}.get(len(dataset.parent), _LEAVES)
    return f"{layer}/{leaves[int(leaf)] if leaf.isdecimal() and int(leaf) < len(leaves) else leaf}"


def normalisation_of(tensors: Tensors) -> dict[str, tuple[float, ...]]:
    """Returns ``mean`` and ``std`` of the network's own normalisation layer, for pixels in 0..1.

    The released ImageNet weights have standard deviations where the variances should be, and a further layer
    divides by their roots. Both together are the usual division (keras-team/keras,
    applications/efficientnet.py).
    """
    # The second network of a process has a layer "normalization_1".
    names = [name for name in tensors if re.fullmatch(r"normalization(_\d+)?/mean", name)]
    if len(names) != 1:
        return {}
    mean, variance = (tensors.get(names[0].replace("/mean", f"/{leaf}")) for leaf in ("mean", "variance"))
    if mean is None or variance is None or mean.size != 3 or variance.size != 3:
        return {}
    mean, variance = (array.reshape(3).astype(np.float64) for array in (mean, variance))
    if not (np.isfinite([mean, variance]).all() and (variance > 0).all()):
        return {}
    is_released = np.allclose(variance, (0.229, 0.224, 0.225), atol=1e-4)
    std = variance if is_released else np.sqrt(variance)
    return {"mean": tuple(np.round(mean, 6).tolist()), "std": tuple(np.round(std, 6).tolist())}


def write_keras(trained: Trained, path: Path) -> None:
    """Writes the weights for ``keras.applications.EfficientNetB0(weights=None, classes=…).load_weights``.

    The network's own layers normalise pixels of 0..255. EfficientNetB0 to B7 take mean and variance from this
    file; EfficientNetV2 has them built in.

    Raises:
      UserError: Keras has no such network, or one with another mean and deviation built in.
    """
    import h5py

    is_v2 = trained.network.startswith("v2_")
    if not (trained.network.startswith("b") or is_v2):
        raise UserError(
            f"keras.applications has no {trained.title} that computes what this one does; "
            "leave keras out of --to, or export b0 to b7 or v2_b0 to v2_l"
        )
    built_in = image_constants(trained.network)
    if is_v2 and not np.allclose((trained.mean_rgb, trained.stddev_rgb), built_in, atol=1e-6):
        raise UserError(
            f"Keras's {trained.title} has config.data.mean_rgb={_rounded(built_in[0])} and stddev_rgb="
            f"{_rounded(built_in[1])} built in, and these weights have {_rounded(trained.mean_rgb)} and "
            f"{_rounded(trained.stddev_rgb)}; leave keras out of --to"
        )
    if trained.padding != "same":
        raise UserError(
            f"Keras's {trained.title} pads as TensorFlow does, and config.model.padding={trained.padding} of "
            "these weights as PyTorch does: other logits would come out; leave keras out of --to"
        )
    if trained.bn_epsilon != 1e-3:
        raise UserError(
            f"batch norm's epsilon is .001 in Keras's EfficientNets and {trained.bn_epsilon} here; "
            "leave keras out of --to"
        )
    tensors = trained.tensors
    names, places = KERAS.names(tensors), KERAS_NUMBERED.names(tensors)
    with h5py.File(path, "w") as file:
        for our_path in sorted(tensors):
            layer, _, leaf = names[our_path].partition("/")
            group = file.require_group(f"layers/{places[our_path].partition('/')[0]}/vars")
            group.attrs["name"] = layer
            leaves = _BN_LEAVES if leaf in _BN_LEAVES else _LEAVES
            group[str(leaves.index(leaf))] = KERAS.from_ours(our_path, tensors[our_path])
        if is_v2:
            return
        group = file.require_group("layers/normalization/vars")
        group.attrs["name"] = "normalization"
        group["0"] = np.asarray(trained.mean_rgb, np.float32)
        group["1"] = np.square(np.asarray(trained.stddev_rgb, np.float64)).astype(np.float32)
        group["2"] = np.int32(0)


def _rounded(rgb: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in rgb)
