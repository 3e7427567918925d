"""What a training run writes down: rows of metrics, one step behind the devices, and its summary."""

import math
import time
from typing import Any

from clu import parameter_overview

from efficientnet_pod.errors import RunError
from efficientnet_pod.evaluate.confusions import Findings
from efficientnet_pod.pod import runtime as pod_runtime
from efficientnet_pod.recipe.phases import Phase
from efficientnet_pod.run.metrics import Counts, Rates, rates
from efficientnet_pod.run.run import Run
from efficientnet_pod.run.state import TrainState
from efficientnet_pod.run.train_step import Outcome
from efficientnet_pod.train.display import Display
from efficientnet_pod.train.recording import Recording
from efficientnet_pod.workdir.journal import Journal
from efficientnet_pod.workdir.workdir import MetricsLog, Workdir


class TrainingLog:
    """Turns the outcomes of steps into rows of metrics; only host 0 keeps them in the workdir."""

    def __init__(
        self,
        run: Run,
        workdir: Workdir,
        display: Display,
        journal: Journal,
        *,
        resumed_step: int,
        skipped_steps: int = 0,
    ):
        """Starts the clock, after the time that earlier starts of this run took."""
        self._run, self._workdir, self.display, self.journal = run, workdir, display, journal
        self._metrics = None
        if run.runtime.host_index == 0:
            self._metrics = MetricsLog(workdir, resumed_step=resumed_step, report=display.warn)
        self._recording = Recording(run, workdir, resumed_step=resumed_step, report=display.warn)
        self._rows: list[dict[str, Any]] = self._metrics.rows if self._metrics else []
        rows = self._rows
        self._began = time.monotonic() - (rows[-1]["seconds"] if rows else 0.0)
        self.skips: Any = None
        self.skipped_steps = skipped_steps
        self._last_read = resumed_step
        self._skipped = 0
        self._window: list[Counts] = []
        self._window_began = time.monotonic()
        self._trained_images, self._trained_seconds = 0, 0.0
        self.input_wait, self._waited_before = journal.spent.input_wait, 0.0
        self._skipped_images: set[str] = set()

    @property
    def seconds(self) -> float:
        """Seconds since the start of the run, those before a resume included, compilation excluded."""
        return time.monotonic() - self._began

    def write_overview(self, state: TrainState) -> None:
        """Writes ``parameters.txt``: every tensor with its shape, mean and spread at the start."""
        if self._metrics:
            text = parameter_overview.get_parameter_overview(state.params)
            self._workdir.write_text("parameters.txt", text + "\n")

    def phase(self, phase: Phase, *, waited: float) -> None:
        """Says which phase begins, if there are any, and leaves the wait for its program out of the rates."""
        plan = self._run.plan
        if plan.recipe.phases:
            self.display.print(
                f"phase '{phase.name}' from epoch {plan.epoch(phase.first_step):.2f}: {phase.image_size} px, "
                f"{phase.recipe.global_batch:,} images a step; waited {waited:.1f} s for its program"
            )
            self.journal.write("phase", name=phase.name, waited=waited)
        self.restart_window()

    def take(self, step: int, outcome: Outcome) -> None:
        """Takes the outcome, on the host, of a step that ended; a step that it has already is left out."""
        if step <= self._last_read:
            return
        self._last_read = self.journal.step = step
        if outcome.updated:
            self._window.append(outcome.counts)
        else:
            self.skipped_steps += 1
            self._skipped += 1
            self.display.warn(f"step {step:,} is not finite and was skipped, at {self._learning_rate(step)}")
            self.journal.write("skipped_step")
        so_far = sum(int(c.images) for c in self._window)
        elapsed = time.monotonic() - self._window_began
        self.display.advance(step, images_per_second=so_far / elapsed)
        if step % self._run.plan.recipe.log_steps == 0:
            if outcome.updated:
                self._recording.trust_ratios(step, outcome.trust_ratios)
            self.flush()

    def flush(self) -> None:
        """Ends the window: writes a row for the steps since the last one; none if all were skipped."""
        self._note_skipped_images()
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
        if self._skipped:
            row["skipped_steps"] = self._skipped
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
        self._window, self._window_began, self._skipped = [], now, 0

    def rewind(self, step: int) -> None:
        """Forgets the rows of the steps after ``step``, which are made again from other images."""
        self._window, self._skipped = [], 0
        self._last_read = self.journal.step = step
        self._recording.rewind(step)
        if self._metrics:
            self._metrics.drop_after(step)
        self.restart_window()

    def restart_window(self) -> None:
        """Leaves out what was done since the last step, which is no training."""
        self._window_began = time.monotonic()
        self.input_wait.restart()

    def close(self) -> None:
        """Writes out what is held back."""
        self._recording.flush()
        if self._metrics:
            self._metrics.close()

    def evaluation(
        self, step: int, result: Rates, *, seconds: float, findings: Findings | None = None
    ) -> None:
        """Writes a row of evaluation, and what it has found for each image; all hosts come here together."""
        self._require_finite(result.loss, "evaluation loss", step)
        if findings:  # first: an evaluation with a row is not made again
            self._recording.predictions(step, findings, result)
        self._recording.flush()
        self._drop_evaluation(step)
        row = self._row(step, "eval", result, images_per_second=result.images / seconds)
        self._write(row)
        self.display.print(
            f"epoch {row['epoch']:6.2f}  step {step:,}  eval   loss {result.loss:.4f}  "
            f"top-1 {result.top1:.2%}  top-5 {result.top5:.2%}  of {result.images:,} images"
        )
        self.journal.write("evaluated", step, seconds=seconds)
        self.restart_window()

    def summary(self, *, compile_seconds: float, total_seconds: float) -> dict[str, Any]:
        """Returns what ``summary.json`` holds; only on host 0, which has the rows.

        Of the last start are ``compile_seconds`` and the rates. ``seconds_of`` is of all starts, carried over
        by the journal (:meth:`Journal.seconds_of`); it adds up to their wall time, but for what is done
        before programs are compiled.
        """
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
            "seconds_of": self.journal.seconds_of(),
            "images_per_second": rate,
            "input_wait": self.input_wait.seconds / self._trained_seconds if self._trained_seconds else None,
            "skipped_steps": self.skipped_steps,
            "devices": {"count": len(self._run.runtime.devices), "kind": self._run.runtime.device_kind},
            "versions": pod_runtime.versions(),
        }

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

    def _note_skipped_images(self) -> None:
        names: set[str] = self.skips.names.copy() if self.skips else set()
        if self.skips and len(names) <= self.skips.allowed:  # one too many is not skipped, but ends the run
            for name in sorted(names - self._skipped_images):
                self.journal.write("skipped_image", name=name)
            self._skipped_images |= names

    def _drop_evaluation(self, step: int) -> None:
        """Drops the row of a start that wrote it and was killed before its checkpoint knew of it."""
        made = [row for row in self._rows if row["step"] == step and row["split"] == "eval"]
        if made and self._metrics:
            self._rows[:] = [row for row in self._rows if row not in made]
            self._metrics.drop_after(step)

    def _write(self, row: dict[str, Any]) -> None:
        if self._metrics:
            self._metrics.write(row)

    def _require_finite(self, value: float, name: str, step: int) -> None:
        if not math.isfinite(value):
            raise RunError(
                f"{name} is {value} after step {step}, at {self._learning_rate(step)}; checkpoints are in "
                f"{self._workdir.checkpoints}; lower the base learning rate or warm up longer"
            )

    def _learning_rate(self, step: int) -> str:
        return f"learning rate {float(self._run.learning_rate(step - 1)):.4g}"
