"""Tables of a plan, a network and an optimizer, for people."""

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from efficientnet_pod.data.host_cores import describe_input
from efficientnet_pod.models.registry import network_named
from efficientnet_pod.optim.optimizers import Treatment, treatment
from efficientnet_pod.pod import runtime, terminal
from efficientnet_pod.pod.terminal import plural
from efficientnet_pod.pod.topology import describe_bn_groups
from efficientnet_pod.recipe.plan import Plan, optimizer_name, resolve
from efficientnet_pod.recipe.recipe import AUTO, BALANCED, Recipe
from efficientnet_pod.recipe.rectangles import describe_shapes
from efficientnet_pod.run.run import Run, build, image_numbers, open_run


def print_plan(
    recipe: Recipe,
    *,
    replicas: int | None,
    warnings: Sequence[str] = (),
    replica_rate: float | None = None,
    replicas_per_host: int | None = None,
    console: Console | None = None,
) -> None:
    """Prints the plan, the network and what the optimizer does to each kind of tensor; runs nothing.

    Args:
      recipe: the recipe to plan.
      replicas: number of replicas of a machine that need not be here; None plans for the devices of this one.
      warnings: warnings to stand behind those of the plan.
      replica_rate: images/s that one replica trains, for the host cores its input needs; None: not known.
      replicas_per_host: number of replicas that one host feeds; None: as here, or 8 on another machine.
      console: destination; standard output by default.

    Raises:
      UserError: the recipe is impossible there.
    """
    console = console or terminal.console()
    if replicas is None:
        run = open_run(recipe)
        plan, model, variables = run.plan, run.model, run.variables
        devices, groups = describe_devices(run), bn_groups_text(run)
    else:
        runtime.start("cpu", None)  # only to count FLOPs
        plan = resolve(
            recipe,
            **dataclasses.asdict(image_numbers(recipe)),
            num_devices=replicas,
            num_hosts=1,
            default_dtype=runtime.default_compute_dtype(recipe.platform),
        )
        model, variables, _, _ = build(plan)
        devices = _on_devices(plan, f"{replicas:,} (not here)")
        groups = f"{plan.num_replicas // recipe.bn_group_size:,} groups of {recipe.bn_group_size:,} replicas"
        if recipe.data.eval_crop == "rectangular":
            plan = dataclasses.replace(plan, eval_shapes=())  # the images are not read
    per_host = replicas_per_host or (8 if replicas else plan.num_devices // plan.num_hosts)
    table = plan_table(plan.with_warnings(warnings), devices=devices, bn_groups=groups)
    if text := describe_input(plan, replica_rate=replica_rate, replicas_per_host=per_host):
        table.add_row("input", text)
    console.print(table, "")
    console.print(model_table(model, variables, plan.image_size), "")
    console.print(treatment_table(treatment(recipe.optimizer, variables["params"])))


def describe_devices(run: Run) -> str:
    """Returns e.g. ``"8 × cpu, 1 host"``; with more replicas than devices also the parts of a step."""
    hosts = plural(run.runtime.host_count, "host")
    return _on_devices(run.plan, f"{len(run.runtime.devices):,} × {run.runtime.device_kind}, {hosts}")


def _on_devices(plan: Plan, devices: str) -> str:
    if plan.recipe.replicas == AUTO:
        return f"{devices}; replicas=auto: a start takes the fewest that fit its memory"
    if not plan.is_accumulated:
        return devices
    parts = plural(plan.micro_batches, "micro-batch", "micro-batches")
    images = plan.micro_batch // plan.num_devices
    return f"{plan.num_replicas:,} on {devices}: {parts} of {plural(images, 'image')} a device"


def bn_groups_text(run: Run) -> str:
    """Returns one line on the BN groups, such as ``64 groups of 16 replicas, tiles of 2x4 chips``."""
    plan, size = run.plan, run.plan.recipe.bn_group_size
    if not plan.is_accumulated:
        return describe_bn_groups(run.runtime.devices, size)
    groups = f"{plural(plan.num_replicas // size, 'group')} of {plural(size, 'replica')}"
    if plan.replicas_at_once > 1:
        return f"{groups}, {plan.replicas_at_once} of them at once on each device"
    return groups if size == 1 else f"{groups}, on {plural(size, 'device')} each"


def plan_table(plan: Plan, *, devices: str, bn_groups: str) -> Table:
    """Returns the resolved numbers, a line for each part; ``devices`` and ``bn_groups`` are texts."""
    recipe, schedule = plan.recipe, plan.recipe.schedule
    model = f"{network_named(recipe.model.name).title}, {plan.num_classes:,} classes"
    decay = {
        "polynomial": f"polynomial, power {schedule.power:g}, to {schedule.end_lr:g}",
        "exponential": f"× {schedule.decay_rate:g} every {schedule.decay_epochs:g} epochs"
        + (f", at least {schedule.end_lr:g}" if schedule.end_lr else ""),
        "cosine": f"half a cosine, to {schedule.end_lr:g}",
        "constant": "constant",
        "piecewise": "",
    }[schedule.name]
    batch_changes = any(phase.recipe.global_batch != recipe.global_batch for phase in plan.phases)
    of_steps = "" if batch_changes else f" of {plan.steps_per_epoch:,.2f}"
    of_batch = f", at {recipe.global_batch:,} images a step" if batch_changes else ""
    table = Table.grid(padding=(0, 2))
    rows = [
        ("model", f"{model}, {plan.image_size} px, {plan.compute_dtype} convolutions"),
        ("data", f"{recipe.data.name}: {plan.num_train:,} to train, {plan.num_eval:,} to evaluate"),
        ("replicas", devices),
        ("batch", f"{recipe.global_batch:,} global, {plan.per_replica_batch:,} per replica"),
        ("batch norm", f"{plan.bn_batch:,} images together; {bn_groups}"),
        ("steps", f"{plan.total_steps:,} = {recipe.epochs:g} epochs{of_steps}"),
        ("optimizer", f"{optimizer_name(recipe)}, {recipe.optimizer.lr_per_256:g} per 256 images"),
        ("learning rate", _piecewise(plan) if schedule.name == "piecewise" else
                          f"0 to {plan.peak_lr:g} in {plan.warmup_steps:,} steps "
                          f"({schedule.warmup_epochs:g} epochs{of_batch}); then {decay}"),
        ("evaluation", f"every {recipe.eval_epochs:g} epochs, in batches of {plan.eval_batch:,}, "
                       f"{describe_shapes(plan.eval_shapes)}"),
    ]  # fmt: skip
    if end := _early_end(recipe):
        rows.append(("ends early", end))
    if classes := _classes(recipe):
        rows.append(("classes", classes))
    weights = [("weights", str(recipe.init))] if recipe.init.weights else []
    for name, value in rows + weights + _phase_rows(plan):
        table.add_row(name, value)
    for note in recipe.notes:
        table.add_row("note", note)
    for warning in plan.warnings:
        table.add_row(Text("warning", style="yellow"), warning)
    return table


def _early_end(recipe: Recipe) -> str:
    """Returns what ends the run before its last epoch; empty if nothing does."""
    stop, texts = recipe.stop, []
    if stop.at_top1:
        texts.append(f"at a top-1 of {100 * stop.at_top1:.6g} %")
    if stop.patience_epochs:
        texts.append(f"after {stop.patience_epochs:g} epochs without a better one")
    return ", or ".join(texts)


def _classes(recipe: Recipe) -> str:
    """Returns how the classes are balanced; empty if they are not."""
    weights, texts = recipe.data.class_weights, []
    if weights != "none":
        shown = weights if isinstance(weights, str) else ", ".join(f"{name} {w:g}" for name, w in weights[:5])
        texts.append(
            f"loss weighed by class: {shown}" + (" …" if len(weights) > 5 and shown != weights else "")
        )
    if recipe.data.sampling == BALANCED:
        texts.append("images drawn by class, each equally often")
    return "; ".join(texts)


def _piecewise(plan: Plan) -> str:
    """Returns e.g. ``"0 at epoch 0, 0.4 at 5, 0 at 24"``."""
    epochs = plan.recipe.epochs
    knots = [
        f"{plan.peak_lr * height:.4g} at {epochs * share:g}" for share, height in plan.recipe.schedule.knots
    ]
    return ", ".join(knots).replace(" at ", " at epoch ", 1)


def _phase_rows(plan: Plan) -> list[tuple[str, str]]:
    """Returns a row for each phase of the training, if the recipe names any."""
    rows = []
    named = plan.phases if plan.recipe.phases else ()
    for phase, settings in zip(named, plan.recipe.phases, strict=True):
        batch = phase.recipe.global_batch
        others = {k: v for k, v in settings.overrides.items() if k not in ("image_size", "global_batch")}
        epochs = [f"{plan.epoch(step):.2f}" for step in (phase.first_step, phase.last_step)]
        value = (
            f"epoch {epochs[0]} to {epochs[1]}, step {phase.first_step + 1:,} to {phase.last_step:,}: "
            f"{phase.image_size} px; {batch:,} global, {phase.per_replica_batch:,} per replica, "
            f"{phase.bn_batch:,} together; learning rate × {batch / plan.recipe.global_batch:g}"
        )
        rows.append((f"phase {phase.name}", value + "".join(f"; {k} {v:g}" for k, v in others.items())))
    return rows


def model_table(model: Any, variables: Any, image_size: int) -> Table:
    """Returns a row for each block with its output and parameters, and the totals with the FLOPs of an image.

    FLOPs are XLA's count of one forward pass, two for a multiply-add. Nothing is compiled or run.
    """
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)

    def forward(variables: Any, x: jax.Array) -> Any:
        return model.apply(variables, x, train=False, capture_intermediates=True, mutable=["intermediates"])

    traced = jax.jit(forward).trace(variables, images)
    captured, flops = traced.out_info[1], traced.lower().cost_analysis()
    table = terminal.table("layer", "output", "parameters", left=2)
    table.show_footer = True
    for name, parameters in _in_forward_order(variables["params"]):
        called = captured["intermediates"].get(name)  # the second classifier is not, in evaluation
        shape = " × ".join(map(str, called["__call__"][0].shape[1:])) if called else "in training"
        table.add_row(name, shape, f"{_size(parameters):,}")
    table.columns[0].footer = "total"
    table.columns[1].footer = f"{flops['flops'] / 1e9:,.2f} GFLOPs an image" if flops else ""
    table.columns[2].footer = f"{_size(variables['params']):,}"
    return table


