"""A recipe on a machine: devices, images, plan, mesh, network and optimizer, ready to compile."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from efficientnet_pod.data.balance import class_weights
from efficientnet_pod.data.sources.types import Indexed, Source
from efficientnet_pod.errors import UserError
from efficientnet_pod.models.initial import abstract_variables, initial_variables
from efficientnet_pod.models.inputs import normalise
from efficientnet_pod.models.registry import Model, create_network, network_named, with_settings
from efficientnet_pod.models.whitening import IMAGES, whitened
from efficientnet_pod.optim.fine_tuning import scaled, with_fixed_statistics, without_gradient
from efficientnet_pod.optim.schedules import LearningRate, Stretch, create_schedule, in_phases
from efficientnet_pod.pod import runtime as pod_runtime
from efficientnet_pod.pod.mesh import BN_MEMBER, batch_sharding, create_mesh, replicated
from efficientnet_pod.pod.pace import pace_columns
from efficientnet_pod.pod.runtime import Runtime
from efficientnet_pod.recipe.phases import Phase
from efficientnet_pod.recipe.plan import Plan, resolve
from efficientnet_pod.recipe.preprocessing import Preprocessing
from efficientnet_pod.recipe.recipe import BALANCED, Recipe
from efficientnet_pod.recipe.rectangles import order_of, shapes_of
from efficientnet_pod.run.eval_step import compile_eval_step, compile_statistics_step
from efficientnet_pod.run.state import TrainState, init_state
from efficientnet_pod.run.train_step import (
    TrainStep,
    abstract_sums,
    compile_accumulation,
    compile_train_step,
    compile_update,
    no_sums,
)
from efficientnet_pod.workdir.files import expanded, is_remote


@dataclasses.dataclass(frozen=True)
class ImageNumbers:
    """The numbers of images that a plan needs; they stand in for images that are not on this machine."""

    num_train: int
    num_eval: int
    num_classes: int


# Published numbers, to plan for data that is not on this machine.
PUBLISHED_NUMBERS = {
    "imagenet2012": ImageNumbers(1_281_167, 50_000, 1000),
    "cifar10": ImageNumbers(50_000, 10_000, 10),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A recipe, ready to compile.

    Attributes:
      runtime: backend and devices.
      source: images, or their numbers alone where nothing is trained.
      plan: every derived number.
      mesh: BN groups × members.
      model: network.
      variables: shapes and dtypes of the network's parameters and BN statistics.
      optimizer: optimizer with its learning rate inside.
      learning_rate: function of the step, all phases together, for the log.
      eval_order: places of the evaluation images in the order of evaluation; None for the stored order.
    """

    runtime: Runtime
    source: Source | ImageNumbers
    plan: Plan
    mesh: Mesh
    model: Model
    variables: dict[str, Any]
    optimizer: optax.GradientTransformation
    learning_rate: LearningRate
    eval_order: np.ndarray | None = None

    @property
    def images(self) -> Source:
        """The images; only of a run that was opened with them."""
        assert isinstance(self.source, Source), "opened with the numbers of its images alone"
        return self.source

    @property
    def class_weights(self) -> tuple[float, ...]:
        """Factor of each class in the training loss; () for none. All 1 where the images are not here.

        Raises UserError for a class that the images do not have.
        """
        setting = self.plan.recipe.data.class_weights
        if isinstance(self.source, Source):
            labels = self.source.train.labels if isinstance(self.source.train, Indexed) else None
            return class_weights(setting, self.source.class_names, labels)
        return () if setting == "none" else (1.0,) * self.plan.num_classes

    def initial_variables(self) -> dict[str, Any]:
        """Returns random weights by the recipe's seed, a whitening layer by the images, and BN statistics."""
        variables = initial_variables(self.model, self.plan.image_size, seed=self.plan.recipe.seed)
        if network_named(self.plan.recipe.model.name).whitens and isinstance(self.source, Source):
            from efficientnet_pod.data.stored import first_images  # imports TensorFlow

            images = first_images(self.source, self.preprocessing(), IMAGES, self.normalise)
            variables = whitened(variables, images)
        return variables

    def preprocessing(self, phase: Phase | None = None) -> Preprocessing:
        """Returns the host's preprocessing of a phase's training images; without a phase, of evaluation."""
        part = phase or self.plan
        return Preprocessing.of(part.recipe.data, image_size=part.image_size, dtype=self.plan.link_dtype)

    def init(self, variables: dict[str, Any]) -> TrainState:
        """Returns the state before the first step, not jitted."""
        return init_state(variables, self.optimizer, ema=self.plan.recipe.ema_decay > 0)

    def abstract_state(self) -> TrainState:
        """Returns the state's shapes and dtypes, replicated over the mesh."""
        shapes = jax.eval_shape(self.init, self.variables)
        shape = partial(jax.ShapeDtypeStruct, sharding=replicated(self.mesh))
        return jax.tree.map(lambda leaf: shape(leaf.shape, leaf.dtype), shapes)

    def abstract_batch(
        self, global_batch: int, height: int, width: int, *, mask: bool
    ) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes, dtypes and sharding of a global batch, as the data pipeline makes it."""
        shape = partial(jax.ShapeDtypeStruct, sharding=batch_sharding(self.mesh))
        batch = {
            "image": shape((global_batch, height, width, 3), jnp.dtype(self.plan.link_dtype)),
            "label": shape((global_batch,), jnp.dtype("int32")),
            "command": shape((self.mesh.size,), jnp.dtype("int32")),
        }
        return batch | ({"mask": shape((global_batch,), jnp.dtype("float32"))} if mask else {})

    def lower_init(self) -> jax.stages.Lowered:
        """Returns the program of the initial state, from the initial variables."""
        return jax.jit(self.init, out_shardings=replicated(self.mesh)).lower(self.variables)

    def lower_train_step(self, phase: Phase) -> jax.stages.Lowered:
        """Returns the program of one optimizer step of a phase.

        If devices compute several replicas, it computes one micro-batch, and :meth:`lower_update` ends the
        step.
        """
        step, state = self._train_step(phase), self.abstract_state()
        batch = self.abstract_batch(phase.micro_batch, phase.image_size, phase.image_size, mask=False)
        if columns := pace_columns(self.mesh):
            shape = partial(jax.ShapeDtypeStruct, sharding=batch_sharding(self.mesh))
            batch["pace"] = shape((self.mesh.size, columns), jnp.dtype("int32"))
        if phase.is_accumulated:
            return compile_accumulation(step, self.mesh).lower(state, batch, abstract_sums(state, self.mesh))
        return compile_train_step(step, self.mesh).lower(state, batch, self._abstract_halted())

    def lower_update(self, phase: Phase) -> jax.stages.Lowered:
        """Returns the program of the update from the sums of all micro-batches."""
        update, state = compile_update(self._train_step(phase), self.mesh), self.abstract_state()
        return update.lower(state, abstract_sums(state, self.mesh), self._abstract_halted())

    def lower_no_sums(self) -> jax.stages.Lowered:
        """Returns the program of the sums before the first micro-batch."""
        state = self.abstract_state()
        zeros = jax.jit(lambda: no_sums(state, self.mesh), out_shardings=batch_sharding(self.mesh))
        return zeros.lower()

    def _abstract_halted(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((), jnp.dtype("int32"), sharding=replicated(self.mesh))

    def _train_step(self, phase: Phase) -> TrainStep:
        recipe = phase.recipe
        key = jax.random.key(recipe.seed)
        settings = dataclasses.asdict(recipe.model) | {"dropout": phase.dropout}
        return TrainStep(
            self._training_model(settings),
            self.optimizer,
            recipe.label_smoothing,
            recipe.ema_decay,
            key,
            mixup=recipe.data.mixup,
            cutmix=recipe.data.cutmix,
            class_weights=self.class_weights,
            auxiliary_weight=recipe.model.auxiliary_weight,
            skip_non_finite=recipe.on_non_finite == "skip",
            trust_ratios=self.plan.recipe.optimizer.trust_ratios,
            normalise=self.normalise,
            trainable=partial(without_gradient, init=recipe.init),
            statistics=partial(with_fixed_statistics, init=recipe.init),
            micro_batches=phase.micro_batches,
            replicas_at_once=phase.replicas_at_once,
        )

    @property
    def normalise(self) -> Callable[[jax.Array], jax.Array]:
        """Function on the device from levels of 0..255 to the network's input."""
        data = self.plan.recipe.data
        return partial(normalise, mean_rgb=data.mean_rgb, stddev_rgb=data.stddev_rgb)

    def _training_model(self, settings: dict[str, Any]) -> Model:
        """Returns the network as it is trained."""
        model: Any = with_settings(self.model, settings)
        fixed = self.plan.recipe.init.fixed_statistics
        return model.clone(norm=partial(model.norm, fixed=fixed)) if fixed else model

    def lower_statistics_step(self) -> jax.stages.Lowered:
        """Returns the program that gives the BN statistics of one micro-batch of the first phase."""
        phase = self.plan.phases[0]
        settings = dataclasses.asdict(phase.recipe.model) | {"dropout": 0.0, "survival_probability": 1.0}
        model: Any = self._training_model(settings)
        model = model.clone(norm=partial(model.norm, momentum=0.0))
        batch = self.abstract_batch(phase.micro_batch, phase.image_size, phase.image_size, mask=False)
        step = compile_statistics_step(model, self.mesh, normalise=self.normalise)
        return step.lower(self.abstract_state().variables, batch)

    def lower_eval_steps(self) -> list[jax.stages.Lowered]:
        """Returns the programs that count one batch of evaluation, one for each of the plan's shapes."""
        variables = self.abstract_state().variables
        flip = self.plan.recipe.eval_flip
        step = compile_eval_step(self.model, self.mesh, flip=flip, normalise=self.normalise)
        shapes = [(height, width) for height, width, _ in self.plan.eval_shapes]
        return [
            step.lower(variables, self.abstract_batch(self.plan.eval_batch, *s, mask=True)) for s in shapes
        ]


