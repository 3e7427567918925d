"""Any weights on any images: a run's checkpoint or a file of weights, on all devices of all hosts."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from etils import epath

from efficientnet_pod.errors import UserError
from efficientnet_pod.evaluate.calibration import Calibration
from efficientnet_pod.evaluate.confusions import Confusions
from efficientnet_pod.evaluate.evaluate import Collect, evaluate
from efficientnet_pod.evaluate.overrides import PER_REPLICA, Overrides, config_for, labels_by_name
from efficientnet_pod.evaluate.summary import Evaluation
from efficientnet_pod.models.amoebanet import AUXILIARY
from efficientnet_pod.models.registry import network_named
from efficientnet_pod.pod import hosts, runtime
from efficientnet_pod.pod.mesh import share_from_first_host
from efficientnet_pod.pod.runtime import compilation_cache
from efficientnet_pod.pod.terminal import console, progress_bar
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.identity import identity_of
from efficientnet_pod.run.metrics import Rates
from efficientnet_pod.run.programs import eval_step_of
from efficientnet_pod.run.run import Run, look_at_images, open_images, run_on
from efficientnet_pod.weights.classes import readable
from efficientnet_pod.weights.open import checkpoint_at, open_weights
from efficientnet_pod.weights.trained import Trained
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints
from efficientnet_pod.workdir.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Subject:
    """The facts about evaluated weights that every host must know.

    Attributes:
      title: name of the network, for people.
      num_classes: number of classes; None if it is not known.
      class_names: names by label; empty if they are not known.
      origin: history of the weights, for people; empty for a checkpoint.
      warnings: sentences on what their file states and is not kept.
      workdir: folder of the run; None for weights that are not a run's.
      checkpoint: ``"best"``, ``"latest"`` or a step of the run.
      replica_images: images of a replica and step of the run; 0 for weights that are not a run's.
      is_fixed: whether the run's recipe sets the number of replicas.
    """

    title: str
    num_classes: int | None
    class_names: Sequence[str]
    origin: dict[str, Any] = dataclasses.field(default_factory=dict)
    warnings: Sequence[str] = ()
    workdir: str | None = None
    checkpoint: str = ""
    replica_images: int = 0
    is_fixed: bool = False


def evaluate_path(
    path: str,
    overrides: Overrides,
    *,
    is_workdir: bool = False,
    checkpoint: str = "best",
    raw: bool = False,
    warn: Callable[[str], None],
) -> Evaluation | None:
    """Returns the evaluation of the weights at a path, on host 0; None on the others. Every host calls it.

    Args:
      path: a workdir or any path that :func:`.open_weights` takes.
      overrides: settings of the evaluation that differ from the weights' own.
      is_workdir: whether the path must be a workdir.
      checkpoint: of a run: ``"best"``, ``"latest"`` or a step.
      raw: take the raw weights, not the averaged ones.
      warn: gets warnings of one line, on host 0.

    Raises:
      UserError: there are no such weights or images, or they do not fit each other or the devices.
    """
    variables, config, subject = None, {}, None
    if hosts.index() == 0:
        if place := (Workdir(path), checkpoint) if is_workdir else checkpoint_at(path, checkpoint):
            config, subject = _checkpoint(*place, overrides)
        else:
            variables, config, subject = _other_weights(path, overrides, raw=raw)
    config, facts = hosts.from_first("config", [config, subject and dataclasses.asdict(subject)])
    subject = Subject(**facts)
    run, matched, warnings = _run_of(config, overrides, subject, path)
    for warning in warnings:
        if hosts.index() == 0:
            warn(warning)
    hosts.agree("the run", identity_of(run))
    look_at_images(run, splits=("evaluation",))
    confusions, calibration = Confusions(run.plan.num_classes), Calibration()

    def collect(*batch: Any) -> None:
        confusions.add(*batch)
        calibration.add(*batch)

    step, origin = None, subject.origin
    if subject.workdir:
        workdir = Workdir(subject.workdir)
        step, rates = evaluate_checkpoint(run, workdir, subject.checkpoint, raw=raw, collect=collect)
        origin = {"source": subject.workdir, "step": step, "checkpoint": subject.checkpoint, "raw": raw}
    else:
        rates = evaluate_weights(run, variables, collect=collect)
    pairs = confusions.merged(rates.images)
    try:
        bins = calibration.merged(rates.images)
    except ValueError as error:
        raise UserError(f"{error}: '{path}' is damaged, or made for images of another size") from error
    if pairs is None or bins is None:
        return None
    network = run.plan.recipe.model.name
    return Evaluation(
        weights={"path": path, "title": subject.title, "network": network, "origin": origin},
        settings=_settings(run) | matched,
        class_names=readable(run.images.class_names),
        rates=rates,
        pairs=pairs,
        calibration=bins,
        step=step,
    )


def _checkpoint(workdir: Workdir, which: str, overrides: Overrides) -> tuple[dict[str, Any], Subject]:
    """Returns the config that evaluates a checkpoint, and the facts about it."""
    config = overrides.applied(workdir.read("config.json"))
    names = workdir.read("data.json")["class_names"] if (workdir.path / "data.json").exists() else None
    subject = Subject(
        title=network_named(config["model"]["name"]).title,
        num_classes=len(names) if names else None,
        class_names=names or (),
        workdir=str(workdir.path),
        checkpoint=which,
        replica_images=_replica_images(workdir),
        is_fixed=bool(config.get("replicas")),
    )
    return config, subject


def _replica_images(workdir: Workdir) -> int:
    """Returns the images of a replica in a step of the run; 0 where it has left no plan."""
    has_plan = (workdir.path / "plan.json").exists()
    return workdir.read("plan.json")["per_replica_batch"] if has_plan else 0


def _other_weights(
    path: str, overrides: Overrides, *, raw: bool
) -> tuple[dict[str, Any], dict[str, Any], Subject]:
    """Returns the variables of weights that are no run's, their config, and the facts about them."""
    trained = open_weights(path, raw=raw)
    if not overrides.data:
        raise UserError(
            f"'{path}' comes without a recipe that names images; add --data, e.g. --data=folder:/photos"
        )
    subject = Subject(
        trained.title, trained.num_classes, trained.class_names, dict(trained.origin), trained.warnings
    )
    return dict(trained.variables), overrides.applied(config_for(trained)), subject


