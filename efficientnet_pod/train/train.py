"""A training run from start to end: what is agreed on, restored and compiled before the first step."""

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from efficientnet_pod.errors import CHECKPOINTED, Preempted, exit_code_of
from efficientnet_pod.pod import hosts, inject
from efficientnet_pod.pod.interrupt import Interrupt
from efficientnet_pod.pod.mesh import share_from_first_host
from efficientnet_pod.pod.topology import describe_bn_groups
from efficientnet_pod.pod.watchdog import Watchdog
from efficientnet_pod.recipe.recipe import read_recipe
from efficientnet_pod.run.identity import data_of, view
from efficientnet_pod.run.programs import Programs, get_programs
from efficientnet_pod.run.run import Run, open_run
from efficientnet_pod.run.state import TrainState
from efficientnet_pod.run.tables import describe_devices, plan_table
from efficientnet_pod.train.display import Display
from efficientnet_pod.train.initial_weights import (
    Initial,
    initial_state,
    open_initial,
    with_statistics_of_images,
)
from efficientnet_pod.train.log import TrainingLog
from efficientnet_pod.train.loop import COMPILE_SECONDS, Training
from efficientnet_pod.train.same_run import Claim
from efficientnet_pod.train.saves import Position, Saves
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints
from efficientnet_pod.workdir.files import is_remote, reason
from efficientnet_pod.workdir.journal import Journal
from efficientnet_pod.workdir.owner import Owner
from efficientnet_pod.workdir.redact import redact
from efficientnet_pod.workdir.workdir import Workdir


def train_and_evaluate(
    config: dict[str, Any],
    workdir_path: str,
    *,
    compile_apart: bool = False,
    interrupt: Interrupt | None = None,
) -> dict[str, Any]:
    """Trains the config's recipe to its end and returns the summary that ``summary.json`` holds.

    A workdir with checkpoints of the same config is resumed from the newest good one, a finished one left
    alone. Every host of the run calls this; only host 0 touches the workdir.

    Args:
      config: a recipe as plain nested tables.
      workdir_path: of the run's records.
      compile_apart: see :func:`get_programs`.
      interrupt: entered by the caller; by default one of its own.

    Raises:
      UserError: something asked for is impossible, and nothing has been compiled; or an image cannot be used.
      RunError: the run cannot go on: a loss that is not finite, a checkpoint that cannot be written.
      Preempted: it was told to stop, and everything done is saved.
    """
    with ExitStack() as stack:
        interrupt = interrupt or stack.enter_context(_own_interrupt())
        with interrupt.nothing_to_lose():
            inject.host = hosts.index()
            inject.at("starting")
            run, workdir = open_run(read_recipe(config)), Workdir(workdir_path)
            hosts.agree("the run", view(run))
            display = stack.enter_context(Display(total_steps=run.plan.total_steps, silent=hosts.index() > 0))
            # Before the workdir is taken, which a mistake in the path must not bind to it.
            initial = _open_initial(run, workdir)
            owner, checkpoints = _take(workdir, config, run, display, stack)
            if owner:
                interrupt.before_exit.append(owner.release)
            start = _find_start(run, workdir, checkpoints, initial)
            if start.summary:
                return start.summary
            groups = describe_bn_groups(run.runtime.devices, run.plan.recipe.bn_group_size)
            display.print(plan_table(run.plan, devices=describe_devices(run), bn_groups=groups), "")
            position = start.position
            if initial:
                display.print(initial.said)
            journal = _open_journal(run, workdir if owner else None, position, display, interrupt, stack)
            with journal.spent.on("compiling"):
                programs, state = _prepare(run, workdir, start, display, interrupt, apart=compile_apart)
            journal.write("compiled", seconds=programs.seconds)
        stack.callback(programs.close)
        display.begin_at(position.step)
        log = TrainingLog(
            run, workdir, display, journal, resumed_step=position.step, skipped_steps=start.skipped_steps
        )
        stack.callback(log.close)
        journal.quarantined()
        if position.step:
            display.print(f"resumed from step {position.step:,} in {workdir.checkpoints}")
        else:
            log.write_overview(state)
        watchdog = stack.enter_context(_watchdog(run, workdir, journal))
        stack.push(_tell_failure)  # the others must not wait for what this host still has to close
        saves = Saves(run, log, watchdog, checkpoints, owner, step=position.step)
        training = Training(run, programs, log, interrupt, watchdog, saves)
        training.run(state, position, evaluated=start.evaluated)
        summary = _summarise(run, workdir, checkpoints, log, programs) if checkpoints else None
        journal.end("end", step=run.plan.total_steps)
        if checkpoints:
            _write_report(workdir, display)
        return hosts.from_first("the summary", summary)