def open_run(recipe: Recipe, source: Source | ImageNumbers | None = None) -> Run:
    """Returns the run of a recipe on the devices of all its hosts; nothing is compiled.

    ``source`` stands in for the recipe's images.

    Raises:
      UserError: the devices, the images or the numbers of the recipe are not possible.
    """
    return run_on(pod_runtime.start(recipe.platform, recipe.cpu_replicas), recipe, source)


def run_on(runtime: Runtime, recipe: Recipe, source: Source | ImageNumbers | None = None) -> Run:
    """Returns the run of a recipe on given devices, which need not be on this machine; nothing is compiled.

    The recipe's platform does not count. ``source`` stands in for its images.

    Raises:
      UserError: the images or the numbers of the recipe are not possible there.
    """
    source = source or open_images(recipe)
    plan = resolve(
        recipe,
        num_train=source.num_train,
        num_eval=source.num_eval,
        num_classes=source.num_classes,
        num_devices=len(runtime.devices),
        num_hosts=runtime.host_count,
        default_dtype=pod_runtime.default_compute_dtype(runtime.platform),
    )
    if isinstance(source, Source):
        plan = plan.with_warnings(source.warnings)
    plan, eval_order = _in_rectangles(plan, source)
    model, variables, optimizer, learning_rate = build(plan, packed=runtime.platform == "tpu")
    mesh = create_mesh(runtime.devices, recipe.bn_group_size)
    return Run(runtime, source, plan, mesh, model, variables, optimizer, learning_rate, eval_order)