def treatment_table(treatments: Iterable[Treatment]) -> Table:
    """Returns which kinds of tensors are decayed and which get a trust ratio; blocks are folded together."""
    kinds: dict[tuple[str, bool, bool], list[int]] = {}
    for path, shape, decayed, adapted in treatments:
        kind = re.sub(r"block\d+[a-z](/state\d_\w+)?", lambda m: "block*/state*" if m[1] else "block*", path)
        kinds.setdefault((kind, decayed, adapted), []).append(math.prod(shape))
    table = terminal.table("tensor", "count", "parameters", "decayed", "adapted")
    for column in table.columns[3:]:
        column.justify = "left"
    for (kind, decayed, adapted), sizes in kinds.items():
        flags = ["yes" if flag else "–" for flag in (decayed, adapted)]
        table.add_row(kind, str(len(sizes)), f"{sum(sizes):,}", *flags)
    return table


def _in_forward_order(params: dict[str, Any]) -> list[tuple[str, Any]]:
    parts = ("stem", "block", "head", "auxiliary", "classifier")

    def place(name: str) -> tuple[int, bool, str]:
        number = next(number for number, part in enumerate(parts) if name.startswith(part))
        return number, "bn" in name, name

    return [(name, params[name]) for name in sorted(params, key=place)]


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
