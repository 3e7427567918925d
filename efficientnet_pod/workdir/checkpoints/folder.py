"""The folder of the checkpoints: the committed, the interrupted and the damaged ones."""

from collections.abc import Callable
from datetime import UTC, datetime

from etils import epath

from efficientnet_pod.errors import RunError
from efficientnet_pod.workdir.checkpoints.commit import (
    COMMIT,
    Commit,
    Damaged,
    decode_commit,
    read_commit,
    require_files,
)
from efficientnet_pod.workdir.files import (
    contents_of,
    free_bytes,
    reason,
    remove,
    require_written,
    write_whole,
)

# Contents of a mark that is not a copy of a commit.
_WRITING = b"This checkpoint is being written: there is nothing of value in it.\n"
_DELETING = b"This checkpoint is being deleted.\n"


class CheckpointFolder:
    """``<step>/`` holds arrays and, written last, ``commit.json``: with it a checkpoint is committed.

    While a checkpoint is written or deleted, a mark, ``<step>.unfinished``, holds either a copy of its commit
    or a note that there is none. It is written before ``commit.json`` and removed last. After a crash the
    next start reads it: a copy is written back as ``commit.json``; with the note, the step is removed. A step
    with neither commit nor mark is damaged, and is kept.
    """

    def __init__(self, path: epath.PathLike, warn: Callable[[str], None]) -> None:
        """Names the folder, local or remote; nothing is touched. ``warn`` gets warnings of one line."""
        self.path = epath.Path(path)
        self._warn = warn

    def of(self, step: int) -> epath.Path:
        """Returns the folder of one checkpoint."""
        return self.path / str(step)

    @property
    def names(self) -> list[str]:
        """The names of all files and folders in it."""
        return sorted(path.name for path in self.path.iterdir()) if self.path.exists() else []

    @property
    def listed(self) -> list[int]:
        """The committed and the damaged steps, ascending."""
        names = set(self.names)
        steps = sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)
        return [step for step in steps if self._mark(step).name not in names or not self._is_nothing(step)]

    @property
    def steps(self) -> list[int]:
        """The committed steps, ascending; their commits are not read."""
        return [step for step in self.listed if self._has_commit(step)]

    @property
    def set_aside(self) -> list[str]:
        """The names of the damaged checkpoints that have been set aside."""
        return [name for name in self.names if name.startswith("damaged-")]

    def commits(self) -> dict[int, Commit]:
        """Returns the commits that can be read, by step, ascending."""
        commits = {}
        for step in self.steps:
            try:
                commits[step] = read_commit(self.of(step))
            except Damaged as damage:
                self._warn(f"checkpoint {step} in '{self.path}' is damaged and left out: {damage}")
        return commits

    def make_way(self, step: int) -> Commit | None:
        """Returns the commit of a step that is about to be saved, None if it has no good one.

        An interrupted checkpoint is removed, a damaged one is set aside.
        """
        self.tidy(step)
        if not self.of(step).exists():
            return None
        try:
            commit = read_commit(self.of(step))
            require_files(self.of(step), commit)
            return commit
        except Damaged as damage:
            self.move_aside(step, damage)
            return None

    def mark(self, step: int) -> None:
        """Marks a checkpoint as being written: after a crash it is the one committed before, or none."""
        self._write_mark(step, contents_of(self.of(step) / COMMIT) or _WRITING)

    def commit(self, step: int, contents: bytes) -> None:
        """Writes ``commit.json``, after a copy in the mark, from which :meth:`tidy` restores a lost one.

        Raises:
          OSError: it cannot be written.
        """
        self._write_mark(step, contents)
        write_whole(self.of(step) / COMMIT, contents)

    def tidy(self, step: int) -> str | None:
        """Finishes what a marked checkpoint's mark says, then removes the mark; warns of files that stay.

        Returns a few words on what has been removed and why; None if nothing was.
        """
        folder, mark = self.of(step), self._mark(step)
        removed = None
        try:
            mark_contents = contents_of(mark)
            if mark_contents is None:
                return None
            self._write_back(step)
            if self._has_commit(step):
                kept = {COMMIT, read_commit(folder)["state"]}
                for path in [path for path in folder.iterdir() if path.name not in kept]:
                    remove(path)
                    removed = "is whole; files of a save that was cut short have been removed"
            elif mark_contents in (_WRITING, _DELETING) and folder.exists():
                remove(folder)
                what = "save" if mark_contents == _WRITING else "deletion"
                removed = f"has been removed: its {what} had been cut short"
            mark.unlink()
        except Damaged:
            mark.unlink()  # and touch nothing: all of it is evidence
        except Exception as error:  # TensorFlow's, of remote files, are no OSErrors
            self._warn(f"the rest of '{folder}' could not be removed: {reason(error)}")
        return removed

    def tidy_all(self) -> None:
        """Finishes every save and deletion that was cut short, and warns of what that removes.

        Raises:
          RunError: a commit cannot be written back.
        """
        for name in self.names:
            step = name.removesuffix(".unfinished")
            if name.startswith(".") and name.endswith(".partial"):
                (self.path / name).unlink(missing_ok=True)
            elif step != name and step.isdecimal():
                # Without its commit, a good checkpoint would be taken for a damaged one.
                with require_written(self.of(int(step)) / COMMIT):
                    self._write_back(int(step))
                if removed := self.tidy(int(step)):
                    self._warn(f"checkpoint {step} in '{self.path}' {removed}")

    def delete_old(self, *, keep: int, saved: int) -> None:
        """Deletes all but the ``keep`` newest with a top-1, the best, the two newest of all, and ``saved``.

        A checkpoint without a top-1 was saved by the clock or at a stop. It does not count towards ``keep``.
        """
        try:
            commits = self.commits()
            kept = {*evaluated_steps(commits)[-keep:], *list(commits)[-2:], best_step(commits), saved}
            for step in commits.keys() - kept:
                self._uncommit(step)
                self.tidy(step)
        except Exception as error:
            self._warn(f"an old checkpoint in '{self.path}' could not be deleted: {reason(error)}")

    def forget_after(self, step: int) -> None:
        """Removes the committed and the damaged checkpoints of later steps, and warns of each.

        Raises:
          RunError: one cannot be removed.
        """
        later_steps = [listed for listed in reversed(self.listed) if listed > step]
        # Newest first, and no files before all commits are gone: after a crash the earliest of these steps
        # are left, each one whole.
        for later in later_steps:
            try:
                self._uncommit(later)
            except Exception as error:
                raise RunError(
                    f"checkpoint '{self.of(later)}' cannot be removed: {reason(error)}; the run went back to "
                    f"step {step}: remove the later checkpoints and start again"
                ) from error
        for later in later_steps:
            self.tidy(later)
            self._warn(f"checkpoint {later} in '{self.path}' is removed: the run went back to step {step}")

    def not_written(self, step: int, needed: int, error: Exception) -> RunError:
        """Returns the error for a checkpoint of ``needed`` bytes that could not be written."""
        free = free_bytes(self.path)
        room = f"{needed:,} bytes needed" + ("" if free is None else f", {free:,} free")
        try:
            kept = [other for other in self.steps if other != step]
            older = f"older ones are kept, the newest is step {kept[-1]}" if kept else "there is no other"
        except Exception:
            older = "the others cannot be listed"
        why = str(error) if isinstance(error, Damaged) else reason(error)
        return RunError(f"checkpoint {step} could not be written to '{self.path}': {why} ({room}); {older}")

    def move_aside(self, step: int, damage: Damaged) -> None:
        """Renames a damaged checkpoint ``damaged-<step>-<time>`` in the same folder, and warns of it.

        Raises:
          RunError: it cannot be renamed.
        """
        name = f"damaged-{step}-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        try:
            self.of(step).rename(self.path / name)
        except Exception as error:
            raise RunError(
                f"checkpoint '{self.of(step)}' is damaged ({damage}) and cannot be renamed: {reason(error)}"
            ) from error
        self._mark(step).unlink(missing_ok=True)
        self._warn(f"checkpoint {step} in '{self.path}' is damaged: {damage}; it is now named {name}")

    def _write_mark(self, step: int, contents: bytes) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self._mark(step), contents)

    def _mark(self, step: int) -> epath.Path:
        return self.path / f"{step}.unfinished"

    def _write_back(self, step: int) -> None:
        """Writes the mark's copy of a commit, if it has one, to ``commit.json``, unless that is equal."""
        copy, file = contents_of(self._mark(step)), self.of(step) / COMMIT
        if copy is None or copy in (_WRITING, _DELETING) or not self.of(step).exists():
            return
        try:
            decode_commit(copy, self.of(step))
        except Damaged:
            return
        if contents_of(file) != copy:
            write_whole(file, copy)

    def _uncommit(self, step: int) -> None:
        """Turns a checkpoint into one that :meth:`tidy` removes; cut short, it leaves it committed."""
        self._write_mark(step, _DELETING)
        (self.of(step) / COMMIT).unlink(missing_ok=True)

    def _is_nothing(self, step: int) -> bool:
        """Returns whether the writing or deletion of a marked checkpoint has been cut short."""
        return not self._has_commit(step) and contents_of(self._mark(step)) in (_WRITING, _DELETING)

    def _has_commit(self, step: int) -> bool:
        return (self.of(step) / COMMIT).exists()


def evaluated_steps(commits: dict[int, Commit]) -> list[int]:
    """Returns the steps with a top-1, in the order of the commits."""
    return [step for step, commit in commits.items() if "top1" in commit["metrics"]]


def best_step(commits: dict[int, Commit]) -> int | None:
    """Returns the step with the highest top-1, the latest of equals; None if none has one."""
    return max(
        evaluated_steps(commits), key=lambda step: (commits[step]["metrics"]["top1"], step), default=None
    )