def _in_rectangles(plan: Plan, source: Source | ImageNumbers) -> tuple[Plan, np.ndarray | None]:
    """Returns the plan with the shapes of evaluation images, and their order, if they are rectangles."""
    if plan.recipe.data.eval_crop != "rectangular" or not isinstance(source, Source):
        return plan, None
    from efficientnet_pod.data.pipeline import aspect_ratios  # imports TensorFlow

    ratios = aspect_ratios(source, exif=plan.recipe.data.exif)
    shapes = shapes_of(ratios, image_size=plan.image_size, eval_batch=plan.eval_batch)
    return dataclasses.replace(plan, eval_shapes=shapes), order_of(ratios)


def open_images(recipe: Recipe) -> Source:
    """Returns the recipe's images; raises UserError where they are not."""
    from efficientnet_pod.data.sources.opening import open_source  # imports TensorFlow

    data = recipe.data
    return open_source(
        data.name, data_dir=data.data_dir or None, train_split=data.train_split, eval_split=data.eval_split
    )


def with_balance(run: Run) -> Run:
    """Returns the run with the labels of its training images, if the recipe balances the classes.

    Raises:
      UserError: the labels cannot be had, or a table of weights names a class that the images do not have.
    """
    data = run.plan.recipe.data
    for field in ("class_weights", "sampling"):
        if getattr(data, field) == BALANCED:
            from efficientnet_pod.data.stored import labelled  # imports TensorFlow

            run = dataclasses.replace(run, source=labelled(run.images, field))
    _ = run.class_weights
    return run


