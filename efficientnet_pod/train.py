"""The training loop, in the order things happen: restore, step, log, evaluate, save."""

import math
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import jax
from clu import parameter_overview

from efficientnet_pod.checkpoint import Checkpoints
from efficientnet_pod.describe import describe_devices, plan_table
from efficientnet_pod.errors import RunError
from efficientnet_pod.evaluate import evaluate
from efficientnet_pod.feed import train_batches
from efficientnet_pod.metrics import Counts, Rates, rates
from efficientnet_pod.phases import Phase
from efficientnet_pod.pod import runtime as pod_runtime
from efficientnet_pod.pod.mesh import prefetch_to_devices, replicated
from efficientnet_pod.pod.topology import describe_bn_groups
from efficientnet_pod.programs import Programs, TrainProgram, get_programs
from efficientnet_pod.progress import Display
from efficientnet_pod.recipe import read_recipe
from efficientnet_pod.records import MetricsLog, Workdir
from efficientnet_pod.run import Run, open_run
from efficientnet_pod.state import TrainState
from efficientnet_pod.waiting import InputWait


def train_and_evaluate(
    config: dict[str, Any], workdir_path: str, *, compile_apart: bool = False
) -> dict[str, Any]:
    """Trains the config's recipe to its end and returns the summary that ``summary.json`` holds.

    A workdir with checkpoints of the same config is resumed from the newest one, a finished one left alone.

    Args:
      config: a recipe as plain nested tables.
      workdir_path: of the run's records.
      compile_apart: see :func:`get_programs`.

    Raises:
      UserError: something asked for is impossible, and nothing has been compiled; or an image cannot be used.
      RunError: the loss is not finite.
    """
    run, workdir = open_run(read_recipe(config)), Workdir(workdir_path)
    plan, is_writer = run.plan, run.runtime.host_index == 0
    if is_writer:
        workdir.claim(config)
        workdir.write("plan.json", plan.as_dict())
    with Checkpoints(workdir.checkpoints, keep=plan.recipe.keep_checkpoints) as checkpoints:
        start = checkpoints.latest_step or 0
        if start == plan.total_steps and (workdir.path / "summary.json").exists():
            return workdir.read("summary.json")
        groups = describe_bn_groups(run.runtime.devices, plan.recipe.bn_group_size)
        with Display(total_steps=plan.total_steps, done=start, silent=not is_writer) as display:
            display.print(plan_table(plan, devices=describe_devices(run), bn_groups=groups), "")
            with display.phase("compiling"):
                programs = get_programs(run, workdir, start_step=start, apart=compile_apart)
            display.print(f"compiled in {programs.seconds:.0f} s")
            with closing(programs):
                if programs.init is None:
                    state = checkpoints.restore(start, run.abstract_state())
                    state = jax.device_put(state, replicated(run.mesh))
                    display.print(f"resumed from step {start:,} in {workdir.checkpoints}")
                else:
                    state = programs.init(run.initial_variables())
                log = TrainingLog(run, workdir, display, resumed_step=start)
                log.write_overview(state)
                _loop(run, programs, state, start, checkpoints, log)
    summary = log.summary(compile_seconds=programs.seconds, total_seconds=log.seconds)
    if is_writer:
        workdir.write("summary.json", summary)
    return summary


def _loop(
    run: Run, programs: Programs, state: TrainState, start: int, checkpoints: Checkpoints, log: "TrainingLog"
) -> None:
    """Runs steps ``start + 1`` to the last."""
    plan = run.plan
    log.skips = allowed_skips(run, log.display.warn)
    batches = prefetch_to_devices(train_batches(run, start_step=start, skips=log.skips), run.mesh)
    for phase in plan.phases_after(start):
        train_step = _enter(phase, programs, log)
        for step in range(max(start, phase.first_step) + 1, phase.last_step + 1):
            state, counts = train_step(state, log.input_wait.next(batches))
            log.input_wait.dispatched(counts)
            log.train_step(step, counts)  # reads the step before: this one is running
            if plan.is_eval_due(step):
                log.flush()
                variables = state.variables if plan.recipe.eval_raw else state.eval_variables
                with log.display.phase("evaluating"):
                    began = time.monotonic()
                    result = evaluate(run, programs.eval_step, variables)
                log.evaluation(step, result, seconds=time.monotonic() - began)
                checkpoints.save(step, state, metrics={"top1": result.top1, "loss": result.loss})
                log.last_checkpoint = step
                programs.raise_failure()


