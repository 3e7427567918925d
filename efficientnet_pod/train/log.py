"""The log of a training run: rows of metrics, lines on the terminal, and the summary."""

import dataclasses
import math
import time
from typing import Any

import numpy as np
from clu import parameter_overview

from efficientnet_pod.data.skips import Skips
from efficientnet_pod.errors import RunError
from efficientnet_pod.evaluate.confusions import Confusions
from efficientnet_pod.pod import hosts
from efficientnet_pod.pod import runtime as pod_runtime
from efficientnet_pod.pod.pace import by_host
from efficientnet_pod.recipe.phases import Phase
from efficientnet_pod.run.metrics import Counts, Rates, rates
from efficientnet_pod.run.run import Run
from efficientnet_pod.run.state import TrainState
from efficientnet_pod.run.train_step import Outcome
from efficientnet_pod.train.display import Display
from efficientnet_pod.train.report_files import ReportFiles
from efficientnet_pod.train.stragglers import slowest_host
from efficientnet_pod.workdir.journal import Journal
from efficientnet_pod.workdir.metrics_log import MetricsLog
from efficientnet_pod.workdir.trackers import Trackers
from efficientnet_pod.workdir.workdir import Workdir


@dataclasses.dataclass
class _Window:
    """The steps since the last row of training."""

    began: float
    counts: list[Counts] = dataclasses.field(default_factory=list)
    skipped_steps: int = 0
    paces: list[np.ndarray] = dataclasses.field(default_factory=list)