def look_at_images(run: Run, *, splits: Sequence[str] = ("training", "evaluation")) -> None:
    """Looks for a few seconds at some images of these splits, before minutes of compilation.

    Raises:
      UserError: an image of the sample cannot be used, and none may be skipped.
    """
    from efficientnet_pod.data.bad_images import look_at_sample  # imports TensorFlow

    source, may_skip = run.images, run.plan.recipe.data.skip_corrupt > 0
    if "training" in splits and not may_skip:
        look_at_sample(source.train, split="training", may_skip=True)
    if "evaluation" in splits:
        look_at_sample(source.eval, split="evaluation", may_skip=False)


def image_numbers(recipe: Recipe) -> ImageNumbers:
    """Returns the numbers of a recipe's images; published ones where the images are elsewhere.

    Raises:
      UserError: the data is not here and nothing is known of it.
    """
    data, published = recipe.data, PUBLISHED_NUMBERS.get(recipe.data.name)
    folder = data.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    # Nothing is asked over a network, nor is TensorFlow loaded, to learn that images are not here.
    if published and (is_remote(folder) or not os.path.isdir(os.path.join(expanded(folder), data.name))):
        return published
    try:
        source = open_images(recipe)
    except UserError:
        if not published:
            raise
        return published
    return ImageNumbers(source.num_train, source.num_eval, source.num_classes)


def build(
    plan: Plan, *, packed: bool = False
) -> tuple[Model, dict[str, Any], optax.GradientTransformation, LearningRate]:
    """Returns the network, its variables as shapes and dtypes, the optimizer and its learning rate.

    ``packed`` networks put images side by side, which is faster on a TPU.
    """
    recipe = plan.recipe
    model = create_network(
        recipe.model.name,
        num_classes=plan.num_classes,
        dtype=jnp.dtype(plan.compute_dtype),
        bn_axis=BN_MEMBER,
        packed=packed,
        settings=dataclasses.asdict(recipe.model) | {"dropout": plan.dropout},
    )
    schedule = create_schedule(
        recipe.schedule,
        peak_lr=plan.peak_lr,
        steps_per_epoch=plan.steps_per_epoch,
        total_steps=plan.clock(plan.total_steps),
    )
    learning_rate = in_phases(
        schedule,
        [
            Stretch(p.first_step, plan.clock(p.first_step), p.recipe.global_batch / recipe.global_batch)
            for p in plan.phases
        ],
    )
    variables = abstract_variables(model, plan.image_size)
    recipe.init.check(variables["params"])
    optimizer = recipe.optimizer.transformation(learning_rate, variables["params"])
    optimizer = scaled(optimizer, recipe.init)
    return model, variables, optimizer, learning_rate
