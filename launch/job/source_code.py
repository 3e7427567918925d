"""Owns the code that workers get: a tarball of the tracked tree at a commit, pins included."""

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from efficientnet_pod.errors import UserError

_SHOWN_FILES = 3


@dataclass(frozen=True)
class Code:
    """A tracked tree.

    Attributes:
      commit: it is; ``-dirty`` behind it if tracked files differ.
      file: its name: by content, so that another tree never replaces the one a job runs.
      sha256: of the tarball, which workers compare; empty where there is none.
      tarball: gzip-compressed.
      untracked: files beside it that are not in the tarball.
    """

    commit: str
    file: str
    sha256: str = ""
    tarball: bytes = b""
    untracked: tuple[str, ...] = ()


def pack(folder: Path, *, allow_dirty: bool) -> Code:
    """Returns the tracked tree around a folder.

    Raises:
      UserError: it is no git repository or has no commit, or tracked files differ and that is not allowed.
    """
    root, commit = _commit(folder)
    changed = _changed(root)
    if changed and not allow_dirty:
        more = f" and {len(changed) - _SHOWN_FILES} more" if len(changed) > _SHOWN_FILES else ""
        raise UserError(
            f"the tree differs from its commit in {', '.join(changed[:_SHOWN_FILES])}{more}; commit it, or "
            "send it as it is with --allow-dirty"
        )
    # `stash create` makes a commit of the tree as it is, and touches neither tree nor stash.
    nobody = ("-c", "user.name=launch", "-c", "user.email=launch@localhost")
    tree = _git(root, *nobody, "stash", "create").strip() if changed else ""
    tarball = _git_bytes(root, "archive", "--format=tar.gz", tree or commit)
    untracked = _git(root, "ls-files", "--others", "--exclude-standard").splitlines()
    digest = hashlib.sha256(tarball).hexdigest()
    name = f"code-{commit[:12]}-{digest[:8]}.tar.gz"
    return Code(commit + "-dirty" * bool(changed), name, digest, tarball, tuple(untracked))


def name_of(folder: Path) -> Code:
    """Returns the code without a tarball, for what is shown and not sent; raises `UserError` as `pack`."""
    root, commit = _commit(folder)
    return Code(commit + "-dirty" * bool(_changed(root)), f"code-{commit[:12]}.tar.gz")


def _changed(root: Path) -> list[str]:
    return [line[3:] for line in _git(root, "status", "--porcelain", "-uno").splitlines()]


def _commit(folder: Path) -> tuple[Path, str]:
    try:
        root = Path(_git(folder, "rev-parse", "--show-toplevel").strip())
        return root, _git(root, "rev-parse", "HEAD").strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"'{folder}' is in no git repository with a commit, where workers get the code from; go to one"
        ) from error


def _git(folder: Path, *words: str) -> str:
    return _git_bytes(folder, *words).decode(errors="replace")


def _git_bytes(folder: Path, *words: str) -> bytes:
    return subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True).stdout
