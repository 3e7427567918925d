"""The state a run begins with when its recipe names weights to start from."""

import dataclasses
import math
from contextlib import closing
from itertools import islice
from typing import Any

import jax
import numpy as np

from efficientnet_pod.errors import UserError
from efficientnet_pod.optim.fine_tuning import REESTIMATE
from efficientnet_pod.pod.agreement import GO, host_signals
from efficientnet_pod.pod.mesh import put_replicated
from efficientnet_pod.recipe.recipe import Recipe
from efficientnet_pod.run.feed import Feed, train_batches
from efficientnet_pod.run.run import Run
from efficientnet_pod.run.state import TrainState
from efficientnet_pod.weights.classes import may_be_same
from efficientnet_pod.weights.convert import new_classifier
from efficientnet_pod.weights.open import open_weights, settings_of
from efficientnet_pod.weights.paths import is_head, unflatten
from efficientnet_pod.weights.trained import WHOLE, Trained, view_of
from efficientnet_pod.workdir.checkpoints.commit import leaves_of


@dataclasses.dataclass(frozen=True)
class Initial:
    """Weights to begin with.

    Attributes:
      variables: ``params`` and ``batch_stats`` of the run's network, numpy.
      line: their origin as a line for people.
      warnings: sentences on what their file states and is not kept.
      origin: their origin as a table for JSON.
    """

    variables: dict[str, Any]
    line: str
    warnings: tuple[str, ...]
    origin: dict[str, Any]


def open_initial(run: Run) -> Initial:
    """Returns the weights that ``config.init.weights`` names; their classifier only if it suits the images.

    A classifier for another number of classes, or for other names, is left out; a new one begins at zero.

    Raises:
      UserError: there are no weights, or they belong to another network, or to other pixels.
    """
    recipe = run.plan.recipe
    trained = open_weights(recipe.init.weights)
    _require_alike(trained, recipe)
    shapes = {path: leaf.shape for path, leaf in leaves_of(run.variables).items()}
    keeps_classifier = trained.num_classes == run.plan.num_classes and may_be_same(
        trained.class_names, run.images.class_names
    )
    tensors = trained.tensors
    taken = {path: tensors[path] for path in shapes if keeps_classifier or not is_head(path)}
    new = {} if keeps_classifier else new_classifier(shapes, run.plan.num_classes)
    step = f", step {trained.origin['step']:,}" if "step" in trained.origin else ""
    classifier = "their classifier" if keeps_classifier else f"a new one for {run.plan.num_classes:,} classes"
    number = sum(array.size for array in taken.values())
    return Initial(
        variables=unflatten(taken | new),
        warnings=(*trained.warnings, *_other_crop(trained, recipe)),
        line=f"starts from {recipe.init.weights}{step}: {number:,} numbers, {classifier}",
        origin={**trained.origin, "weights": recipe.init.weights, "new_classifier": not keeps_classifier},
    )


def _require_alike(trained: Trained, recipe: Recipe) -> None:
    """Raises UserError if the recipe would use the weights in another way than they were trained."""

    def refuse(fact: str, field: str, ours: Any, remedy: Any) -> UserError:
        return UserError(
            f"'{recipe.init.weights}' {fact}, and config.{field}={ours}; set --config.{field}={remedy}"
        )

    if trained.network != recipe.model.name:
        raise refuse(f"is {trained.network}", "model.name", recipe.model.name, trained.network)
    for field in ("mean_rgb", "stddev_rgb"):
        theirs, ours = getattr(trained, field), getattr(recipe.data, field)
        if not np.allclose(theirs, ours, atol=1e-4):
            shown = "(" + ", ".join(f"{value:.6g}" for value in theirs) + ")"
            fact = f"was trained on pixels with {field}={shown}"
            raise refuse(fact, f"data.{field}", tuple(ours), f"'{shown}'")
    if recipe.model.auxiliary_weight:
        weight = recipe.model.auxiliary_weight
        raise refuse("comes without the second classifier", "model.auxiliary_weight", weight, 0)
    settings = settings_of(recipe)
    for name, value in ({"padding": "same"} | dict(trained.settings)).items():
        if name in settings and not _equal(settings[name], value):
            raise refuse(f"was trained with {name}={value}", f"model.{name}", settings[name], value)


def _equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, str):
        return ours == theirs
    return math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-12)


def _other_crop(trained: Trained, recipe: Recipe) -> list[str]:
    """Returns a sentence if the run evaluates another crop than the weights were published with."""
    theirs, ours = trained.eval_crop_share, recipe.data.eval_crop_share
    if theirs == ours or WHOLE in (trained.view, view_of(recipe.data)):
        return []
    return [
        f"'{recipe.init.weights}' is evaluated on {trained.seen}, and config.data.eval_crop_share={ours}; "
        f"to compare with it set --config.data.eval_crop_share={theirs}"
    ]


def initial_state(run: Run, initial: Initial) -> TrainState:
    """Returns the state before the first step in host memory."""
    return jax.tree.map(np.asarray, jax.device_get(run.init(initial.variables)))


def with_statistics_of_images(run: Run, state: TrainState) -> TrainState:
    """Returns the state with BN statistics measured on ``config.init.bn_images`` training images.

    They are means over whole global batches, the first ones of the training. All hosts call it. Nothing
    changes if the recipe does not ask for it, and for layers whose statistics are fixed.
    """
    init, recipe = run.plan.recipe.init, run.plan.phases[0].recipe
    if init.bn_statistics != REESTIMATE:
        return state
    step, batches = run.lower_statistics_step().compile(), math.ceil(init.bn_images / recipe.global_batch)
    batches *= run.plan.phases[0].micro_batches
    total, command = None, host_signals(run.mesh)[GO]
    with closing(Feed(islice(train_batches(run, start_step=0), batches), run.mesh)) as feed:
        for _ in range(batches):
            batch = feed.next()
            assert batch is not None  # nobody gives up
            statistics = jax.device_get(step(state.variables, batch | {"command": command}))
            statistics = jax.tree.map(lambda leaf: leaf.astype(np.float64) / batches, statistics)
            total = statistics if total is None else jax.tree.map(np.add, total, statistics)
    statistics = put_replicated(jax.tree.map(lambda leaf: leaf.astype(np.float32), total), run.mesh)
    ema = state.ema and {**state.ema, "batch_stats": jax.tree.map(jax.numpy.copy, statistics)}
    return dataclasses.replace(state, batch_stats=statistics, ema=ema)
