"""The code that workers run: a tarball of the tracked files at a commit, with the pinned versions."""

import gzip
import hashlib
import io
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from efficientnet_pod.errors import UserError
from launch.job.trainer_wheel import pins, trainer_wheel

_TRAINER = ".trainer"  # in the tarball of a project: a wheel and constraints; startup.sh installs them
_SHOWN_FILES = 3


@dataclass(frozen=True)
class Code:
    """The tracked files of a git repository; with the trainer, unless the repository is the trainer's own.

    Attributes:
      commit: commit of the files; it ends in ``-dirty`` if they differ from it.
      file: name of the tarball. It depends on the content, so no other tree replaces that of a running job.
      sha256: digest of the tarball, which workers compare; empty without a tarball.
      tarball: the files, gzip-compressed.
      untracked: names of files that the tarball leaves out.
    """

    commit: str
    file: str
    sha256: str = ""
    tarball: bytes = b""
    untracked: tuple[str, ...] = ()

    @property
    def is_dirty(self) -> bool:
        """Whether tracked files differ from the commit."""
        return self.commit.endswith("-dirty")


def pack(folder: Path, *, allow_dirty: bool) -> Code:
    """Returns the tracked files of the repository around a folder.

    Raises:
      UserError: there is no repository or no commit, or files differ from it and that is not allowed.
    """
    root, commit, changed = _tree(folder)
    if changed and not allow_dirty:
        more = f" and {len(changed) - _SHOWN_FILES} more" if len(changed) > _SHOWN_FILES else ""
        raise UserError(
            f"the tree differs from its commit in {', '.join(changed[:_SHOWN_FILES])}{more}; commit it, or "
            "send it as it is with --allow-dirty"
        )
    # `stash create` makes a commit of the tree as it is, and touches neither tree nor stash.
    nobody = ("-c", "user.name=launch", "-c", "user.email=launch@localhost")
    tree = _git(root, *nobody, "stash", "create").strip() if changed else ""
    tar = _git_bytes(root, "archive", "--format=tar", tree or commit)
    if not (root / "efficientnet_pod" / "__init__.py").exists():
        tar = _with_trainer(tar)
    tarball = gzip.compress(tar, mtime=0)
    untracked = _git(root, "ls-files", "--others", "--exclude-standard").splitlines()
    digest = hashlib.sha256(tarball).hexdigest()
    file = f"code-{commit[:12]}-{digest[:8]}.tar.gz"
    return Code(_name(commit, changed), file, digest, tarball, tuple(untracked))


def name_of(folder: Path) -> Code:
    """Returns the code without its tarball, for a job that is only shown; raises `UserError` as `pack`."""
    _, commit, changed = _tree(folder)
    return Code(_name(commit, changed), f"code-{commit[:12]}.tar.gz")


def _with_trainer(tar: bytes) -> bytes:
    """Returns the tar file with the trainer that runs here, and the versions of the packages here."""
    name, wheel = trainer_wheel()
    archive = io.BytesIO(tar)
    with tarfile.open(fileobj=archive, mode="a") as files:
        for path, data in ((name, wheel), ("constraints.txt", pins().encode())):
            member = tarfile.TarInfo(f"{_TRAINER}/{path}")
            member.size, member.mode = len(data), 0o644
            files.addfile(member, io.BytesIO(data))
    return archive.getvalue()


def _tree(folder: Path) -> tuple[Path, str, list[str]]:
    """Returns the root of a repository, its commit, and the names of tracked files that differ from it."""
    try:
        root = Path(_git(folder, "rev-parse", "--show-toplevel").strip())
        commit = _git(root, "rev-parse", "HEAD").strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"'{folder}' is in no git repository with a commit, where workers get the code from; go to one"
        ) from error
    return root, commit, [line[3:] for line in _git(root, "status", "--porcelain", "-uno").splitlines()]


def _name(commit: str, changed: list[str]) -> str:
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *words: str) -> str:
    return _git_bytes(folder, *words).decode(errors="replace")


def _git_bytes(folder: Path, *words: str) -> bytes:
    return subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True).stdout
