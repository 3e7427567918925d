"""A plan and a network as text for a person: what will run, and of what it is made."""

import math
import re
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Group, RenderableType
from rich.table import Table

from efficientnet_pod.optim import Treatment
from efficientnet_pod.plan import Plan, optimizer_name


def plan_table(plan: Plan, *, devices: str, bn_groups: str) -> Table:
    """Returns the resolved numbers, a line for each part of the run.

    Args:
      plan: the numbers.
      devices: what the replicas are, e.g. ``"8 × cpu"``.
      bn_groups: how the BN groups lie on the devices.
    """
    recipe, schedule = plan.recipe, plan.recipe.schedule
    decay = {
        "polynomial": f"polynomial, power {schedule.power:g}, to {schedule.end_lr:g}",
        "exponential": f"× {schedule.decay_rate:g} every {schedule.decay_epochs:g} epochs",
        "cosine": f"half a cosine, to {schedule.end_lr:g}",
        "constant": "constant",
    }[schedule.name]
    table = Table.grid(padding=(0, 2))
    rows = [
        ("model", f"EfficientNet-{recipe.model.name.upper()}, {plan.num_classes:,} classes, {plan.image_size} px, "
                  f"{plan.compute_dtype} convolutions"),
        ("data", f"{recipe.data.name}: {plan.num_train:,} to train, {plan.num_eval:,} to evaluate"),
        ("replicas", f"{devices}, {plan.num_hosts} host{'s' * (plan.num_hosts > 1)}"),
        ("batch", f"{recipe.global_batch:,} global, {plan.per_replica_batch:,} per replica"),
        ("batch norm", f"{plan.bn_batch:,} images together; {bn_groups}"),
        ("steps", f"{plan.total_steps:,} = {recipe.epochs:g} epochs of {plan.steps_per_epoch:,.2f}"),
        ("optimizer", f"{optimizer_name(recipe)}, {recipe.optimizer.lr_per_256:g} per 256 images"),
        ("learning rate", f"0 to {plan.peak_lr:g} in {plan.warmup_steps:,} steps "
                          f"({schedule.warmup_epochs:g} epochs); then {decay}"),
        ("evaluation", f"every {recipe.eval_epochs:g} epochs, {plan.eval_steps:,} steps of {plan.eval_batch:,}"),
    ]  # fmt: skip
    for name, value in rows:
        table.add_row(name, value)
    for warning in plan.warnings:
        table.add_row("[yellow]warning[/]", warning)
    return table


def model_table(model: Any, image_size: int) -> Table:
    """Returns a row for each block with its output and parameters, and the totals with the FLOPs of an image.

    FLOPs are XLA's count of one forward pass, two for a multiply-add. Nothing is compiled or run.
    """
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)

    def forward(variables: Any, x: jax.Array) -> Any:
        return model.apply(variables, x, train=False, capture_intermediates=True, mutable=["intermediates"])

    _, captured = jax.eval_shape(forward, variables, images)
    flops = jax.jit(lambda v, x: model.apply(v, x, train=False)).lower(variables, images).cost_analysis()
    table = Table("layer", "output", "parameters", show_footer=True, box=None, pad_edge=False)
    table.columns[2].justify = "right"
    for name, parameters in _in_forward_order(variables["params"]):
        shape = captured["intermediates"][name]["__call__"][0].shape[1:]
        table.add_row(name, " × ".join(map(str, shape)), f"{_size(parameters):,}")
    table.columns[0].footer = "total"
    table.columns[1].footer = f"{flops['flops'] / 1e9:,.2f} GFLOPs an image" if flops else ""
    table.columns[2].footer = f"{_size(variables['params']):,}"
    return table


def treatment_table(treatments: Iterable[Treatment]) -> RenderableType:
    """Returns which kinds of tensors are decayed and which get a trust ratio; blocks are folded together."""
    kinds: dict[tuple[str, bool, bool], list[int]] = {}
    for path, shape, decayed, adapted in treatments:
        kind = re.sub(r"block\d+[a-z]", "block*", path)
        kinds.setdefault((kind, decayed, adapted), []).append(math.prod(shape))
    table = Table("tensor", "count", "parameters", "decayed", "adapted", box=None, pad_edge=False)
    for column in (1, 2):
        table.columns[column].justify = "right"
    for (kind, decayed, adapted), sizes in kinds.items():
        flags = ["yes" if flag else "–" for flag in (decayed, adapted)]
        table.add_row(kind, str(len(sizes)), f"{sum(sizes):,}", *flags)
    return Group(table)


def _in_forward_order(params: dict[str, Any]) -> list[tuple[str, Any]]:
    place = {"stem": 0, "block": 1, "head": 2, "classifier": 3}
    key = lambda name: (next(p for prefix, p in place.items() if name.startswith(prefix)), "bn" in name, name)  # noqa: E731
    return [(name, params[name]) for name in sorted(params, key=key)]


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
