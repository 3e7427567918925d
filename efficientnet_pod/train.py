"""A training run from start to end: what is agreed on, restored and compiled before the first step."""

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from efficientnet_pod import inject
from efficientnet_pod.checkpoint import Checkpoints
from efficientnet_pod.describe import describe_devices, plan_table
from efficientnet_pod.files import is_remote
from efficientnet_pod.loop import COMPILE_SECONDS, Position, Training
from efficientnet_pod.owner import Owner
from efficientnet_pod.pod import hosts
from efficientnet_pod.pod.interrupt import Interrupt
from efficientnet_pod.pod.mesh import share_from_first_host
from efficientnet_pod.pod.topology import describe_bn_groups
from efficientnet_pod.pod.watchdog import Watchdog
from efficientnet_pod.programs import Programs, get_programs
from efficientnet_pod.progress import Display
from efficientnet_pod.recipe import read_recipe
from efficientnet_pod.records import Workdir
from efficientnet_pod.run import Run, data_of, open_run, view
from efficientnet_pod.state import TrainState
from efficientnet_pod.training_log import TrainingLog


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
        interrupt = interrupt or stack.enter_context(
            Interrupt(notify=hosts.tell_stop, linger=hosts.nothing_lost)
        )
        interrupt.lone_host = hosts.count() == 1
        hosts.on_stop = interrupt.request
        with interrupt.nothing_to_lose():
            inject.host = hosts.index()
            inject.at("starting")
            run, workdir = open_run(read_recipe(config)), Workdir(workdir_path)
            hosts.agree("the run", view(run))
            display = stack.enter_context(Display(total_steps=run.plan.total_steps, silent=hosts.index() > 0))
            owner, checkpoints = _take(workdir, config, run, display, stack)
            if owner:
                interrupt.before_exit.append(owner.release)
            start = _find_start(run, workdir, checkpoints)
            if start.summary:
                return start.summary
            groups = describe_bn_groups(run.runtime.devices, run.plan.recipe.bn_group_size)
            display.print(plan_table(run.plan, devices=describe_devices(run), bn_groups=groups), "")
            with display.phase("compiling"):
                inject.at("compiling")
                programs = get_programs(
                    run,
                    workdir,
                    start_step=start.position.step,
                    apart=compile_apart,
                    before_exit=interrupt.before_exit,
                )
            stack.callback(programs.close)
            display.print(f"compiled in {programs.seconds:.0f} s")
            hosts.barrier("compiled", seconds=COMPILE_SECONDS)  # collectives are less patient
            state = _first_state(run, programs, start)
            # A host that goes on could lose one that still has nothing to lose.
            hosts.barrier("the first step", seconds=COMPILE_SECONDS)
        display.begin_at(start.position.step)
        log = TrainingLog(run, workdir, display, resumed_step=start.position.step)
        stack.callback(log.close)
        if start.position.step:
            display.print(f"resumed from step {start.position.step:,} in {workdir.checkpoints}")
        else:
            log.write_overview(state)
        stuck_report = Path(workdir.path) if checkpoints and not is_remote(workdir.path) else None
        watchdog = stack.enter_context(
            Watchdog(run.plan.recipe.stuck_seconds, report_folder=stuck_report, on_stuck=_tell_stuck)
        )
        training = Training(run, programs, log, interrupt, watchdog, checkpoints, owner)
        training.run(state, start.position, evaluated=start.evaluated)
        summary = log.summary(compile_seconds=programs.seconds, total_seconds=log.seconds)
        if checkpoints:
            summary["state_digest"] = checkpoints.commit(run.plan.total_steps)["digest"]
            workdir.write("summary.json", summary)
    return summary


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
    workdir.claim(config)
    plan = run.plan.as_dict() | {"device_kind": run.runtime.device_kind}
    for warning in workdir.accept(plan, data_of(run)):
        display.warn(f"warning: {warning}")
    checkpoints = Checkpoints(workdir.checkpoints, keep=run.plan.recipe.keep_checkpoints, report=display.warn)
    return owner, stack.enter_context(checkpoints)


@dataclasses.dataclass(frozen=True)
class _Start:
    """Where a start begins.

    Attributes:
      position: in the run.
      evaluated: whether the evaluation due there has been made.
      summary: of a run that is complete.
      restored: the state in host memory; only on host 0, None at the first step.
    """

    position: Position
    evaluated: bool
    summary: dict[str, Any] | None
    restored: Any


def _find_start(run: Run, workdir: Workdir, checkpoints: Checkpoints | None) -> _Start:
    """Returns where the newest good checkpoint is, as host 0 finds it; the beginning if there is none."""
    found = {"step": 0, "image_offset": 0, "evaluated": True, "summary": None}
    restored = None
    inject.at("restoring")
    if checkpoints and (newest := checkpoints.restore_newest(run.abstract_state())):
        step, restored, commit = newest
        rows = workdir.metrics()
        is_evaluated = any(row["step"] == step and row["split"] == "eval" for row in rows)
        found |= {
            "step": step,
            "image_offset": commit["record"]["image_offset"],
            "evaluated": is_evaluated or not run.plan.is_eval_due(step),
        }
        if step == run.plan.total_steps and is_evaluated and (workdir.path / "summary.json").exists():
            found["summary"] = workdir.read("summary.json")
    found = hosts.from_first("where to start", found)
    return _Start(
        Position(found["step"], found["image_offset"]), found["evaluated"], found["summary"], restored
    )


def _first_state(run: Run, programs: Programs, start: _Start) -> TrainState:
    """Returns the state on the devices of all hosts."""
    if programs.init:
        return programs.init(run.initial_variables())
    return share_from_first_host(start.restored, run.abstract_state(), run.mesh)
