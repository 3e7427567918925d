"""Checkpoints of the train state: written in the background, every bit verified when they are read."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import flags
from etils import epath

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.pod import inject
from efficientnet_pod.workdir.checkpoints.commit import (
    Commit,
    Damaged,
    bytes_of,
    encode_commit,
    first_non_finite,
    joint_digest,
    leaves_of,
    read_commit,
    require_files,
    require_same_network,
    require_tensors,
    tensor_digests,
)
from efficientnet_pod.workdir.checkpoints.folder import CheckpointFolder, best_step, evaluated_steps
from efficientnet_pod.workdir.files import is_damage, is_misread, linked, reason, sizes_of_files


class Checkpoints:
    """The checkpoints in one folder, laid out as :class:`CheckpointFolder` says; Orbax writes the arrays.

    Only host 0 makes one; no other host need take part. A context manager: leaving it waits for the last save
    and raises its failure, or warns of it if an exception is under way.
    """

    def __init__(
        self, directory: epath.PathLike, *, keep: int = 3, warn: Callable[[str], None] = print
    ) -> None:
        """Names a folder, absolute, local or remote (``gs://``); nothing is touched before the first save.

        The ``keep`` newest checkpoints with a top-1 are kept, the best, and the two newest of all. ``warn``
        gets warnings of one line, from any thread.

        Raises:
          UserError: Orbax could use neither this path nor a link to it.
        """
        logging.getLogger("absl").addFilter(_is_not_of_orbax)
        self._folder = CheckpointFolder(directory, warn)
        is_misread(self._folder.path)  # which may refuse it
        self._keep, self._warn = keep, warn
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._join()
        if error is None:
            self.raise_failure()
        elif self._failure:
            self._warn(str(self._failure))

    @property
    def steps(self) -> list[int]:
        """The committed steps, ascending; their commits are not read."""
        return self._folder.steps

    @property
    def evaluated_steps(self) -> list[int]:
        """The committed steps with a top-1, ascending, without damaged ones. Waits for a save under way."""
        self._join()
        return evaluated_steps(self._folder.commits())

    def named(self, which: str) -> int:
        """Returns the step of ``best`` (highest top-1, the latest of equals), ``latest`` or a number.

        Raises:
          UserError: it is none of these, or there is no checkpoint.
        """
        if which.isdecimal():
            return int(which)
        if which not in ("best", "latest"):
            raise UserError(f"--checkpoint={which} must be 'best', 'latest' or a step")
        steps = self.steps
        if not steps:
            raise UserError(f"no checkpoint in '{self._folder.path}' yet; train first")
        if which == "latest":
            return max(steps)
        if (step := best_step(self._folder.commits())) is None:
            raise UserError(
                f"no checkpoint in '{self._folder.path}' was evaluated yet, so none is the best; "
                f"--checkpoint=latest takes step {max(steps)}"
            )
        return step

    def commit(self, step: int) -> Commit:
        """Returns the fields of a checkpoint's ``commit.json``.

        Raises:
          UserError: no such step, or it is damaged.
        """
        with self._existing(step):
            return read_commit(self._folder.of(step))

    def save(
        self, step: int, state: Any, *, metrics: dict[str, float], record: dict[str, Any] | None = None
    ) -> None:
        """Copies the state to host memory and starts to write it, after the save before this one.

        If the step has a checkpoint already, that one is deleted once the new one is committed. If the bits
        are the same, the arrays are left alone: metrics are added, and the record is replaced.

        Args:
          step: updates done, the name of the checkpoint.
          state: a tree of arrays, each on this host or replicated over all.
          metrics: ``top1`` decides which checkpoint is the best; may be empty.
          record: facts for :meth:`commit`, anything that JSON can hold.

        Raises:
          RunError: an earlier save failed; or the state is not finite, and nothing has been written.
        """
        self.wait()
        # The buffers belong to the next step. Given device arrays, Orbax would also compile a slice of each
        # tensor for each replica, a minute for B0 on eight virtual ones.
        on_host = jax.tree.map(np.array, jax.device_get(state))
        if path := first_non_finite(on_host):
            raise RunError(f"step {step} is not saved: tensor {path} has values that are not finite")
        facts = json.loads(json.dumps({"metrics": metrics, "record": record or {}}, allow_nan=False))
        self._thread = threading.Thread(
            target=self._save, args=(step, on_host, facts), name=f"checkpoint-{step}", daemon=True
        )
        self._thread.start()

    def raise_failure(self) -> None:
        """Raises the failure of a save, once and without waiting."""
        failure, self._failure = self._failure, None
        if failure:
            raise failure

    def wait(self) -> None:
        """Returns when all saves are complete; raises the failure of one."""
        self._join()
        self.raise_failure()

    def restore(self, step: int, abstract_state: Any) -> Any:
        """Returns the state saved at ``step`` as NumPy arrays, every bit verified. Changes no file.

        ``abstract_state`` has its structure, shapes and dtypes, e.g. from ``jax.eval_shape``.

        Raises:
          UserError: no such step, it is damaged, or it is of another network or optimizer.
          RunError: it cannot be read at present.
        """
        with self._existing(step):
            return self._read(step, abstract_state)[0]

    def variables(
        self, step: int, abstract: dict[str, Any], *, averaged: bool, optional: str = ""
    ) -> dict[str, Any]:
        """Returns the network's variables saved at ``step`` as NumPy arrays; no other tensor is read.

        ``abstract`` has their structure, shapes and dtypes, with or without those of the module that
        ``optional`` names. With ``averaged`` they are the averaged weights if there are any, else the raw
        ones.

        Raises:
          UserError: no such step, it is damaged, or it is of another network.
          RunError: it cannot be read at present.
        """
        with self._existing(step):
            if averaged and self.has_averages(step):
                return self._read(step, {"ema": abstract}, of="ema/", optional=optional)[0]["ema"]
            roots = tuple(f"{name}/" for name in abstract)
            return self._read(step, abstract, of=roots, optional=optional)[0]

    def has_averages(self, step: int) -> bool:
        """Returns whether averaged weights were saved at ``step``; raises as :meth:`commit` does."""
        return any(path.startswith("ema/") for path in self.commit(step)["tensors"])

    def restore_newest(self, abstract_state: Any) -> tuple[int, Any, Commit] | None:
        """Returns step, state and commit of the newest good checkpoint, None only if there never was one.

        Newer ones are damaged: they are renamed ``damaged-<step>-<time>`` with all their files. Interrupted
        saves are removed. Both cause a warning. ``abstract_state`` is as for :meth:`restore`.

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
        # Those set aside count: else a start after the last good one is gone would train from scratch.
        bad = [f"step {step}: {damage}" for step, damage in damaged.items()] + self._folder.set_aside
        if not bad:
            return None
        raise UserError(
            f"no good checkpoint in '{self._folder.path}' ({'; '.join(bad)}); "
            "restore one from a backup, or choose another --workdir to train from the beginning"
        )

    def forget_after(self, step: int) -> None:
        """Removes the checkpoints of later steps, damaged ones too, and warns of each.

        The next start resumes from ``step`` or before. After a kill inside this call it resumes from any of
        the steps, but never from a part of one.

        Raises:
          RunError: one cannot be removed, or an earlier save failed.
        """
        self.wait()
        self._folder.forget_after(step)

    def _others(self, step: int) -> str:
        return ", ".join(str(other) for other in self.steps if other != step) or "none"

    @contextmanager
    def _existing(self, step: int) -> Iterator[None]:
        """Turns a missing step, and damage met inside, into a UserError that names the other steps."""
        folder = self._folder.path
        if step not in self._folder.listed:
            raise UserError(f"no checkpoint of step {step} in {folder}; there are: {self._others(step)}")
        try:
            yield
        except Damaged as damage:
            raise UserError(
                f"checkpoint {step} in {folder} is damaged: {damage}; "
                f"choose another, there are: {self._others(step)}"
            ) from damage

    def _read(
        self, step: int, abstract_state: Any, *, of: str | tuple[str, ...] = "", optional: str = ""
    ) -> tuple[Any, Commit]:
        """Returns a verified state and its commit, with only the tensors whose paths begin with ``of``.

        Those of a module ``optional`` are left out where they are not asked for.
        """
        folder = self._folder.of(step)
        try:
            commit = read_commit(folder)
            if commit["step"] != step:
                raise Damaged(f"its commit is that of step {commit['step']}")
            tensors = commit["tensors"]
            wanted = leaves_of(abstract_state)
            commit["tensors"] = {
                path: tensors[path]
                for path in tensors
                if path.startswith(of) and (path in wanted or not optional or optional not in path.split("/"))
            }
            require_same_network(abstract_state, commit, folder)
            require_files(folder, commit)
            state = _restore_arrays(folder / commit["state"], abstract_state, bool(of))
        except (Damaged, UserError, RunError):
            raise
        except Exception as error:
            if not is_damage(error):
                raise RunError(f"checkpoint '{folder}' cannot be read: {reason(error)}; try again") from error
            raise Damaged(f"its arrays cannot be read: {reason(error)}") from error
        require_tensors(state, commit["tensors"])
        return state, commit

    def _join(self) -> None:
        if self._thread:
            self._thread.join()
            self._thread = None

    def _save(self, step: int, state: Any, facts: dict[str, Any]) -> None:
        """Completes a save, in the background; keeps its failure for :meth:`raise_failure`."""
        try:
            try:
                self._write(step, state, facts)
            except Exception as error:
                self._folder.tidy(step)
                raise self._folder.not_written(step, bytes_of(state), error) from error
            inject.at("committed", step)
            self._folder.tidy(step)
            self._folder.delete_old(keep=self._keep, saved=step)
        except BaseException as failure:  # nobody looks at this thread
            self._failure = failure

    def _write(self, step: int, state: Any, facts: dict[str, Any]) -> None:
        """Writes arrays and commit; then the step is committed, and still marked."""
        folder = self._folder.of(step)
        tensors = tensor_digests(state)
        digest = joint_digest(tensors)
        old = self._folder.make_way(step)
        if old and old["digest"] == digest:
            place, files = old["state"], old["files"]
            facts = {"metrics": old["metrics"] | facts["metrics"], "record": facts["record"] or old["record"]}
            if facts == {"metrics": old["metrics"], "record": old["record"]}:
                return
        else:
            place = "state-again" if old and old["state"] == "state" else "state"
            self._folder.mark(step)
            _save_arrays(folder / place, state)
            files = sizes_of_files(folder / place)
            inject.at("saving", step)
            _require_found(folder / place, state, tensors)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        fields = {"step": step, "created": created, **facts, "digest": digest, "state": place}
        self._folder.commit(step, encode_commit(fields | {"files": files, "tensors": tensors}))


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    # Orbax logs every phase of every save, and an error as a traceback from each thread that met it. An error
    # that matters is raised as well.
    return "orbax" not in record.pathname


def _checkpointer() -> ocp.Checkpointer:
    # Orbax writes arrays on process 0 alone. By default it numbers processes as their devices do. Where a
    # TPU's runtime has another order, host 0 would not be process 0, and its checkpoints would be empty.
    by_process_id = flags.FLAGS["experimental_orbax_use_distributed_process_id"]
    by_process_id.value, by_process_id.present = True, 1
    # The other hosts are not here: no barrier may wait for them.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="host0"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _require_found(folder: epath.Path, state: Any, tensors: dict[str, Any]) -> None:
    """Raises Damaged unless the folder gives back every bit of the state, whose tensor digests are given.

    Orbax and TensorStore may report a success and have left arrays out, or have put them elsewhere.
    """
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    try:
        restored = _restore_arrays(folder, abstract)
    except Exception as error:
        raise Damaged(f"what was written cannot be read: {reason(error)}") from error
    require_tensors(restored, tensors)


def _save_arrays(folder: epath.Path, state: Any) -> None:
    with _as_orbax_reads_it(folder) as path, _checkpointer() as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(state))


def _restore_arrays(folder: epath.Path, abstract_state: Any, partial: bool = False) -> Any:
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), abstract_state)
    arguments = ocp.args.PyTreeRestore(item=abstract_state, restore_args=as_numpy, partial_restore=partial)
    with _as_orbax_reads_it(folder) as path, _checkpointer() as checkpointer:
        return checkpointer.restore(path, args=arguments)


@contextmanager
def _as_orbax_reads_it(folder: epath.Path) -> Iterator[epath.Path]:
    """Yields a path of ``<checkpoints>/<step>/<arrays>`` that Orbax takes for that folder and no other."""
    if not is_misread(folder):
        yield folder
        return
    with linked({"checkpoints": folder.parents[1]}) as links:
        yield links / "checkpoints" / folder.parent.name / folder.name
