"""A whole evaluation set on all replicas, each image counted once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from efficientnet_pod.checkpoint import Checkpoints
from efficientnet_pod.errors import UserError
from efficientnet_pod.metrics import Counts, Rates, rates
from efficientnet_pod.pod.mesh import prefetch_to_devices, replicated
from efficientnet_pod.pod.runtime import compilation_cache
from efficientnet_pod.records import Workdir
from efficientnet_pod.run import Run

EvalStep = Callable[[Any, dict[str, jax.Array]], Counts]


def evaluate(run: Run, eval_step: EvalStep, variables: Any) -> Rates:
    """Returns loss and accuracies over all evaluation images.

    Every replica of every host takes part; batches are padded and masked, sums stay on the devices until
    the end.

    Args:
      run: whose evaluation images are read.
      eval_step: from :func:`eval_step_of` the compiled ``run.lower_eval_steps()``.
      variables: parameters and BN statistics.

    Raises:
      UserError: an image cannot be used.
      RuntimeError: not every image was counted once.
    """
    batches = prefetch_to_devices(eval_batches(run), run.mesh)
    result = rates(jax.device_get([eval_step(variables, batch) for batch in batches]))
    if result.images != run.plan.num_eval:
        raise RuntimeError(f"{result.images} images were counted in an evaluation of {run.plan.num_eval}")
    return result


def eval_batches(run: Run) -> Iterator[Any]:
    """Yields this host's evaluation batches."""
    from efficientnet_pod.data import pipeline

    return pipeline.eval_batches(
        run.source,
        run.preprocessing(),
        global_batch=run.plan.eval_batch,
        shapes=run.plan.eval_shapes,
        order=run.eval_order,
        host_index=run.runtime.host_index,
        host_count=run.runtime.host_count,
    ).as_numpy_iterator()


def eval_step_of(run: Run, compiled: Sequence[EvalStep]) -> EvalStep:
    """Returns one evaluation step for batches of all the plan's shapes, given one for each."""
    by_shape: dict[tuple[int, ...], EvalStep] = {
        (h, w, 3): step for (h, w, _), step in zip(run.plan.eval_shapes, compiled, strict=True)
    }
    return lambda variables, batch: by_shape[batch["image"].shape[1:]](variables, batch)


def evaluate_checkpoint(run: Run, workdir: Workdir, which: str, *, raw: bool) -> tuple[int, Rates]:
    """Returns the step of a checkpoint and its rates.

    Args:
      run: the recipe that made the checkpoint.
      workdir: of the run.
      which: ``"best"``, ``"latest"`` or a step.
      raw: take the raw weights, not the averaged ones.

    Raises:
      UserError: no such checkpoint.
    """
    if not workdir.checkpoints.exists():
        raise UserError(f"no checkpoints in '{workdir.path}'; --workdir must name the folder of a run")
    with Checkpoints(workdir.checkpoints, keep=run.plan.recipe.keep_checkpoints) as checkpoints:
        named = {"best": checkpoints.best_step, "latest": checkpoints.latest_step}
        if which not in named and not which.isdecimal():
            raise UserError(f"--checkpoint={which} must be 'best', 'latest' or a step")
        step = named[which] if which in named else int(which)
        if step is None:
            raise UserError(f"no checkpoint in '{workdir.checkpoints}' yet; train first")
        state = jax.device_put(checkpoints.restore(step, run.abstract_state()), replicated(run.mesh))
    with compilation_cache(workdir.programs):
        eval_step = eval_step_of(run, [lowered.compile() for lowered in run.lower_eval_steps()])
    return step, evaluate(run, eval_step, state.variables if raw else state.eval_variables)
