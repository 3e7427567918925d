"""The command ``preflight``: what a recipe needs, takes and costs on a machine that need not be here."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from absl import flags
from rich.console import Console

from efficientnet_pod.cli.flags import parse_flags
from efficientnet_pod.errors import UserError
from efficientnet_pod.preflight.quiet import quiet_libraries

if TYPE_CHECKING:
    from efficientnet_pod.pod.runtime import Runtime
    from efficientnet_pod.preflight.estimate import Estimate
    from efficientnet_pod.preflight.targets import Target
    from efficientnet_pod.recipe.recipe import Recipe

_EXAMPLE = "--topology=v3:16x32"


def run_preflight(arguments: Sequence[str]) -> None:
    """Compiles a recipe for a machine and prints what follows; raises `UserError` if it does not fit."""
    values = parse_flags("preflight", arguments, _define, config=True)
    if values.topology is None and not values.measure:
        raise UserError(f"preflight needs --topology, e.g. {_EXAMPLE}")
    if values.sweep and values.measure:
        raise UserError("--measure runs one recipe; leave out --sweep, or measure its points one by one")
    with quiet_libraries():  # of the CUDA plug-in, which JAX loads at once, and which misses a driver
        from efficientnet_pod.preflight.sweep import parse_sweep
        from efficientnet_pod.recipe.recipe import read_recipe

    sweep = parse_sweep(values.sweep) if values.sweep else None
    recipe = read_recipe(values.config.to_dict())
    for path in filter(None, (values.json, values.hlo)):
        _require_folder(path)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(100, console.width)  # of a file or a pipe nothing is known
    if sweep:
        _sweep(recipe, values, *sweep, console=console)
    else:
        _one(recipe, values, console=console)


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "topology",
        None,
        "Machine: v3:16x32 (chips of a TPU), v3-1024 (by its number of cores), cuda:h100x8, cpu:8.",
        flag_values=values,
    )
    flags.DEFINE_string("json", None, "File for the numbers, as JSON.", flag_values=values)
    about = "File for the train step's optimised HLO; the names of other programs are put into its own."
    flags.DEFINE_string("hlo", None, about, flag_values=values)
    about = (
        "Compile several and mark the fastest and the cheapest: per_replica_batch=16,32,64 (the global batch "
        "follows), topology=v3:4x4,v3:8x8 or replicas=32,128 (the global batch stays)."
    )
    flags.DEFINE_string("sweep", None, about, flag_values=values)
    about = "Also run ten steps on the devices here, with random images."
    flags.DEFINE_bool("measure", False, about, flag_values=values)
    about = "Folder of programs compiled before; by default in this user's cache."
    flags.DEFINE_string("cache", None, about, flag_values=values)


def _one(recipe: "Recipe", values: Any, *, console: Console) -> None:
    from efficientnet_pod.preflight.show.as_json import as_json
    from efficientnet_pod.preflight.show.report import print_report
    from efficientnet_pod.preflight.targets import parse_target, runtime_for

    target = parse_target(values.topology) if values.topology else None
    if values.measure:
        target, runtime = _devices_here(recipe, target)
    else:
        assert target
        runtime = runtime_for(target)
    found = _estimate(recipe, target, runtime, values)
    print_report(found, console)
    _write(values, as_json(found), found)
    _require_fit(found)


def _sweep(recipe: "Recipe", values: Any, field: str, wanted: tuple[str, ...], *, console: Console) -> None:
    from efficientnet_pod.preflight.show.as_json import as_json
    from efficientnet_pod.preflight.show.report import print_report
    from efficientnet_pod.preflight.show.sweep import print_sweep
    from efficientnet_pod.preflight.sweep import best, points, run_sweep
    from efficientnet_pod.preflight.targets import parse_target, runtime_for

    waiting = points(recipe, parse_target(values.topology), field, wanted)
    most = max(point.target.replicas for point in waiting)

    def estimate(recipe: "Recipe", target: "Target") -> "Estimate":
        return _estimate(recipe, target, runtime_for(target, cpu_devices=most), values)

    swept = run_sweep(waiting, estimate)
    fastest, cheapest = best(swept)
    print_sweep(field, swept, fastest, cheapest, console)
    told = fastest or next((point for point in swept if point.found), None)
    if told is None or told.found is None:
        raise UserError(f"no {field} of the sweep is possible; the first: {swept[0].why}")
    console.print(f"\n{field} {told.value}:")
    print_report(told.found, console)
    document = as_json(told.found)
    document["sweep"] = [
        {field: point.value, "fastest": point is fastest, "cheapest": point is cheapest}
        | (as_json(point.found) if point.found else {"fits": False, "why": point.why})
        for point in swept
    ]
    _write(values, document, told.found)
    _require_fit(told.found)


def _estimate(recipe: "Recipe", target: "Target", runtime: "Runtime", values: Any) -> "Estimate":
    import dataclasses

    from efficientnet_pod.preflight.cache import default_cache
    from efficientnet_pod.preflight.compile import compile_run
    from efficientnet_pod.preflight.estimate import estimate
    from efficientnet_pod.preflight.measure import measure
    from efficientnet_pod.run.run import image_numbers, run_on

    run = run_on(runtime, recipe, SimpleNamespace(**image_numbers(recipe)))
    cache = Path(values.cache) if values.cache else default_cache()
    terminal = Console(stderr=True, highlight=False)
    made = compile_run(run, cache=cache, what=target.name, console=terminal, to_run=values.measure)
    found = estimate(run, target, made)
    if values.measure:
        found = dataclasses.replace(found, measured=measure(run, made.programs))
    return found


def _devices_here(recipe: "Recipe", target: "Target | None") -> "tuple[Target, Runtime]":
    """Returns the machine this is; raises `UserError` if another one was named."""
    from efficientnet_pod.pod import runtime as pod_runtime
    from efficientnet_pod.preflight.targets import here, runtime_for

    if target and target.chip.platform == "cpu":
        return target, runtime_for(target)
    runtime = pod_runtime.start(target.chip.platform if target else recipe.platform, recipe.cpu_replicas)
    found = here(runtime)
    if target and target.name != found.name:
        raise UserError(
            f"--measure runs on the devices here, {found.name}; leave out --topology={target.name}, "
            "or --measure"
        )
    return found, runtime


def _require_folder(path: str) -> None:
    if not Path(path).absolute().parent.is_dir():
        raise UserError(
            f"'{path}' cannot be written: there is no folder '{Path(path).parent}'; make it first"
        )


def _write(values: Any, document: dict[str, Any], found: "Estimate") -> None:
    if values.json:
        Path(values.json).write_text(json.dumps(document, indent=1) + "\n")
    if values.hlo:
        path = Path(values.hlo)
        for step in found.steps:
            main = step is found.train
            name = path if main else path.with_name(f"{path.stem}.{step.name.replace(' ', '.')}{path.suffix}")
            name.write_text(step.compiled.said.text)


def _require_fit(found: "Estimate") -> None:
    from efficientnet_pod.preflight.remedy import remedy

    if not found.fits:
        config = found.run.plan.recipe.model.name
        raise UserError(f"{config} does not fit {found.target.name}; {remedy(found)}")