def _summarise(
    run: Run, workdir: Workdir, checkpoints: Checkpoints, log: TrainingLog, programs: Programs
) -> dict[str, Any]:
    """Writes and returns what ``summary.json`` holds."""
    summary = log.summary(compile_seconds=programs.seconds, total_seconds=log.seconds)
    summary["state_digest"] = checkpoints.commit(run.plan.total_steps)["digest"]
    workdir.write("summary.json", summary)
    return summary


def _write_report(workdir: Workdir, display: Display) -> None:
    """Writes ``report.html``; without one a run has ended just as well."""
    out = workdir.path / "report.html"
    try:
        from efficientnet_pod.report.page import write_report  # draws, which a start need not wait for

        write_report([workdir.path], out)
        display.print(f"the report is {out}")
    except Exception as error:  # nothing of a page is worth a run
        display.warn(
            f"warning: {out} was not written: {reason(error)}; efficientnet-pod report {workdir.path}"
        )


def _own_interrupt() -> Interrupt:
    interrupt = Interrupt(notify=hosts.tell_stop, linger=hosts.nothing_lost)
    interrupt.lone_host = hosts.count() == 1
    hosts.on_stop = interrupt.request
    return interrupt


def _prepare(
    run: Run, workdir: Workdir, start: "_Start", display: Display, interrupt: Interrupt, *, apart: bool
) -> tuple[Programs, TrainState]:
    """Returns the programs, and the state on the devices of all hosts; all hosts come here together."""
    with display.phase("compiling"):
        inject.at("compiling")
        programs = get_programs(
            run,
            workdir,
            start_step=start.position.step,
            apart=apart,
            before_exit=interrupt.before_exit,
        )
    display.print(f"compiled in {programs.seconds:.0f} s")
    hosts.barrier("compiled", seconds=COMPILE_SECONDS)  # collectives are less patient
    if programs.init:
        state = programs.init(run.initial_variables())
    else:
        state = share_from_first_host(start.restored, run.abstract_state(), run.mesh)
    if not start.position.step:
        state = with_statistics_of_images(run, state)
    # A host that goes on would be lost with one that still has nothing to lose.
    hosts.barrier("the first step", seconds=COMPILE_SECONDS)
    return programs, state


