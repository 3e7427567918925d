"""The rules of a recipe: what its fields may hold together, and on a number of replicas."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import suppress

from efficientnet_pod.errors import UserError
from efficientnet_pod.models.registry import NEUTRAL, network_named
from efficientnet_pod.optim.fine_tuning import TRAIN
from efficientnet_pod.pod.terminal import plural
from efficientnet_pod.pod.topology import check_bn_group_size, divisors
from efficientnet_pod.recipe.recipe import BALANCED, PhaseSettings, Recipe


def check_recipe(recipe: Recipe, num_devices: int) -> None:
    """Raises UserError if the recipe, or what one of its phases makes of it, is impossible on the devices.

    The message has the value, the rule and the remedy.
    """
    num_replicas = recipe.replicas_on(num_devices)
    _check_devices(recipe, num_devices)
    _check(recipe, num_replicas, lambda field: f"config.{field}")
    for settings in recipe.phases:
        path = f"config.phases.{settings.name}"
        _check(
            recipe.in_phase(settings),
            num_replicas,
            lambda field, path=path: f"{path}.{field.rpartition('.')[2]}",
        )
    _check_second_classifier(recipe)
    _check_order(recipe.phases, recipe.epochs)


def possible_replicas(recipe: Recipe, num_devices: int) -> list[int]:
    """Returns the numbers of replicas that a recipe may have on the devices, ascending.

    Raises:
      UserError: there is none.
    """
    least, found = recipe.replicas_on(num_devices), []
    check_recipe(dataclasses.replace(recipe, replicas=least), num_devices)
    for replicas in divisors(recipe.global_batch):
        with suppress(UserError):
            if replicas % least == 0:
                check_recipe(dataclasses.replace(recipe, replicas=replicas), num_devices)
                found.append(replicas)
    return found


def recomputing(recipe: Recipe) -> str:
    """Returns the advice to compute activations anew; empty where that is done, or the network cannot."""
    if recipe.model.recompute or "recompute" not in network_named(recipe.model.name).settings:
        return ""
    return "; or --config.model.recompute=True: less memory for a third more computing"


def check_weights(recipe: Recipe) -> None:
    """Raises UserError if a recipe that trains given weights names none; only training needs them."""
    if lack := lack_of_weights(recipe):
        raise UserError(lack)


def lack_of_weights(recipe: Recipe) -> str:
    """Returns that the recipe trains given weights and names none; empty if it is not so."""
    init = recipe.init
    if init.weights or not (init.frozen or init.lr_factors or init.bn_statistics != TRAIN):
        return ""
    return (
        "config.init.frozen, lr_factors and bn_statistics are for weights that exist; name them: "
        "--config.init.weights=PATH"
    )


def _check(recipe: Recipe, num_replicas: int, full: Callable[[str], str]) -> None:
    """Checks a recipe without its phases; ``full`` returns the name of a field in the config."""
    _check_network(recipe, full)
    _check_images(recipe, full)
    _check_batches(recipe, num_replicas, full("global_batch"))


def _check_network(recipe: Recipe, full: Callable[[str], str]) -> None:
    name = recipe.model.name
    network = network_named(name)
    for field, neutral in NEUTRAL.items():
        value = getattr(recipe.model, field)
        is_neutral = value <= 0 if field == "dropout" else value == neutral
        if field not in network.settings and not is_neutral:
            path = full(f"model.{field}")
            raise UserError(f"{path}={value} is nothing that {name} has; set --{path}={neutral}")


def _check_second_classifier(recipe: Recipe) -> None:
    """Raises UserError if phases change the image's size, on which the second classifier's shape depends."""
    size = recipe.data.image_size
    for phase in recipe.phases if recipe.model.auxiliary_weight else ():
        if phase.image_size not in (None, size):
            raise UserError(
                f"config.phases.{phase.name}.image_size={phase.image_size} is another than "
                f"config.data.image_size={size or 'the network'}, and the second classifier of "
                f"config.model.auxiliary_weight={recipe.model.auxiliary_weight:g} is made for one size; set "
                "--config.model.auxiliary_weight=0"
            )


def _check_images(recipe: Recipe, full: Callable[[str], str]) -> None:
    data = recipe.data
    if data.eval_crop != "square" and data.augment != "inception_crop":
        raise UserError(
            f"config.data.eval_crop={data.eval_crop} is for crops; config.data.augment={data.augment} "
            "evaluates whole images; use square, or --config.data.augment=inception_crop"
        )
    on_the_way = data.policy != "none" or data.color_offsets or data.erasing
    if data.in_memory and (data.augment == "inception_crop" or on_the_way):
        offsets = " and color_offsets=True" if data.color_offsets else ""
        offsets += f" and erasing={data.erasing:g}" if data.erasing else ""
        raise UserError(
            "config.data.in_memory=True is for shift and pad_crop_flip without a policy, not for "
            f"config.data.augment={data.augment} with policy={data.policy}{offsets}; "
            "use --config.data.in_memory=False"
        )
    if data.in_memory and data.sampling == BALANCED:
        raise UserError(
            "config.data.sampling=balanced draws images by their classes, and config.data.in_memory=True by "
            "whole epochs; use --config.data.in_memory=False"
        )
    network = network_named(recipe.model.name)
    size = data.image_size or network.image_size
    network.require_size(size, full("data.image_size"))
    if data.max_shift >= size:
        raise UserError(
            f"{full('data.image_size')}={size} pixels must be above config.data.max_shift="
            f"{data.max_shift}; lower --config.data.max_shift"
        )


def _check_devices(recipe: Recipe, num_devices: int) -> None:
    """Checks that the replicas can be laid on the devices, whole BN groups at a time."""
    replicas, group = recipe.replicas_on(num_devices), recipe.bn_group_size
    if replicas % num_devices:
        nearest = max(1, round(replicas / num_devices)) * num_devices
        fewer = next(n for n in range(num_devices, 0, -1) if replicas % n == 0)
        raise UserError(
            f"config.replicas={replicas} is not a multiple of the {plural(num_devices, 'device')}; the "
            f"nearest that is: --config.replicas={nearest}; or take {plural(fewer, 'device')}"
        )
    if not recipe.replicas and group > num_devices and group % num_devices == 0:
        raise UserError(
            f"config.bn_group_size={group} does not divide the {plural(replicas, 'replica')}, one a device; "
            f"keep the group: --config.replicas={group}, or lower it: --config.bn_group_size={num_devices}"
        )
    check_bn_group_size(group, replicas)
    if replicas > num_devices and num_devices % group and group % num_devices:
        possible = (n for n in range(num_devices, 0, -1) if not n % group or not group % n)
        fewer = next(n for n in possible if replicas % n == 0)
        raise UserError(
            f"config.bn_group_size={group} replicas normalise together, and {plural(num_devices, 'device')} "
            "can compute neither one such group at a time nor several: one number must divide the other; "
            f"take {plural(fewer, 'device')}"
        )


def _check_batches(recipe: Recipe, num_replicas: int, field: str) -> None:
    global_batch, ghost_batch = recipe.global_batch, recipe.model.ghost_batch
    per_replica_batch, rest = divmod(global_batch, num_replicas)
    if rest:
        below = per_replica_batch * num_replicas
        near = [n for n in (below, below + num_replicas) if n > 0]
        nearest = min(near, key=lambda n: abs(n - global_batch))
        raise UserError(
            f"{field}={global_batch} is not a multiple of the {num_replicas} replicas; "
            f"the nearest that is: --{field}={nearest}"
        )
    check_bn_group_size(recipe.bn_group_size, num_replicas)
    if ghost_batch and recipe.bn_group_size != 1:
        raise UserError(
            f"config.model.ghost_batch={ghost_batch} lets parts of a replica's images normalise together, "
            f"and config.bn_group_size={recipe.bn_group_size} those of several replicas; set "
            "--config.bn_group_size=1"
        )
    if ghost_batch and per_replica_batch % ghost_batch:
        nearest = max(n for n in divisors(per_replica_batch) if n <= ghost_batch)
        raise UserError(
            f"config.model.ghost_batch={ghost_batch} does not divide a replica's {per_replica_batch:,} "
            f"images; the nearest below that does: --config.model.ghost_batch={nearest}"
        )


def _check_order(phases: Sequence[PhaseSettings], epochs: float) -> None:
    """Checks that phases, sorted by their beginning, start at 0 and at different epochs of the run."""
    for before, phase in zip((None, *phases), phases, strict=False):
        field = f"config.phases.{phase.name}.from_epoch"
        begins = f"{field}={phase.from_epoch:g}"
        if before is None and phase.from_epoch != 0:
            raise UserError(f"{begins} is where the first phase begins; it must be 0: --{field}=0")
        if before is not None and phase.from_epoch == before.from_epoch:
            raise UserError(
                f"{begins} is where phase '{before.name}' begins too; two phases cannot begin together: "
                "move one of them"
            )
        if phase.from_epoch >= epochs:
            raise UserError(
                f"{begins} is not before the end of the run; it must be below config.epochs={epochs:g}: "
                "begin the phase earlier or train longer"
            )