def _enter(phase: Phase, programs: Programs, log: "TrainingLog") -> TrainProgram:
    """Returns the program of a phase, and says how long the training has waited for it."""
    log.flush()
    began = time.monotonic()
    with log.display.phase("compiling"):
        train_step = programs.train_step(phase)
    log.phase(phase, waited=time.monotonic() - began)
    return train_step


def allowed_skips(run: Run, report: Callable[[str], None]) -> Any:
    """Returns the bad images a process may skip, a ``data.faults.Skips``; ``report`` gets a line on each."""
    from efficientnet_pod.data.faults import Skips

    return Skips(run.plan.recipe.data.skip_corrupt, report)


class TrainingLog:
    """Turns counts into rows of metrics, one step behind the device, and stops a run that went wrong."""

    def __init__(self, run: Run, workdir: Workdir, display: Display, *, resumed_step: int):
        """Starts the clock, after the time that earlier starts of this run took."""
        self._run, self._workdir, self.display = run, workdir, display
        self._is_writer = run.runtime.host_index == 0
        self._metrics = MetricsLog(workdir, resumed_step=resumed_step) if self._is_writer else None
        self._rows: list[dict[str, Any]] = self._metrics.rows if self._metrics else []
        rows = self._rows
        self._began = time.monotonic() - (rows[-1]["seconds"] if rows else 0.0)
        self.last_checkpoint = resumed_step
        self.skips: Any = None
        self._pending: tuple[int, Counts] | None = None
        self._window: list[Counts] = []
        self._window_began = time.monotonic()
        self._trained_images, self._trained_seconds = 0, 0.0
        self.input_wait, self._waited_before = InputWait(), 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the start of the run, those before a resume included, compilation excluded."""
        return time.monotonic() - self._began

    def write_overview(self, state: TrainState) -> None:
        """Writes ``parameters.txt``: every tensor with its shape, mean and spread at the start."""
        if self._is_writer:
            text = parameter_overview.get_parameter_overview(state.params)
            (self._workdir.path / "parameters.txt").write_text(text + "\n")

    def phase(self, phase: Phase, *, waited: float) -> None:
        """Says which phase begins, if there are any, and leaves the wait for its program out of the rates."""
        plan = self._run.plan
        if plan.recipe.phases:
            self.display.print(
                f"phase '{phase.name}' from epoch {plan.epoch(phase.first_step):.2f}: {phase.image_size} px, "
                f"{phase.recipe.global_batch:,} images a step; waited {waited:.1f} s for its program"
            )
        self._restart_window()

    def train_step(self, step: int, counts: Counts) -> None:
        """Takes the counts of a step just dispatched and reads those of the one before."""
        self._read_pending()
        self._pending = (step, counts)

    def flush(self) -> None:
        """Reads the last step's counts, which waits for the device, and ends the window of training."""
        self._read_pending()
        self._end_window()

    def evaluation(self, step: int, result: Rates, *, seconds: float) -> None:
        """Writes a row of evaluation."""
        self._require_finite(result.loss, "evaluation loss", step)
        row = self._row(step, "eval", result, images_per_second=result.images / seconds)
        self._write(row)
        self.display.print(
            f"epoch {row['epoch']:6.2f}  step {step:,}  eval   loss {result.loss:.4f}  "
            f"top-1 {result.top1:.2%}  top-5 {result.top5:.2%}  of {result.images:,} images"
        )
        self._restart_window()

    def summary(self, *, compile_seconds: float, total_seconds: float) -> dict[str, Any]:
        """Returns what ``summary.json`` holds."""
        evaluations = [row for row in self._rows if row["split"] == "eval"]
        final = evaluations[-1]
        best = max(evaluations, key=lambda row: (row["top1"], row["step"]))  # as the checkpoints have it
        rate = self._trained_images / self._trained_seconds if self._trained_seconds else None
        fields = ("step", "epoch", "top1", "top5", "loss", "images", "seconds")
        return {
            "final": {name: final[name] for name in fields},
            "best": {name: best[name] for name in fields},
            "best_top5": max(row["top5"] for row in evaluations),
            "compile_seconds": compile_seconds,
            "total_seconds": total_seconds,
            "images_per_second": rate,
            "input_wait": self.input_wait.seconds / self._trained_seconds if self._trained_seconds else None,
            "devices": {"count": len(self._run.runtime.devices), "kind": self._run.runtime.device_kind},
            "versions": pod_runtime.versions(),
        }

    def _restart_window(self) -> None:
        """Leaves out what was done since the last step, which is no training."""
        self._window_began = time.monotonic()
        self.input_wait.restart()

    def _read_pending(self) -> None:
        if self._pending is None:
            return
        step, counts = self._pending
        self._pending = None
        counts = jax.device_get(counts)
        self._require_finite(float(counts.loss), "training loss", step)
        self._window.append(counts)
        so_far = sum(int(c.images) for c in self._window)
        elapsed = time.monotonic() - self._window_began
        self.display.advance(step, images_per_second=so_far / elapsed)
        self._last_read = step
        if step % self._run.plan.recipe.log_steps == 0:
            self._end_window()

    def _end_window(self) -> None:
        """Writes a row for the steps since the last one."""
        if not self._window:
            return
        now = time.monotonic()
        result, elapsed = rates(self._window), now - self._window_began
        waited, self._waited_before = (
            self.input_wait.seconds - self._waited_before,
            self.input_wait.seconds,
        )
        self._trained_images += result.images
        self._trained_seconds += elapsed
        row = self._row(self._last_read, "train", result, images_per_second=result.images / elapsed)
        row["input_wait"] = waited / elapsed
        if self.skips and self.skips.allowed:
            row["skipped"] = len(self.skips.names)  # images that host 0 has skipped since it started
        plan = self._run.plan
        if plan.recipe.phases:
            phase = plan.phase_of(self._last_read)
            row |= {"image_size": phase.image_size, "global_batch": phase.recipe.global_batch}
        self._write(row)
        if not self.display.is_bar_shown:
            images_left = plan.images_seen(plan.total_steps) - plan.images_seen(self._last_read)
            left = images_left * elapsed / result.images
            self.display.print(
                f"epoch {row['epoch']:6.2f}  step {row['step']:,}  train  loss {result.loss:.4f}  "
                f"top-1 {result.top1:.2%}  lr {row['learning_rate']:.3g}  "
                f"{row['images_per_second']:,.0f} images/s  input wait {row['input_wait']:.0%}  "
                f"{left:.0f} s left"
            )
        self._window, self._window_began = [], now

    def _row(self, step: int, split: str, result: Rates, *, images_per_second: float) -> dict[str, Any]:
        return {
            "step": step,
            "epoch": self._run.plan.epoch(step),
            "split": split,
            "loss": result.loss,
            "top1": result.top1,
            "top5": result.top5,
            "images": result.images,
            # The one of the update that made this step, counted from 0.
            "learning_rate": float(self._run.learning_rate(step - 1)),
            "images_per_second": images_per_second,
            "seconds": self.seconds,
        }

    def _write(self, row: dict[str, Any]) -> None:
        if self._metrics:
            self._metrics.write(row)
        else:
            self._rows.append(row)

    def _require_finite(self, value: float, name: str, step: int) -> None:
        if not math.isfinite(value):
            good = f"step {self.last_checkpoint}" if self.last_checkpoint else "none"
            raise RunError(
                f"{name} is {value} between step {step - 1} and {step}, at learning rate "
                f"{float(self._run.learning_rate(step - 1)):.4g}; last good checkpoint: {good} in "
                f"{self._workdir.checkpoints}; lower the base learning rate or warm up longer"
            )