def _open_journal(
    run: Run,
    workdir: Workdir | None,
    position: Position,
    display: Display,
    interrupt: Interrupt,
    stack: ExitStack,
) -> Journal:
    """Returns the journal with the line of this start; however it ends, the last line says how."""
    journal = Journal(workdir, report=display.warn)
    journal.step = position.step
    runtime = run.runtime
    devices = {"count": len(runtime.devices), "kind": runtime.device_kind}
    journal.write("start", resumed=position.step > 0, hosts=runtime.host_count, devices=devices)

    def on_exit(kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error:
            journal.end_with(error, stopped_by=interrupt.reason)

    def on_failure(host: int, line: str, exit_code: int) -> None:
        if exit_code == CHECKPOINTED:
            journal.end("stopped", reason=f"host {host}: {line}")
        else:
            journal.end("failed", error=redact(f"host {host}: {line}"))
        follow(host, line, exit_code)

    stack.push(on_exit)
    follow = hosts.on_failure
    stack.callback(setattr, hosts, "on_failure", follow)
    hosts.on_failure = on_failure
    # Where the process is ended at once, by a signal while nothing is to be lost or by a second one.
    interrupt.before_exit.append(lambda: journal.end("stopped", reason=interrupt.reason))
    return journal


def _watchdog(run: Run, workdir: Workdir, journal: Journal) -> Watchdog:
    def on_stuck(line: str) -> None:
        journal.end("failed", error=redact(line))
        _tell_stuck(line)

    report_folder = None if hosts.index() or is_remote(workdir.path) else Path(workdir.path)
    return Watchdog(run.plan.recipe.stuck_seconds, report_folder=report_folder, on_stuck=on_stuck)


def _tell_failure(kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
    if error and not isinstance(error, Preempted):
        hosts.tell_failure(redact(str(error) or type(error).__name__), exit_code_of(error))


def _tell_stuck(line: str) -> None:
    hosts.tell_failure(line, 1)
    hosts.linger()  # were host 0 to end at once, the others would never hear why


def _take(
    workdir: Workdir, config: dict[str, Any], run: Run, display: Display, stack: ExitStack
) -> tuple[Owner | None, Checkpoints | None]:
    """Returns owner and checkpoints of the workdir, which is claimed for the run; nothing but on host 0."""
    if hosts.index() > 0:
        return None, None
    owner = stack.enter_context(Owner(workdir.path, report=display.warn))
    claim = Claim(workdir, config)
    plan = run.plan.as_dict() | {"device_kind": run.runtime.device_kind}
    for warning in claim.accept(plan, data_of(run)):
        display.warn(f"warning: {warning}")
    checkpoints = Checkpoints(workdir.checkpoints, keep=run.plan.recipe.keep_checkpoints, report=display.warn)
    return owner, stack.enter_context(checkpoints)


@dataclasses.dataclass(frozen=True)
class _Start:
    """Where a start begins.

    Attributes:
      position: in the run.
      skipped_steps: on the way there.
      evaluated: whether the evaluation due there has been made.
      summary: of a run that is complete.
      restored: the state in host memory; only on host 0, None at the first step of random weights.
    """

    position: Position
    skipped_steps: int
    evaluated: bool
    summary: dict[str, Any] | None
    restored: Any


def _open_initial(run: Run, workdir: Workdir) -> Initial | None:
    """Returns the weights that the recipe begins with, on host 0 and where there is no checkpoint yet."""
    if hosts.index() or not run.plan.recipe.init.weights or Checkpoints(workdir.checkpoints).steps:
        return None
    return open_initial(run)


def _find_start(
    run: Run, workdir: Workdir, checkpoints: Checkpoints | None, initial: Initial | None
) -> _Start:
    """Returns where the newest good checkpoint is, as host 0 finds it; the beginning if there is none."""
    inject.at("restoring")
    position, skipped_steps, evaluated, summary, restored = Position(0), 0, True, None, None
    if checkpoints and (newest := checkpoints.restore_newest(run.abstract_state())):
        step, restored, commit = newest
        record = commit["record"]
        position = Position(step, record["image_offset"], record["rewinds"])
        skipped_steps = record["skipped_steps"]
        # Row and commit both: what only one of them knows of is made again, with the same numbers.
        evaluated = not run.plan.is_eval_due(step) or (
            "top1" in commit["metrics"]
            and any(row["step"] == step and row["split"] == "eval" for row in workdir.metrics())
        )
        summary = workdir.summary() if step == run.plan.total_steps and evaluated else None
    elif initial:
        restored = initial_state(run, initial)
        workdir.write("initial.json", initial.origin)
    found = [dataclasses.asdict(position), skipped_steps, evaluated, summary]
    where, skipped_steps, evaluated, summary = hosts.from_first("where to start", found)
    return _Start(Position(**where), skipped_steps, evaluated, summary, restored)
