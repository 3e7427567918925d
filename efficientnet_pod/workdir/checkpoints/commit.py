"""The commit of a checkpoint: metrics, digests of its tensors, sizes of its files, and its own digest."""

import hashlib
import json
import math
import sys
from typing import Any, TypedDict

import jax
import numpy as np
from etils import epath

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.workdir.files import is_damage, reason, sizes_of_files

FORMAT = 1
COMMIT = "commit.json"


class Commit(TypedDict):
    """The fields of ``commit.json``."""

    format: int  # version of this file
    step: int  # updates done
    created: str  # time in UTC, ISO 8601
    metrics: dict[str, float]  # rates of an evaluation; may be empty
    record: dict[str, Any]  # facts that the run needs when it resumes
    digest: str  # SHA-256 over `tensors`
    state: str  # name of the folder with the arrays
    files: dict[str, int]  # bytes of each file below that folder
    tensors: dict[str, dict[str, Any]]  # shape, dtype and SHA-256 of each leaf, by path
    sha256: str  # SHA-256 of this file with an empty `sha256`


class Damaged(Exception):
    """A checkpoint is not what was saved; the message names the difference in a few words."""


def leaves_of(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their path, e.g. ``params/stem/kernel``."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def tensor_digests(state: Any) -> dict[str, dict[str, Any]]:
    """Returns shape, dtype and SHA-256 of the bytes of each leaf, by path."""
    arrays = {path: np.asarray(jax.device_get(leaf)) for path, leaf in sorted(leaves_of(state).items())}
    return {path: _signature(array) | {"sha256": _digest_of_bytes(array)} for path, array in arrays.items()}


def joint_digest(tensors: dict[str, dict[str, Any]]) -> str:
    """Returns one hexadecimal SHA-256 for the result of :func:`tensor_digests`.

    Equal for equal paths, shapes, dtypes and bits, on any machine.
    """
    return hashlib.sha256(json.dumps(tensors, sort_keys=True).encode()).hexdigest()


def first_non_finite(state: Any) -> str | None:
    """Returns the path of a leaf with a NaN or an infinity, None if there is none."""
    return next((path for path, leaf in leaves_of(state).items() if not np.isfinite(leaf).all()), None)


def encode_commit(fields: dict[str, Any]) -> bytes:
    """Returns the contents of ``commit.json``: the fields, :data:`FORMAT` and a digest of its own bytes."""
    blank = json.dumps({"format": FORMAT, **fields, "sha256": ""}, indent=1) + "\n"
    own = hashlib.sha256(blank.encode()).hexdigest()
    return (json.dumps({"format": FORMAT, **fields, "sha256": own}, indent=1) + "\n").encode()


def read_commit(folder: epath.Path) -> Commit:
    """Returns the fields of ``commit.json`` after verifying each of its bytes.

    Raises:
      Damaged: it is missing or not what was written.
      UserError: another version wrote it.
      RunError: it cannot be read at present.
    """
    try:
        raw = (folder / COMMIT).read_bytes()
    except FileNotFoundError:
        raise Damaged(f"{COMMIT} is missing") from None
    except Exception as error:
        if is_damage(error):
            raise Damaged(f"{COMMIT} cannot be read: {reason(error)}") from error
        raise RunError(f"'{folder / COMMIT}' cannot be read: {reason(error)}; try again") from error
    return decode_commit(raw, folder)


def decode_commit(raw: bytes, folder: epath.Path) -> Commit:
    """Returns the fields of the bytes that :func:`encode_commit` made; raises as :func:`read_commit`."""
    try:
        commit = json.loads(raw)
        own = commit["sha256"].encode()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Damaged(f"{COMMIT} cannot be parsed") from None
    head, _, tail = raw.rpartition(own) if own else (raw, b"", b"")
    if hashlib.sha256(head + tail).hexdigest().encode() != own:
        raise Damaged(f"{COMMIT} has another digest than it says")
    if commit["format"] != FORMAT:
        raise UserError(
            f"checkpoint '{folder}' has format {commit['format']}, this version reads {FORMAT}; "
            "use the version that wrote it"
        )
    return commit


def require_files(folder: epath.Path, commit: Commit) -> None:
    """Checks that the files of a checkpoint are there, with the sizes they had; more files do no harm.

    Raises:
      Damaged: a file is not; names the first.
    """
    sizes = sizes_of_files(folder / commit["state"])
    for name, size in commit["files"].items():
        if name not in sizes:
            raise Damaged(f"{commit['state']}/{name} is missing")
        if sizes[name] != size:
            raise Damaged(f"{commit['state']}/{name} has {sizes[name]:,} bytes, {size:,} were written")


def require_tensors(state: Any, tensors: dict[str, dict[str, Any]]) -> None:
    """Checks every bit of a restored state against the digests of the tensors that were saved.

    Raises:
      Damaged: a leaf is not what was saved; names the first.
    """
    restored = tensor_digests(state)
    for path, saved in tensors.items():
        if restored.get(path) != saved:
            raise Damaged(f"tensor {path} has other bits than were saved")


def require_same_network(abstract_state: Any, commit: Commit, folder: epath.Path) -> None:
    """Checks paths, shapes and dtypes, which Orbax would cast in silence.

    Raises:
      UserError: the checkpoint is of another network or optimizer.
    """
    wanted = {path: _in_words(_signature(leaf)) for path, leaf in leaves_of(abstract_state).items()}
    saved = {path: _in_words(tensor) for path, tensor in commit["tensors"].items()}
    differing = sorted(path for path in saved.keys() | wanted.keys() if saved.get(path) != wanted.get(path))
    if differing:
        path = differing[0]
        raise UserError(
            f"checkpoint {commit['step']} in '{folder.parent}' is of another network or optimizer: "
            f"{len(differing)} tensors differ, first {path}: saved {saved.get(path, 'none')}, "
            f"wanted {wanted.get(path, 'none')}; use a new workdir or the config it was made with"
        )


def bytes_of(state: Any) -> int:
    """Returns the bytes of all leaves."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def _signature(leaf: Any) -> dict[str, Any]:
    return {"shape": list(leaf.shape), "dtype": np.dtype(leaf.dtype).name}


def _in_words(signature: dict[str, Any]) -> str:
    return f"{signature['dtype']} {tuple(signature['shape'])}"


def _digest_of_bytes(array: np.ndarray) -> str:
    little = array if sys.byteorder == "little" else array.byteswap()
    return hashlib.sha256(little.tobytes()).hexdigest()
