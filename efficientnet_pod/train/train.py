"""A training run from start to end, in the order things happen."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from efficientnet_pod.pod import hosts, inject
from efficientnet_pod.pod.interrupt import Interrupt
from efficientnet_pod.pod.peers import Peers
from efficientnet_pod.pod.watchdog import Watchdog
from efficientnet_pod.recipe.fields import without_effect
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.recipe.rules import check_weights
from efficientnet_pod.run.identity import identity_of
from efficientnet_pod.run.programs import Programs
from efficientnet_pod.run.run import Run, look_at_images, open_run, with_balance
from efficientnet_pod.train.display import Display
from efficientnet_pod.train.early_end import ended_by
from efficientnet_pod.train.ending import Ending
from efficientnet_pod.train.log import TrainingLog
from efficientnet_pod.train.loop import Training
from efficientnet_pod.train.profile import Profile
from efficientnet_pod.train.saves import Position, Saves
from efficientnet_pod.train.start import (
    compile_and_place,
    find_replicas,
    find_start,
    open_checkpoints,
    open_initial_weights,
    open_journal,
    print_plan,
    take_workdir,
)
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints
from efficientnet_pod.workdir.files import is_remote, reason
from efficientnet_pod.workdir.trackers import require_packages
from efficientnet_pod.workdir.workdir import Workdir


def train_and_evaluate(
    config: dict[str, Any],
    workdir_path: str,
    *,
    overrides: Sequence[str] = (),
    interrupt: Interrupt | None = None,
    peers: Peers | None = None,
) -> dict[str, Any]:
    """Trains the config's recipe to its end and returns the contents of ``summary.json``.

    The end is the last epoch, or by :func:`.ended_by`. A workdir with checkpoints of the same config is
    resumed from the newest good one; a finished run is left alone. Every host of the run calls this; only
    host 0 touches the workdir.

    Args:
      config: a recipe as plain nested tables.
      workdir_path: folder of the run.
      overrides: dotted names of the fields that the user has set; those without effect are warned of.
      interrupt: entered by the caller; by default the run has one of its own.
      peers: joined by the caller; None for a run on this host alone.

    Raises:
      UserError: something asked for is impossible, and nothing has been compiled; or an image cannot be used.
      RunError: the run cannot go on: a loss that is not finite, a checkpoint that cannot be written.
      Preempted: it was told to stop, and everything done is saved.
    """
    peers = peers or Peers()
    own_interrupt = interrupt is None
    interrupt = interrupt or Interrupt()
    with Ending(interrupt, peers) as ending:
        if own_interrupt:
            ending.hold(interrupt)
        with interrupt.nothing_to_lose():
            inject.at("starting")
            recipe = read_recipe(config)
            check_weights(recipe)
            require_packages(recipe.trackers if hosts.index() == 0 else ())
            workdir = Workdir(workdir_path)
            run = open_run(recipe)
            hosts.agree("the run", identity_of(run))
            look_at_images(run)
            run = with_balance(run)
            display = ending.hold(Display(total_steps=run.plan.total_steps, silent=hosts.index() > 0))
            # Before the workdir is taken: a mistake in the path of weights must not bind it to this config.
            initial = open_initial_weights(run, workdir)
            owner, claim = take_workdir(workdir, config, display, ending)
            run = find_replicas(run, workdir, claim, display)
            unread = without_effect(recipe, overrides)
            run = dataclasses.replace(run, plan=run.plan.with_warnings(unread))
            checkpoints = open_checkpoints(run, workdir, claim, display, ending)
            start = find_start(run, workdir, checkpoints, initial)
            if start.summary:
                return start.summary
            print_plan(run, display, initial)
            journal = open_journal(run, workdir, start, display, ending)
            programs, state = compile_and_place(run, workdir, start, display, journal, ending)
        step = start.position.step
        log = TrainingLog(
            run, workdir, display, journal, resumed_step=step, skipped_steps=start.skipped_steps
        )
        ending.close_with(log.close)
        log.begin(state)
        stacks = None if hosts.index() or is_remote(workdir.path) else Path(workdir.path)
        watchdog = Watchdog(run.plan.recipe.stuck_seconds, report_folder=stacks, on_stuck=ending.on_stuck)
        ending.hold(watchdog)
        saves = Saves(run, log, watchdog, checkpoints, owner, step=step)
        profile = Profile(run, workdir, log, owner)
        ending.close_with(profile.close)
        training = Training(run, programs, log, interrupt, watchdog, saves, profile)
        last = training.run(state, start.position, evaluated=start.evaluated)
        profile.close()  # before the report, which shows it
        summary = _write_summary(run, last, workdir, checkpoints, log, programs) if checkpoints else None
        journal.end("end", step=last.step, by=ended_by(run.plan, last), best_top1=last.best_top1)
        if checkpoints:
            _write_report(workdir, display)
        return hosts.from_first("the summary", summary)


def _write_summary(
    run: Run,
    last: Position,
    workdir: Workdir,
    checkpoints: Checkpoints,
    log: TrainingLog,
    programs: Programs,
) -> dict[str, Any]:
    """Writes ``summary.json`` and returns its contents."""
    summary = log.summary(compile_seconds=programs.seconds, total_seconds=log.seconds)
    summary["ended_by"] = ended_by(run.plan, last)
    summary["state_digest"] = checkpoints.commit(last.step)["digest"]
    workdir.write("summary.json", summary)
    return summary


def _write_report(workdir: Workdir, display: Display) -> None:
    """Writes ``report.html``; a failure is a warning, because the run has ended well."""
    page = workdir.path / "report.html"
    try:
        from efficientnet_pod.report.page import write_report  # no start waits for what a page needs

        write_report([workdir.path], page)
        display.print(f"the report is {page}")
    except Exception as error:
        display.warn(
            f"warning: {page} was not written: {reason(error)}; efficientnet-pod report {workdir.path}"
        )
