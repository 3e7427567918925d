"""Reads Keras's files as archives of arrays: nothing in them is executed, no link out of them is followed."""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from efficientnet_pod.errors import UserError
from efficientnet_pod.weights.foreign import MAX_BYTES, as_float32, check_size
from efficientnet_pod.weights.paths import Tensors

MEMBER = "model.weights.h5"
_LEAVES = {4: ("gamma", "beta", "moving_mean", "moving_variance"), 3: ("mean", "variance", "count")}


def read_keras_archive(path: Path) -> Tensors:
    """Returns the tensors of a ``.keras`` file; its configuration, which could name code, is not read.

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

    Both kinds that Keras writes are read: by layer, and ``.weights.h5``, whose leaves are numbered; where its
    layers have no names either they are ``conv2d_3``.

    Args:
      path: of the file, also in messages.
      contents: the file, if it is not there.

    Raises:
      UserError: it is cut off, damaged or too large; it has links out of itself or objects in it.
    """
    import h5py

    try:
        with h5py.File(contents or path, "r") as file:
            found = list(_datasets(path, file))
            check_size(str(path), len(found), sum(dataset.nbytes for _, dataset in found))
            tensors: Tensors = {}
            for names, dataset in found:
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
        said = str(error).splitlines()[0]
        raise UserError(f"'{path}' is cut off or damaged: {said}; save or fetch it again") from error


def _datasets(path: Path, group: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields the arrays with the names of the groups around them; raises UserError for what is no array."""
    import h5py

    for name in group:
        where = "/".join((*names, name))
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            kind = "another file" if isinstance(link, h5py.ExternalLink) else "another place"
            raise UserError(
                f"'{path}' has a link to {kind} at '{where}', which is not followed: it could read any file; "
                "save the weights without links"
            )
        entry = group[name]
        if isinstance(entry, h5py.Group):
            if len(names) > 32 or where.startswith("optimizer"):
                continue
            yield from _datasets(path, entry, (*names, name))
            continue
        if entry.external or entry.is_virtual:
            raise UserError(
                f"'{path}' keeps the array '{where}' in another file, which is not read; save it in one file"
            )
        if entry.dtype.kind not in "fiu":
            raise UserError(
                f"'{path}' has an array of type {entry.dtype} at '{where}'; objects are refused, for reading "
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
    leaves = _LEAVES.get(len(dataset.parent), ("kernel", "bias"))
    return f"{layer}/{leaves[int(leaf)] if leaf.isdecimal() and int(leaf) < len(leaves) else leaf}"


def image_constants(tensors: Tensors) -> dict[str, tuple[float, ...]]:
    """Returns ``mean`` and ``std``, of pixels in 0..1, that the network's own normalisation layer has.

    The released ImageNet weights have standard deviations where the variances should be, and a further layer
    divides by their roots: that comes to the usual division (keras-team/keras, applications/efficientnet.py).
    """
    # The second network of a process has a layer "normalization_1".
    names = [name for name in tensors if re.fullmatch(r"normalization(_\d+)?/mean", name)]
    if len(names) != 1:
        return {}
    mean, variance = tensors[names[0]], tensors.get(names[0].replace("/mean", "/variance"))
    if variance is None or mean.size != 3 or variance.size != 3:
        return {}
    mean, variance = (np.asarray(each, np.float64).reshape(3) for each in (mean, variance))
    released = np.allclose(variance, (0.229, 0.224, 0.225), atol=1e-4)
    if not (np.isfinite([mean, variance]).all() and (variance > 0).all()):
        return {}
    std = variance if released else np.sqrt(variance)
    return {"mean": tuple(np.round(mean, 6).tolist()), "std": tuple(np.round(std, 6).tolist())}