class TrainingLog:
    """Turns the outcomes of steps and evaluations into rows; only host 0 keeps them in the workdir.

    Attributes:
      display: terminal of this host.
      journal: events and time spent.
      input_wait: stop-watch of the wait for input.
      skips: unusable images skipped in this start; None before the first batch.
      skipped_steps: number of steps skipped in the whole run, because they were not finite.
    """

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
        self._metrics: MetricsLog | None = None
        self._trackers: Trackers | None = None
        if hosts.index() == 0:
            self._metrics = MetricsLog(workdir, resumed_step=resumed_step, warn=display.warn)
            recipe = run.plan.as_dict()["recipe"]
            names, say = run.plan.recipe.trackers, display.print
            self._trackers = Trackers(names, workdir, recipe, say=say, warn=display.warn)
        self._files = ReportFiles(run, workdir, resumed_step=resumed_step, warn=display.warn)
        self._rows: list[dict[str, Any]] = self._metrics.rows if self._metrics else []
        self._began = time.monotonic() - (self._rows[-1]["seconds"] if self._rows else 0.0)
        self._resumed_step = self._last_read = resumed_step
        self._window = _Window(time.monotonic())
        self._trained_images, self._trained_seconds = 0, 0.0
        self.input_wait, self._waited_before = journal.spent.input_wait, 0.0
        self.skips: Skips | None = None
        self._skips_in_journal: set[str] = set()
        self.skipped_steps = skipped_steps

    @property
    def seconds(self) -> float:
        """Seconds since the start of the run, earlier starts included, compilation excluded."""
        return time.monotonic() - self._began

    def begin(self, state: TrainState) -> None:
        """Says where the training begins; a new run writes ``parameters.txt``.

        The file has a line for every tensor: shape, mean and spread at the start.
        """
        self.display.begin_at(self._resumed_step)
        self.journal.quarantined()
        if self._resumed_step:
            self.display.print(f"resumed from step {self._resumed_step:,} in {self._workdir.checkpoints}")
        elif self._metrics:
            text = parameter_overview.get_parameter_overview(state.params)
            self._workdir.write_text("parameters.txt", text + "\n")

    def phase(self, phase: Phase, *, waited: float) -> None:
        """Prints which phase begins, if the recipe has phases; the wait for its program counts in no rate."""
        plan = self._run.plan
        if plan.recipe.phases:
            self.display.print(
                f"phase '{phase.name}' from epoch {plan.epoch(phase.first_step):.2f}: {phase.image_size} px, "
                f"{phase.recipe.global_batch:,} images a step; waited {waited:.1f} s for its program"
            )
            self.journal.write("phase", name=phase.name, waited=waited)
        self.restart_window()

    def take(self, step: int, outcome: Outcome) -> None:
        """Takes the outcome, on the host, of a step that ended; ignores a step that it has already."""
        if step <= self._last_read:
            return
        self._last_read = self.journal.step = step
        window = self._window
        if outcome.pace is not None:
            window.paces.append(by_host(outcome.pace))
        if outcome.updated:
            window.counts.append(outcome.counts)
        else:
            self.skipped_steps += 1
            window.skipped_steps += 1
            self.display.warn(f"step {step:,} is not finite and was skipped, at {self._learning_rate(step)}")
            self.journal.write("skipped_step")
        images = sum(int(counts.images) for counts in window.counts)
        self.display.advance(step, images_per_second=images / (time.monotonic() - window.began))
        if step % self._run.plan.recipe.log_steps == 0:
            if outcome.updated:
                self._files.trust_ratios(step, outcome.trust_ratios)
            self.flush()

    def flush(self) -> None:
        """Ends the window: writes a row for the steps since the last one; none if all were skipped."""
        self._journal_skipped_images()
        window, now = self._window, time.monotonic()
        if not window.counts:
            return
        result, seconds = rates(window.counts), now - window.began
        waited = self.input_wait.seconds - self._waited_before
        self._waited_before = self.input_wait.seconds
        self._trained_images += result.images
        self._trained_seconds += seconds
        row = self._row(self._last_read, "train", result, images_per_second=result.images / seconds)
        row["input_wait"] = waited / seconds
        if window.skipped_steps:
            row["skipped_steps"] = window.skipped_steps
        slowest = slowest_host(window.paces, seconds) if window.paces else None
        if slowest:
            row |= slowest.columns
        if self.skips and self.skips.allowed:
            row["skipped"] = len(self.skips.names)  # images that host 0 has skipped since it started
        plan = self._run.plan
        if plan.recipe.phases:
            phase = plan.phase_of(self._last_read)
            row |= {"image_size": phase.image_size, "global_batch": phase.recipe.global_batch}
        self._write(row)
        images_left = plan.images_seen(plan.total_steps) - plan.images_seen(self._last_read)
        self.display.print(
            f"epoch {row['epoch']:6.2f}  step {row['step']:,}  train  loss {result.loss:.4f}  "
            f"top-1 {result.top1:.2%}  lr {row['learning_rate']:.3g}  "
            f"{row['images_per_second']:,.0f} images/s  input wait {row['input_wait']:.0%}  "
            f"{images_left * seconds / result.images:.0f} s left"
            + (f"  slowest {slowest}" if slowest and slowest.is_slow else "")
        )
        self._window = _Window(now)

    def rewind(self, step: int) -> None:
        """Drops the rows of the steps after ``step``, which are made again from other images."""
        self._window = _Window(time.monotonic())
        self._last_read = self.journal.step = step
        self._files.rewind(step)
        if self._metrics:
            self._metrics.drop_after(step)
        self.restart_window()

    def restart_window(self) -> None:
        """Restarts the clock of the window, so that time without training counts in no rate."""
        self._window.began = time.monotonic()
        self.input_wait.restart()

    def close(self) -> None:
        """Writes what is held back, and closes the files."""
        self._files.flush()
        if self._metrics:
            self._metrics.close()
        if self._trackers:
            self._trackers.close(ended_well=self.journal.ended_well)

    def evaluation(
        self, step: int, result: Rates, *, seconds: float, confusions: Confusions | None = None
    ) -> None:
        """Writes the row of an evaluation and its predictions; all hosts come here together."""
        if not math.isfinite(result.loss):
            raise RunError(
                f"evaluation loss is {result.loss} after step {step}, at {self._learning_rate(step)}; "
                f"checkpoints are in {self._workdir.checkpoints}; lower the base learning rate or warm up "
                "longer"
            )
        if confusions:  # first: an evaluation with a row is not made again
            self._files.predictions(step, confusions, result)
        self._files.flush()
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
        """Returns the contents of ``summary.json``; only on host 0, which has the rows.

        ``compile_seconds`` and the rates cover the last start. ``seconds_of`` covers all starts, by the
        journal (:meth:`.Journal.seconds_of`); its sum is the wall time after the first compilation began.
        ``goodput`` covers all starts and the time between them.
        """
        goodput = self.journal.goodput()
        evaluations = [row for row in self._rows if row["split"] == "eval"]
        final = evaluations[-1]
        best = max(evaluations, key=lambda row: (row["top1"], row["step"]))  # as the checkpoints choose it
        rate = self._trained_images / self._trained_seconds if self._trained_seconds else None
        fields = ("step", "epoch", "top1", "top5", "loss", "images", "seconds")
        return {
            "final": {name: final[name] for name in fields},
            "best": {name: best[name] for name in fields},
            "best_top5": max(row["top5"] for row in evaluations),
            "compile_seconds": compile_seconds,
            "total_seconds": total_seconds,
            "seconds_of": self.journal.seconds_of(),
            "goodput": {"share": goodput.share, "seconds": goodput.seconds},
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
            **dataclasses.asdict(result),
            # The rate of the update that made this step, counted from 0.
            "learning_rate": float(self._run.learning_rate(step - 1)),
            "images_per_second": images_per_second,
            "seconds": self.seconds,
        }

    def _journal_skipped_images(self) -> None:
        if not self.skips or len(self.skips.names) > self.skips.allowed:  # one too many ends the run instead
            return
        names = self.skips.names.copy()
        for name in sorted(names - self._skips_in_journal):
            self.journal.write("skipped_image", name=name)
        self._skips_in_journal |= names

    def _drop_evaluation(self, step: int) -> None:
        """Drops the row of a start that was killed between row and checkpoint."""
        stale = [row for row in self._rows if row["step"] == step and row["split"] == "eval"]
        if stale and self._metrics:
            self._rows[:] = [row for row in self._rows if row not in stale]
            self._metrics.drop_after(step)

    def _write(self, row: dict[str, Any]) -> None:
        if self._metrics:
            self._metrics.write(row)
        if self._trackers:
            self._trackers.write(row)

    def _learning_rate(self, step: int) -> str:
        return f"learning rate {float(self._run.learning_rate(step - 1)):.4g}"
