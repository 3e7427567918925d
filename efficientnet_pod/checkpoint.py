"""Checkpoints of the train state: saved in the background, the newest ones and the best one kept."""

import logging
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Sharding
from orbax.checkpoint.checkpoint_managers import preservation_policy

from efficientnet_pod.errors import UserError
from efficientnet_pod.state import TrainState

# Orbax reports every phase of every save at INFO and each background thread at WARNING.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname or record.levelno > 30)


class Checkpoints:
    """The checkpoints of one workdir. A context manager: leaving it waits for the last save.

    Saving copies the state to the host and returns; writing goes on while training does. An error of a
    background write is raised at the next save or on leaving.
    """

    def __init__(self, directory: epath.PathLike, *, keep: int = 3):
        """Opens or creates the directory.

        Args:
          directory: absolute, local or remote (``gs://``).
          keep: newest checkpoints kept, beside the one with the highest top-1.
        """
        self._directory = epath.Path(directory)
        newest_and_best = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(keep),
                preservation_policy.BestN(get_metric_fn=_top1, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=newest_and_best, best_fn=_top1, best_mode="max", create=True
        )
        handler = ocp.StandardCheckpointHandler()  # without it a fresh manager cannot read metadata
        self._manager = ocp.CheckpointManager(self._directory, options=options, item_handlers=handler)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """The newest step saved, None if there is none."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step with the highest top-1, the latest of equals; None if there is none."""
        return self._manager.best_step()

    def save(self, step: int, state: TrainState, *, metrics: dict[str, float]) -> None:
        """Starts to write the state; ``metrics`` decide, by ``top1``, which checkpoint is the best.

        The state is copied to the host first: its buffers belong to the next step. Given device arrays, Orbax
        would compile a slice of each tensor for each replica, a minute for B0 on eight virtual ones.
        """
        on_host = jax.tree.map(np.array, jax.device_get(state))
        self._manager.save(step, args=ocp.args.StandardSave(on_host), metrics=metrics)

    def wait(self) -> None:
        """Returns when the saves so far are complete; raises what went wrong in them."""
        self._manager.wait_until_finished()

    def restore(self, step: int, abstract_state: Any, *, sharding: Sharding) -> TrainState:
        """Returns the state saved at ``step``, on the devices of ``sharding``.

        Args:
          step: one that was saved.
          abstract_state: shapes and dtypes of the state, e.g. from ``jax.eval_shape``.
          sharding: of every array.

        Raises:
          UserError: no such step, or its tensors are not those of ``abstract_state``. Orbax would cast
            dtypes in silence.
        """
        if step not in self._manager.all_steps():
            steps = ", ".join(map(str, self._manager.all_steps())) or "none"
            raise UserError(f"no checkpoint of step {step} in {self._directory}; there are: {steps}")
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract_state
        )
        self._compare(step, target)
        restored: Any = self._manager.restore(step, args=ocp.args.StandardRestore(target))
        return restored

    def _compare(self, step: int, target: Any) -> None:
        saved = self._manager.item_metadata(step)
        found, wanted = (
            {jax.tree_util.keystr(path, simple=True, separator="/"): (tuple(leaf.shape), str(leaf.dtype))
             for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
            for tree in (saved.tree if hasattr(saved, "tree") else saved, target)
        )  # fmt: skip
        differing = sorted(
            name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)
        )
        if differing:
            name = differing[0]
            raise UserError(
                f"checkpoint {step} in {self._directory} is of another network or optimizer: "
                f"{len(differing)} tensors differ, first {name}: saved {found.get(name)}, "
                f"wanted {wanted.get(name)}; use a new workdir or the config it was made with"
            )


def _top1(metrics: dict[str, float]) -> float:
    return metrics["top1"]