def _run_of(
    config: dict[str, Any], overrides: Overrides, subject: Subject, path: str
) -> tuple[Run, dict[str, Any], list[str]]:
    """Returns the run whose images have the weights' labels, how labels were matched, and warnings.

    Raises:
      UserError: the images have other classes than the weights, or the devices do not suit.
    """
    recipe = read_recipe(config)
    if overrides.image_size:
        network_named(recipe.model.name).require_size(overrides.image_size, "image-size")
    here = runtime.start(recipe.platform, recipe.cpu_replicas, insist=False)
    replicas = len(here.devices)
    is_other_cpu = here.platform == "cpu" and replicas != recipe.cpu_replicas * here.host_count
    if overrides.batch and overrides.batch % replicas:
        raise UserError(
            f"--batch={overrides.batch} is not a multiple of the {replicas} replicas; make it one"
        )
    if not overrides.batch and not subject.workdir:
        recipe = dataclasses.replace(recipe, global_batch=PER_REPLICA * replicas)
    # The replicas of a training step, and their groups, do not count here.
    if subject.replica_images and (subject.is_fixed or is_other_cpu):
        batch = overrides.batch or subject.replica_images * replicas
        recipe = dataclasses.replace(recipe, global_batch=batch, replicas=0, bn_group_size=1, phases=())
    images = open_images(recipe)
    labels, warnings, classes = None, [*subject.warnings, *images.warnings], images.num_classes
    if subject.num_classes:
        labels, warning = labels_by_name(
            subject.num_classes, subject.class_names, images.class_names, weights=path, data=images.name
        )
        warnings += [warning] if warning else []
    data = recipe.data
    is_flat = data.train_split == data.eval_split and images.num_train != images.num_eval
    if data.name.startswith("folder:") and is_flat:
        warnings.append(
            f"'{images.name}' has no split folders: a fixed tenth of each class is evaluated, "
            f"{images.num_eval:,} images; --split=all takes all of them"
        )
    if labels and labels != tuple(range(subject.num_classes or 0)):
        images = images.relabelled(subject.class_names, labels)
    matched = {"matched_by": "number" if labels is None else "name", "image_classes": classes}
    return run_on(here, recipe, images), matched, warnings


