"""The folder of the checkpoints: which are committed, interrupted or damaged; setting aside and deleting."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from etils import epath

from efficientnet_pod.commit import COMMIT, Damaged, read_commit, require_files
from efficientnet_pod.errors import RunError
from efficientnet_pod.files import reason, remove

Commit = dict[str, Any]


class CheckpointFolder:
    """``<step>/`` holds arrays and, written last, ``commit.json``: with it a checkpoint is committed.

    The mark ``<step>.unfinished`` stands while a checkpoint is written or deleted. One with a mark and no
    commit is an interrupted one, of no value; one with neither is damaged. Whatever is done here may be cut
    short anywhere: the mark, which comes first and goes last, lets the next start finish it.
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
        return [step for step in steps if _mark(step) not in names or self._has_commit(step)]

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
        """Says that a checkpoint is being written or deleted, until :meth:`tidy`."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / _mark(step)).write_text("This checkpoint is being written or deleted.\n")

    def tidy(self, step: int) -> None:
        """Removes what no commit names of a marked checkpoint, then the mark. What stays is reported."""
        folder, mark = self.of(step), self.path / _mark(step)
        try:
            if not mark.exists():
                return
            if self._has_commit(step):
                kept = {COMMIT, read_commit(folder)["state"]}
                for path in folder.iterdir():
                    if path.name not in kept:
                        remove(path)
            elif folder.exists():
                remove(folder)
            mark.unlink()
        except Damaged:
            mark.unlink()  # and touch nothing: all of it is evidence
        except Exception as error:  # TensorFlow's, of remote files, are no OSErrors
            self._report(f"what is left of '{folder}' could not be removed: {reason(error)}")

    def tidy_all(self) -> None:
        """Finishes what was cut short."""
        for name in self.names:
            step = name.removesuffix(".unfinished")
            if step != name and step.isdecimal():
                self.tidy(int(step))

    def delete_old(self, *, keep: int, saved: int) -> None:
        """Deletes what is neither among the ``keep`` newest with a top-1 nor the best nor just ``saved``.

        Those without one, saved by the clock or on the way out, serve until there are two newer ones: they
        push none of the others out.
        """
        try:
            commits = self.commits()
            evaluated = [step for step, commit in commits.items() if "top1" in commit["metrics"]]
            kept = {*evaluated[-keep:], *list(commits)[-2:], best(commits), saved}
            for step in commits.keys() - kept:
                self.mark(step)
                (self.of(step) / COMMIT).unlink()
                self.tidy(step)
        except Exception as error:
            self._report(f"an old checkpoint in '{self.path}' could not be deleted: {reason(error)}")

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
        self._report(f"checkpoint {step} in '{self.path}' is damaged: {damage}; it is now named {name}")

    def _has_commit(self, step: int) -> bool:
        return (self.of(step) / COMMIT).exists()


def best(commits: dict[int, Commit]) -> int | None:
    """Returns the step with the highest top-1, the latest of equals; None if none has one."""
    scored = [step for step, commit in commits.items() if "top1" in commit["metrics"]]
    return max(scored, key=lambda step: (commits[step]["metrics"]["top1"], step), default=None)


def _mark(step: int) -> str:
    return f"{step}.unfinished"
