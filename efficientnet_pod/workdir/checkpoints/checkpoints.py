"""Checkpoints of the train state: written in the background, every bit verified when they are read."""

import json
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.pod import inject
from efficientnet_pod.workdir.checkpoints.commit import (
    Damaged,
    bytes_of,
    encode_commit,
    first_non_finite,
    joint_digest,
    read_commit,
    require_files,
    require_same_network,
    require_tensors,
    tensor_digests,
)
from efficientnet_pod.workdir.checkpoints.commit import digest_of as digest_of
from efficientnet_pod.workdir.checkpoints.folder import CheckpointFolder, best, evaluated
from efficientnet_pod.workdir.files import is_damage, reason, sizes_of_files

# Orbax reports every phase of every save, and an error as a traceback from each thread that met it. What
# matters of these is raised as well.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


class Checkpoints:
    """The checkpoints in one folder, laid out as :class:`CheckpointFolder` says; Orbax writes the arrays.

    Host 0 alone may make one; no other host need take part. A context manager: leaving it waits for the last
    save and raises what went wrong in it, or reports that if an exception is under way.
    """

    def __init__(
        self, directory: epath.PathLike, *, keep: int = 3, report: Callable[[str], None] = print
    ) -> None:
        """Names the folder; nothing is touched before the first save.

        Args:
          directory: absolute, local or remote (``gs://``).
          keep: newest checkpoints with a top-1 kept, beside the best, and the two newest of all.
          report: gets warnings of one line, from any thread.
        """
        self._folder = CheckpointFolder(directory, report)
        self._keep, self._report = keep, report
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.wait()
            return
        self._join()
        if self._failure:
            self._report(str(self._failure))

    @property
    def steps(self) -> list[int]:
        """The committed steps, ascending; only their names have been looked at."""
        return self._folder.steps

    @property
    def latest_step(self) -> int | None:
        """The newest committed step, None if there is none."""
        return max(self.steps, default=None)

    @property
    def best_step(self) -> int | None:
        """The step with the highest top-1, the latest of equals; None if there is none."""
        return best(self._folder.commits())

    @property
    def evaluated_steps(self) -> list[int]:
        """The committed steps with a top-1, ascending, but damaged ones. Waits for a save under way."""
        self._join()
        return evaluated(self._folder.commits())

    def named(self, which: str) -> int:
        """Returns the step that ``best``, ``latest`` or a number asks for.

        Raises:
          UserError: it is none of these, or there is no checkpoint.
        """
        if which.isdecimal():
            return int(which)
        if which not in ("best", "latest"):
            raise UserError(f"--checkpoint={which} must be 'best', 'latest' or a step")
        step = self.best_step if which == "best" else self.latest_step
        if step is None:
            raise UserError(f"no checkpoint in '{self._folder.path}' yet; train first")
        return step

    def commit(self, step: int) -> dict[str, Any]:
        """Returns what ``commit.json`` says: ``step``, ``created``, ``metrics``, ``record``, ``digest``, ...

        Raises:
          UserError: no such step, or it is damaged.
        """
        self._require(step)
        try:
            return read_commit(self._folder.of(step))
        except Damaged as damage:
            raise self._refusal(step, damage) from damage

    def save(
        self, step: int, state: Any, *, metrics: dict[str, float], record: dict[str, Any] | None = None
    ) -> None:
        """Copies the state to host memory and starts to write it, after the save before this one.

        A step saved again is replaced, the old one deleted once the new one is committed. If its bits are the
        same, metrics are added, a record is replaced, and the arrays are left alone.

        Args:
          step: names the checkpoint.
          state: a tree of arrays, each of them on this host or replicated over all.
          metrics: ``top1`` decides which checkpoint is the best; may be empty.
          record: anything JSON can hold, for :meth:`commit`.

        Raises:
          RunError: an earlier save failed; or the state is not finite, and nothing has been written.
        """
        self.wait()
        # The buffers belong to the next step. Given device arrays, Orbax would also compile a slice of each
        # tensor for each replica, a minute for B0 on eight virtual ones.
        on_host = jax.tree.map(np.array, jax.device_get(state))
        if path := first_non_finite(on_host):
            raise RunError(f"step {step} is not saved: tensor {path} has values that are not finite")
        said = json.loads(json.dumps({"metrics": metrics, "record": record or {}}, allow_nan=False))
        self._thread = threading.Thread(
            target=self._save, args=(step, on_host, said), name=f"checkpoint-{step}", daemon=True
        )
        self._thread.start()

    def raise_failure(self) -> None:
        """Raises, once and without waiting, what a save failed with."""
        failure, self._failure = self._failure, None
        if failure:
            raise failure

    def wait(self) -> None:
        """Returns when the saves so far are complete; raises what one failed with."""
        self._join()
        self.raise_failure()

    def restore(self, step: int, abstract_state: Any) -> Any:
        """Returns the state saved at ``step`` as NumPy arrays, every bit verified. Changes no file.

        Args:
          step: one that was saved.
          abstract_state: structure, shapes and dtypes of the state, e.g. from ``jax.eval_shape``.

        Raises:
          UserError: no such step, it is damaged, or it is of another network or optimizer.
          RunError: it cannot be read at present.
        """
        return self._restore(step, abstract_state)

    def variables(self, step: int, abstract: dict[str, Any], *, averaged: bool) -> dict[str, Any]:
        """Returns the network's variables saved at ``step`` as NumPy arrays; no other tensor is read.

        Args:
          step: one that was saved.
          abstract: their structure, shapes and dtypes.
          averaged: take the averaged weights if there are any, else the raw ones.

        Raises:
          UserError: no such step, it is damaged, or it is of another network.
          RunError: it cannot be read at present.
        """
        if averaged and self.has_averages(step):
            return self._restore(step, {"ema": abstract}, of="ema/")["ema"]
        return self._restore(step, abstract, of=tuple(f"{name}/" for name in abstract))

    def has_averages(self, step: int) -> bool:
        """Returns whether averaged weights were saved at ``step``; raises as :meth:`commit` does."""
        return any(path.startswith("ema/") for path in self.commit(step)["tensors"])

    def restore_newest(self, abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Returns step, state and commit of the newest good checkpoint, None only if there never was one.

        Newer ones, which are damaged, are renamed ``damaged-<step>-<time>`` and reported; none of their files
        is lost. Interrupted saves are removed and reported.

        Args:
          abstract_state: as for :meth:`restore`.

        Raises:
          UserError: there are checkpoints and none is good, or the newest good one is of another network or
            optimizer. Nothing has been renamed.
          RunError: a checkpoint cannot be read at present, an interrupted save cannot be completed, or an
            earlier save failed.
        """
        self.wait()
        self._folder.tidy_all()
        damaged: dict[int, Damaged] = {}
        for step in reversed(self._folder.listed):
            try:
                state, commit = self._read(step, abstract_state)
            except Damaged as damage:
                damaged[step] = damage
                continue
            for newer, damage in damaged.items():
                self._folder.move_aside(newer, damage)
            return step, state, commit
        # Without those set aside, a start after the last good one is gone would train from scratch.
        found = [f"step {step}: {damage}" for step, damage in damaged.items()] + self._folder.set_aside
        if not found:
            return None
        raise UserError(
            f"no good checkpoint in '{self._folder.path}' ({'; '.join(found)}); "
            "restore one from a backup, or choose another --workdir to train from the beginning"
        )

    def forget_after(self, step: int) -> None:
        """Removes the checkpoints of later steps, damaged ones too, and reports each: the run has left them.

        A start after it resumes from ``step`` or before; killed inside it, from any of them, never a part.

        Raises:
          RunError: one cannot be removed, or an earlier save failed.
        """
        self.wait()
        self._folder.forget_after(step)

    def _require(self, step: int) -> None:
        if step not in self._folder.listed:
            steps = ", ".join(map(str, self.steps)) or "none"
            raise UserError(f"no checkpoint of step {step} in {self._folder.path}; there are: {steps}")

    def _refusal(self, step: int, damage: Damaged) -> UserError:
        others = ", ".join(str(other) for other in self.steps if other != step) or "none"
        return UserError(
            f"checkpoint {step} in {self._folder.path} is damaged: {damage}; "
            f"choose another, there are: {others}"
        )

    def _restore(self, step: int, abstract_state: Any, *, of: str | tuple[str, ...] = "") -> Any:
        self._require(step)
        try:
            return self._read(step, abstract_state, of=of)[0]
        except Damaged as damage:
            raise self._refusal(step, damage) from damage

    def _read(
        self, step: int, abstract_state: Any, *, of: str | tuple[str, ...] = ""
    ) -> tuple[Any, dict[str, Any]]:
        """Returns a verified state and its commit, both only of the tensors whose paths begin with ``of``.

        Raises Damaged, UserError or RunError.
        """
        folder = self._folder.of(step)
        try:
            commit = read_commit(folder)
            if commit["step"] != step:
                raise Damaged(f"its commit is that of step {commit['step']}")
            tensors = {path: saved for path, saved in commit["tensors"].items() if path.startswith(of)}
            commit |= {"tensors": tensors}
            require_same_network(abstract_state, commit, folder)
            require_files(folder, commit)
            state = _restore_arrays(folder / commit["state"], abstract_state, bool(of))
        except (Damaged, UserError, RunError):
            raise
        except Exception as error:
            if not is_damage(error):
                raise RunError(f"checkpoint '{folder}' cannot be read: {reason(error)}; try again") from error
            raise Damaged(f"its arrays cannot be read: {reason(error)}") from error
        require_tensors(state, commit)
        return state, commit

    def _join(self) -> None:
        if self._thread:
            self._thread.join()
            self._thread = None

    def _save(self, step: int, state: Any, said: dict[str, Any]) -> None:
        """Does a save to its end, in the background; a failure is kept for the next who asks."""
        try:
            try:
                self._write(step, state, said)
            except Exception as error:
                self._folder.tidy(step)
                raise self._folder.not_written(step, bytes_of(state), error) from error
            inject.at("committed", step)
            self._folder.tidy(step)
            self._folder.delete_old(keep=self._keep, saved=step)
        except BaseException as failure:  # nobody looks at this thread
            self._failure = failure

    def _write(self, step: int, state: Any, said: dict[str, Any]) -> None:
        """Writes arrays and commit, after which the step is committed, and marked."""
        folder = self._folder.of(step)
        tensors = tensor_digests(state)
        digest = joint_digest(tensors)
        old = self._folder.make_way(step)
        if old and old["digest"] == digest:
            place, files = old["state"], old["files"]
            said = {"metrics": old["metrics"] | said["metrics"], "record": said["record"] or old["record"]}
            if all(old[name] == value for name, value in said.items()):
                return
        else:
            place = "state-again" if old and old["state"] == "state" else "state"
            self._folder.mark(step)
            _save_arrays(folder / place, state)
            files = sizes_of_files(folder / place)
            inject.at("saving", step)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        about = {"step": step, "created": created, **said, "digest": digest, "state": place}
        self._folder.commit(step, encode_commit(about | {"files": files, "tensors": tensors}))


def _checkpointer() -> ocp.Checkpointer:
    # The other hosts are not here: no barrier may wait for them.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="host0"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _save_arrays(folder: epath.Path, state: Any) -> None:
    with _checkpointer() as checkpointer:
        checkpointer.save(folder, args=ocp.args.PyTreeSave(state))


def _restore_arrays(folder: epath.Path, abstract_state: Any, partial: bool) -> Any:
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), abstract_state)
    arguments = ocp.args.PyTreeRestore(item=abstract_state, restore_args=as_numpy, partial_restore=partial)
    with _checkpointer() as checkpointer:
        return checkpointer.restore(folder, args=arguments)