def images_for(trained: Trained, path: str, overrides: Overrides) -> tuple[Run, list[str]]:
    """Returns a run whose images weights of this process can be shown as uint8, and warnings.

    Args:
      trained: the weights.
      path: where they come from, for messages.
      overrides: settings of the evaluation; ``data`` is given.

    Raises:
      UserError: there are no such images, or their classes are not those of the weights.
    """
    config = overrides.applied(config_for(trained))
    config["data"] |= {"link_dtype": "uint8"}
    subject = Subject(trained.title, trained.num_classes, trained.class_names)
    run, _, warnings = _run_of(config, overrides, subject, path)
    look_at_images(run, splits=("evaluation",))
    return run, warnings


def evaluate_weights(
    run: Run,
    variables: dict[str, Any] | None,
    *,
    programs: epath.Path | None = None,
    collect: Collect | None = None,
) -> Rates:
    """Returns the rates of weights on the images of a run, with a bar on host 0's terminal.

    Args:
      run: run with the images and the network.
      variables: parameters and BN statistics as numpy arrays on host 0; None on all others.
      programs: folder for host 0's compiled programs; None: they are not kept.
      collect: see :func:`.evaluate.evaluate`.

    Raises:
      UserError: an image cannot be used.
    """
    shared = share_from_first_host(variables, run.abstract_state().variables, run.mesh)
    is_first = hosts.index() == 0
    with compilation_cache(programs) if programs and is_first else nullcontext():
        eval_step = eval_step_of(run, [lowered.compile() for lowered in run.lower_eval_steps()])
    terminal = console(stderr=True, quiet=not is_first)
    with progress_bar("evaluating", total=run.plan.eval_steps, unit="batches", on=terminal) as advance:
        rates = evaluate(run, eval_step, shared, progress=lambda: advance(1), collect=collect)
    assert rates is not None  # nobody stops it
    return rates


def evaluate_checkpoint(
    run: Run, workdir: Workdir, which: str, *, raw: bool, collect: Collect | None = None
) -> tuple[int, Rates]:
    """Returns the step of a checkpoint, ``"best"``, ``"latest"`` or a number, and its rates.

    ``run`` is of the recipe that made it. With ``raw``, the rates are those of the weights without averaging.

    Raises:
      UserError: no such checkpoint.
    """
    step, variables = 0, None
    if hosts.index() == 0:
        if not workdir.checkpoints.exists():
            raise UserError(f"no checkpoints in '{workdir.path}'; --workdir must name the folder of a run")
        checkpoints = Checkpoints(workdir.checkpoints)
        step = checkpoints.named(which)
        variables = checkpoints.variables(step, run.variables, averaged=not raw, optional=AUXILIARY)
    step = hosts.from_first("step", step)
    return step, evaluate_weights(run, variables, programs=workdir.programs, collect=collect)


def _settings(run: Run) -> dict[str, Any]:
    plan, data = run.plan, run.plan.recipe.data
    crops = {"rectangular": "crops in rectangles", "stretched": "central crops, stretched to squares"}
    crop = crops.get(data.eval_crop, "central crops")
    is_whole = data.augment != "inception_crop"
    share = "" if is_whole else f" ({100 * data.eval_crop_share:.4g} %)"
    mirrored = ", each and its mirror image" if plan.recipe.eval_flip else ""
    return {
        "data": run.images.name,
        "seen": f"{'whole images' if is_whole else crop} of {plan.image_size} px{share}{mirrored}",
        "split": data.eval_split,
        "classes": plan.num_classes,
        "image_size": plan.image_size,
        "augment": data.augment,
        "resize": data.resize,
        "exif": data.exif,
        "eval_crop": data.eval_crop,
        "eval_crop_share": None if is_whole else data.eval_crop_share,
        "flip": plan.recipe.eval_flip,
        "batch": plan.eval_batch,
        "replicas": plan.num_replicas,
        "hosts": plan.num_hosts,
        "compute_dtype": plan.compute_dtype,
        "link_dtype": plan.link_dtype,
    }
