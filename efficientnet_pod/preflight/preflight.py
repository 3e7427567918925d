"""A preflight from start to end: one recipe, or the points of a sweep, compiled, printed and written."""

import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console

from efficientnet_pod.errors import UserError
from efficientnet_pod.pod import runtime as pod_runtime
from efficientnet_pod.pod import terminal
from efficientnet_pod.pod.runtime import Runtime
from efficientnet_pod.pod.terminal import plural
from efficientnet_pod.preflight.compile import compile_run
from efficientnet_pod.preflight.estimate import Estimate, estimate_run
from efficientnet_pod.preflight.measure import measure_programs
from efficientnet_pod.preflight.remedy import remedy
from efficientnet_pod.preflight.show.as_json import estimate_as_json
from efficientnet_pod.preflight.show.report import print_report
from efficientnet_pod.preflight.show.sweep import print_sweep
from efficientnet_pod.preflight.sweep import fastest_and_cheapest, parse_sweep, run_sweep, sweep_points
from efficientnet_pod.preflight.targets import Target, parse_target, runtime_for, target_here
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.recipe.recipe import AUTO, Recipe
from efficientnet_pod.recipe.rules import possible_replicas
from efficientnet_pod.run.auto_replicas import fewest_replicas
from efficientnet_pod.run.memory import Need
from efficientnet_pod.run.run import ImageNumbers, image_numbers, run_on
from efficientnet_pod.workdir.files import require_output, write_result
from efficientnet_pod.workdir.values import to_json


@dataclasses.dataclass(frozen=True)
class Preflight:
    """A preflight; its fields are the flags of the command.

    Attributes:
      topology: name of the machine; None for this one.
      sweep: field and values to compare, such as ``replicas=8,32``, or None.
      measure: whether to run the programs on the devices here.
      json: file for the numbers, or None.
      hlo: file for the programs' optimised text, or None.
      cache: folder of programs compiled before; None for the user's cache.
      zone: zone of Google Cloud that the price is for; empty for the range over all regions.
    """

    topology: str | None
    sweep: str | None
    measure: bool
    json: str | None
    hlo: str | None
    cache: str | None
    zone: str = ""

    def run(self, config: dict[str, Any]) -> None:
        """Compiles a recipe for a machine, prints the report and writes the files.

        Raises:
          UserError: the recipe does not fit, or it or the machine is not possible.
        """
        sweep = parse_sweep(self.sweep) if self.sweep else None
        recipe = read_recipe(config)
        for flag, path in (("--json", self.json), ("--hlo", self.hlo), ("--cache", self.cache)):
            if path is not None:
                require_output(path, flag, folder=flag == "--cache")
        console = terminal.console()
        target = None if self.topology is None else parse_target(self.topology)
        if self.zone and (target is None or target.chip.platform != "tpu"):
            raise UserError(f"--zone={self.zone} is for the price of a TPU; leave it out")
        if sweep and target:
            estimate, rows = self._sweep(recipe, target, *sweep, console=console)
        else:
            estimate, rows = self._estimate_one(recipe, target), {}
        print_report(estimate, console)
        try:
            self._write_hlo(estimate)
        finally:
            if self.json:
                document = to_json(estimate_as_json(estimate) | rows, indent=1) + "\n"
                write_result(self.json, document.encode(), or_print=True)
        if not estimate.fits:
            model = estimate.run.plan.recipe.model.name
            raise UserError(f"{model} does not fit {estimate.target.name}; {remedy(estimate)}")

    def _estimate_one(self, recipe: Recipe, target: Target | None) -> Estimate:
        """Returns the estimate on the target or, to measure, on this machine, which must be the target."""
        if target and (target.chip.platform == "cpu" or not self.measure):
            return self._estimate(recipe, target, runtime_for(target))
        runtime = pod_runtime.start(target.chip.platform if target else recipe.platform, recipe.cpu_replicas)
        here = target_here(runtime)
        if target and target.name != here.name:
            raise UserError(
                f"--measure runs on the devices here, {here.name}; leave out --topology={target.name}, "
                "or --measure"
            )
        return self._estimate(recipe, here, runtime)

    def _sweep(
        self, recipe: Recipe, target: Target, field: str, values: tuple[str, ...], *, console: Console
    ) -> tuple[Estimate, dict[str, Any]]:
        """Prints the table of a sweep; returns the estimate of its best point, and all points as JSON."""
        points = sweep_points(recipe, target, field, values)
        most = max(point.target.replicas for point in points)

        def estimate(recipe: Recipe, target: Target) -> Estimate:
            return self._estimate(recipe, target, runtime_for(target, cpu_devices=most))

        swept = run_sweep(points, estimate)
        fastest, cheapest = fastest_and_cheapest(swept)
        print_sweep(field, swept, fastest, cheapest, console)
        best = fastest or next((point for point in swept if point.estimate), None)
        if best is None or best.estimate is None:
            raise UserError(f"no {field} of the sweep is possible; the first: {swept[0].reason}")
        console.print(f"\n{field} {best.value}:")
        rows = [
            {field: point.value, "fastest": point is fastest, "cheapest": point is cheapest}
            | (estimate_as_json(point.estimate) if point.estimate else {"fits": False, "why": point.reason})
            for point in swept
        ]
        return best.estimate, {"sweep": rows}

    def _estimate(self, recipe: Recipe, target: Target, runtime: Runtime) -> Estimate:
        images = image_numbers(recipe)
        if recipe.replicas != AUTO:
            return self._estimate_on(recipe, target, runtime, images)
        found: dict[int, Estimate] = {}

        def needs(replicas: int) -> list[Need | None]:
            fixed = dataclasses.replace(recipe, replicas=replicas)
            found[replicas] = self._estimate_on(fixed, target, runtime, images)
            return found[replicas].needs()

        return found[fewest_replicas(possible_replicas(recipe, target.replicas), needs)]

    def _estimate_on(
        self, recipe: Recipe, target: Target, runtime: Runtime, images: ImageNumbers
    ) -> Estimate:
        run = run_on(runtime, recipe, images)
        cache, console = Path(self.cache or pod_runtime.default_cache()), terminal.console(stderr=True)
        replicas = f", {plural(run.plan.num_replicas, 'replica')}" if recipe.replicas else ""
        compilation = compile_run(
            run, cache=cache, machine=target.name + replicas, console=console, to_run=self.measure
        )
        estimate = estimate_run(run, target, compilation)
        measured = measure_programs(run, compilation.programs) if self.measure else {}
        return dataclasses.replace(estimate, measured=measured, zone=self.zone)

    def _write_hlo(self, estimate: Estimate) -> None:
        if self.hlo:
            for step in estimate.steps:
                path = Path(self.hlo)
                if step is not estimate.train:
                    path = path.with_name(f"{path.stem}.{step.name.replace(' ', '.')}{path.suffix}")
                write_result(str(path), step.compiled.output.text.encode())
