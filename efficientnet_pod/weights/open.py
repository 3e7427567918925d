"""Opens trained weights by their path: a run's checkpoint, a folder of weights, a file of another library."""

from functools import partial
from pathlib import Path
from typing import Any

from etils import epath

from efficientnet_pod.errors import UserError
from efficientnet_pod.models.amoebanet import AUXILIARY
from efficientnet_pod.models.initial import abstract_variables
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.recipe.recipe import Recipe
from efficientnet_pod.weights.average import mean_of, steps_to_average
from efficientnet_pod.weights.classes import readable
from efficientnet_pod.weights.convert import convert
from efficientnet_pod.weights.reading import read_foreign
from efficientnet_pod.weights.trained import Trained, untrained, view_of
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints
from efficientnet_pod.workdir.files import expanded
from efficientnet_pod.workdir.workdir import Workdir


def open_weights(path: str, *, which: str = "best", raw: bool = False, average: int = 1) -> Trained:
    """Returns the weights at a path, with what they were trained to see.

    Args:
      path: a workdir, one of its ``checkpoints/STEP``, or a path that :func:`read_foreign` reads.
      which: checkpoint of a workdir: ``best``, ``latest`` or a step.
      raw: take the raw weights, where averages over the training are kept too.
      average: number of the newest checkpoints of a workdir to take the mean of, see :func:`.mean_of`; 1
        takes the one that ``which`` names.

    Raises:
      UserError: there are no weights, or they fit no network, or fewer checkpoints are kept.
      RunError: a checkpoint cannot be read at present.
    """
    path = expanded(path)
    if checkpoint := checkpoint_at(path, which):
        return _of_run(*checkpoint, raw=raw, average=average)
    if average > 1:
        raise UserError(f"--average={average} is for a run, and '{path}' is none; name its workdir")
    if (Path(path) / "plan.json").exists():
        raise UserError(f"no checkpoint in '{path}' yet; train first")
    return convert(read_foreign(path, raw=raw))


def checkpoint_at(path: str, which: str) -> tuple[Workdir, str] | None:
    """Returns the workdir that a path is in, and the name of its checkpoint; None for paths of other kinds.

    Arguments as of :func:`open_weights`.
    """
    folder = epath.Path(path)
    if path.startswith("hf:"):
        return None
    if folder.parent.name == "checkpoints" and folder.name.isdecimal():
        folder, which = folder.parent.parent, folder.name
    return (Workdir(folder), which) if (folder / "checkpoints").exists() else None


def _of_run(workdir: Workdir, which: str, *, raw: bool, average: int = 1) -> Trained:
    recipe = read_recipe(workdir.read("config.json"))
    plan, data = workdir.read("plan.json"), workdir.read("data.json")
    settings = settings_of(recipe)
    model = untrained(recipe.model.name, plan["num_classes"], settings)
    checkpoints = Checkpoints(workdir.checkpoints)
    shapes = abstract_variables(model, plan["image_size"])
    read = partial(checkpoints.variables, abstract=shapes, averaged=not raw, optional=AUXILIARY)
    if average > 1:
        if which != "best":
            raise UserError(
                f"--average={average} takes the newest checkpoints, and --checkpoint={which} one; leave out "
                "one of the flags"
            )
        steps = steps_to_average(checkpoints, average, workdir.path)
        step, variables = steps[-1], mean_of(steps, read)
        of_checkpoint = {"average_of": steps}  # which nobody has evaluated
    else:
        step = checkpoints.named(which)
        variables, commit = read(step), checkpoints.commit(step)
        of_checkpoint = {"digest": commit["digest"], "metrics": commit["metrics"]}
    initial = workdir.read("initial.json") if (workdir.path / "initial.json").exists() else {}
    return Trained(
        network=recipe.model.name,
        variables=variables,
        class_names=readable(data["class_names"] or ()),
        image_size=plan["image_size"],
        mean_rgb=recipe.data.mean_rgb,
        stddev_rgb=recipe.data.stddev_rgb,
        view=view_of(recipe.data),
        resize=recipe.data.resize,
        eval_crop_share=recipe.data.eval_crop_share,
        exif=recipe.data.exif,
        settings=settings,
        origin={
            "source": str(workdir.path),
            "workdir": str(workdir.path),
            "step": step,
            "averaged": not raw and checkpoints.has_averages(step),
            **of_checkpoint,
            **{name: initial[name] for name in ("base_model",) if name in initial},
        },
    )


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Returns the fields of ``config.model`` that change what a network computes in evaluation."""
    names = ("bn_epsilon", "bn_scale", "padding")
    return {name: getattr(recipe.model, name) for name in names}
