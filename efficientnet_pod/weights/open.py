"""Opens trained weights by their path: a run's checkpoint, a folder of weights, a file of another library."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
from etils import epath

from efficientnet_pod.errors import UserError
from efficientnet_pod.models.initial import abstract_variables
from efficientnet_pod.optim import create_optimizer
from efficientnet_pod.recipe.recipe import Recipe, read_recipe
from efficientnet_pod.run.state import TrainState, init_state
from efficientnet_pod.weights.classes import readable
from efficientnet_pod.weights.convert import convert
from efficientnet_pod.weights.reading import read_foreign
from efficientnet_pod.weights.trained import Trained, untrained, view_of
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints
from efficientnet_pod.workdir.workdir import Workdir


def open_weights(path: str, *, which: str = "best", raw: bool = False) -> Trained:
    """Returns the weights at a path, with what they were trained to see.

    Args:
      path: a workdir, one of its ``checkpoints/STEP``, or what :func:`read_foreign` reads.
      which: of a workdir's checkpoints: ``best``, ``latest`` or a step.
      raw: the weights themselves where averages over the training are kept beside them.

    Raises:
      UserError: there is nothing of the kind, or it does not fit.
      RunError: a checkpoint cannot be read at present.
    """
    if of_run := checkpoint_at(path, which):
        return _of_run(*of_run, raw=raw)
    if (Path(path) / "plan.json").exists():
        raise UserError(f"no checkpoint in '{path}' yet; train first")
    return convert(read_foreign(path, raw=raw))


def checkpoint_at(path: str, which: str) -> tuple[Workdir, str] | None:
    """Returns the run whose checkpoint a path means, and which one; None where it means none of a run.

    Args:
      path: a workdir or one of its ``checkpoints/STEP``.
      which: of a workdir's checkpoints: ``best``, ``latest`` or a step.
    """
    folder = epath.Path(path)
    if path.startswith("hf:"):
        return None
    if folder.parent.name == "checkpoints" and folder.name.isdecimal():
        folder, which = folder.parent.parent, folder.name
    return (Workdir(folder), which) if (folder / "checkpoints").exists() else None


def _of_run(workdir: Workdir, which: str, *, raw: bool) -> Trained:
    recipe, plan, data = (
        read_recipe(workdir.read("config.json")),
        workdir.read("plan.json"),
        workdir.read("data.json"),
    )
    checkpoints = Checkpoints(workdir.checkpoints)
    step = checkpoints.named(which)
    settings = settings_of(recipe)
    model = untrained(recipe.model.name, plan["num_classes"], settings)
    state = checkpoints.restore(step, _abstract_state(recipe, abstract_variables(model, plan["image_size"])))
    commit = checkpoints.commit(step)
    return Trained(
        network=recipe.model.name,
        variables=state.variables if raw else state.eval_variables,
        class_names=readable(data["class_names"] or ()),
        image_size=plan["image_size"],
        mean_rgb=recipe.data.mean_rgb,
        stddev_rgb=recipe.data.stddev_rgb,
        view=view_of(recipe.data.augment),
        resize=recipe.data.resize,
        settings=settings,
        origin={
            "source": str(workdir.path),
            "step": step,
            "digest": commit["digest"],
            "averaged": state.ema is not None and not raw,
            "metrics": commit["metrics"],
        },
    )


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Returns what of ``config.model`` changes what a network computes in evaluation."""
    return {"bn_epsilon": recipe.model.bn_epsilon, "bn_scale": recipe.model.bn_scale}


def _abstract_state(recipe: Recipe, variables: dict[str, Any]) -> TrainState:
    """Returns the shapes of a run's state, on no device: no backend is started for them."""
    optimizer = create_optimizer(recipe.optimizer, lambda step: step * 0.0, variables["params"])
    return jax.eval_shape(partial(init_state, optimizer=optimizer, ema=recipe.ema_decay > 0), variables)
