"""The folder of the checkpoints: which are committed, interrupted or damaged; setting aside and deleting."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from etils import epath

from efficientnet_pod.errors import RunError
from efficientnet_pod.workdir.checkpoints.commit import (
    COMMIT,
    Damaged,
    decode_commit,
    read_commit,
    require_files,
)
from efficientnet_pod.workdir.files import cannot_write, free_bytes, reason, remove, write_whole

Commit = dict[str, Any]

# What a mark says, unless it repeats a commit.
_WRITING = b"This checkpoint is being written: there is nothing of value in it.\n"
_DELETING = b"This checkpoint is being deleted.\n"


class CheckpointFolder:
    """``<step>/`` holds arrays and, written last, ``commit.json``: with it a checkpoint is committed.

    The mark ``<step>.unfinished`` stands while a checkpoint is written or deleted, and says what it is to be
    if that is cut short: nothing, or what the commit that it repeats says. It is replaced whole, before
    ``commit.json`` is, and goes last: wherever a start is killed, the next one finishes what it began. A step
    without commit, of which no mark says that it never had one, has lost it: it is damaged, never removed.
    """

    def __init__(self, path: epath.PathLike, report: Callable[[str], None]) -> None:
        """Names the folder, local or remote; nothing is touched. ``report`` gets warnings of one line."""
        self.path = epath.Path(path)
        self._report = report

    def of(self, step: int) -> epath.Path:
        """Returns the folder of one checkpoint."""
        return self.path / str(step)

    @property
    def names(self) -> list[str]:
        """The names of all that is there."""
        return sorted(path.name for path in self.path.iterdir()) if self.path.exists() else []

    @property
    def listed(self) -> list[int]:
        """The committed and the damaged steps, ascending."""
        names = set(self.names)
        steps = sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)
        return [step for step in steps if _mark_name(step) not in names or not self._is_nothing(step)]

    @property
    def steps(self) -> list[int]:
        """The committed steps, ascending; only their names have been looked at."""
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
                self._report(f"checkpoint {step} in '{self.path}' is damaged and left out: {damage}")
        return commits

    def make_way(self, step: int) -> Commit | None:
        """Returns the commit of a step that is about to be saved, if it has a good one.

        An interrupted one is removed, a damaged one set aside.
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
        """Says that a checkpoint is being written; cut short, it is the one committed before, or none."""
        commit = self.of(step) / COMMIT
        self._write_mark(step, commit.read_bytes() if commit.exists() else _WRITING)

    def commit(self, step: int, contents: bytes) -> None:
        """Writes ``commit.json``, first into the mark: :meth:`tidy` then makes up for one that was lost.

        Raises:
          OSError: it cannot be written.
        """
        self._write_mark(step, contents)
        write_whole(self.of(step) / COMMIT, contents)

    def tidy(self, step: int) -> str | None:
        """Brings a marked checkpoint to what its mark says, then removes the mark; what stays is reported.

        Returns:
          What has been removed and why, a few words; None if that is nothing.
        """
        folder, mark = self.of(step), self.path / _mark_name(step)
        removed = None
        try:
            said = self._read_mark(step)
            if said is None:
                return None
            self._make_up(step)
            if self._has_commit(step):
                kept = {COMMIT, read_commit(folder)["state"]}
                for path in [path for path in folder.iterdir() if path.name not in kept]:
                    remove(path)
                    removed = "is whole; what a save that was cut short had left beside it has been removed"
            elif said in (_WRITING, _DELETING) and folder.exists():
                remove(folder)
                what = "save" if said == _WRITING else "deletion"
                removed = f"has been removed: its {what} had been cut short"
            mark.unlink()
        except Damaged:
            mark.unlink()  # and touch nothing: all of it is evidence
        except Exception as error:  # TensorFlow's, of remote files, are no OSErrors
            self._report(f"what is left of '{folder}' could not be removed: {reason(error)}")
        return removed

    def tidy_all(self) -> None:
        """Finishes what was cut short, and reports what that removes.

        Raises:
          RunError: a commit that a mark repeats cannot be written.
        """
        for name in self.names:
            step = name.removesuffix(".unfinished")
            if name.startswith(".") and name.endswith(".partial"):
                (self.path / name).unlink(missing_ok=True)
            elif step != name and step.isdecimal():
                try:
                    self._make_up(int(step))
                except Exception as error:  # without it, a good checkpoint would be taken for a damaged one
                    raise RunError(cannot_write(self.of(int(step)) / COMMIT, error)) from error
                if removed := self.tidy(int(step)):
                    self._report(f"checkpoint {step} in '{self.path}' {removed}")

    def delete_old(self, *, keep: int, saved: int) -> None:
        """Deletes what is neither among the ``keep`` newest with a top-1 nor the best nor just ``saved``.

        Those without one, saved by the clock or on the way out, serve until there are two newer ones: they
        push none of the others out.
        """
        try:
            commits = self.commits()
            kept = {*evaluated(commits)[-keep:], *list(commits)[-2:], best(commits), saved}
            for step in commits.keys() - kept:
                self._uncommit(step)
                self.tidy(step)
        except Exception as error:
            self._report(f"an old checkpoint in '{self.path}' could not be deleted: {reason(error)}")

    def forget_after(self, step: int) -> None:
        """Removes the committed and the damaged checkpoints of later steps, and reports each.

        Raises:
          RunError: one cannot be removed.
        """
        later = [each for each in reversed(self.listed) if each > step]
        # Newest first, and no files before all commits are gone: whatever cuts it short leaves the
        # beginning of the way that the run has left, each step of it whole.
        for each in later:
            try:
                self._uncommit(each)
            except Exception as error:
                raise RunError(
                    f"checkpoint '{self.of(each)}' cannot be removed: {reason(error)}; the run went back to "
                    f"step {step}: remove the later checkpoints and start again"
                ) from error
        for each in later:
            self.tidy(each)
            self._report(f"checkpoint {each} in '{self.path}' is removed: the run went back to step {step}")

    def not_written(self, step: int, needed: int, error: Exception) -> RunError:
        """Returns what to raise where a checkpoint of ``needed`` bytes could not be written."""
        free = free_bytes(self.path)
        room = f"{needed:,} bytes needed" + ("" if free is None else f", {free:,} free")
        try:
            kept = [other for other in self.steps if other != step]
            older = f"older ones are kept, the newest is step {kept[-1]}" if kept else "there is no other"
        except Exception:
            older = "nor can the others be listed"
        return RunError(
            f"checkpoint {step} could not be written to '{self.path}': {reason(error)} ({room}); {older}"
        )

    def move_aside(self, step: int, damage: Damaged) -> None:
        """Renames a damaged checkpoint ``damaged-<step>-<time>`` in the same folder, and reports it.

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
        (self.path / _mark_name(step)).unlink(missing_ok=True)
        self._report(f"checkpoint {step} in '{self.path}' is damaged: {damage}; it is now named {name}")

    def _write_mark(self, step: int, contents: bytes) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / _mark_name(step), contents)

    def _read_mark(self, step: int) -> bytes | None:
        """Returns what the mark says, None if there is none."""
        mark = self.path / _mark_name(step)
        try:
            return mark.read_bytes() if mark.exists() else None
        except FileNotFoundError:  # another process has just removed it
            return None

    def _make_up(self, step: int) -> None:
        """Writes the commit that the mark repeats, if there is one and it is not there."""
        said, file = self._read_mark(step), self.of(step) / COMMIT
        if said in (None, _WRITING, _DELETING) or not self.of(step).exists():
            return
        try:
            decode_commit(said, self.of(step))
        except Damaged:
            return
        if not file.exists() or file.read_bytes() != said:
            write_whole(file, said)

    def _uncommit(self, step: int) -> None:
        """Makes a checkpoint one that :meth:`tidy` removes; a committed one stays, if this is cut short."""
        self._write_mark(step, _DELETING)
        (self.of(step) / COMMIT).unlink(missing_ok=True)

    def _is_nothing(self, step: int) -> bool:
        """Returns whether a marked checkpoint is one whose writing or deletion has been cut short."""
        return not self._has_commit(step) and self._read_mark(step) in (_WRITING, _DELETING)

    def _has_commit(self, step: int) -> bool:
        return (self.of(step) / COMMIT).exists()


def evaluated(commits: dict[int, Commit]) -> list[int]:
    """Returns the steps with a top-1, in the order of the commits."""
    return [step for step, commit in commits.items() if "top1" in commit["metrics"]]


def best(commits: dict[int, Commit]) -> int | None:
    """Returns the step with the highest top-1, the latest of equals; None if none has one."""
    return max(evaluated(commits), key=lambda step: (commits[step]["metrics"]["top1"], step), default=None)


def _mark_name(step: int) -> str:
    return f"{step}.unfinished"
