"""The start of a training run: the workdir is taken, the position found, the programs compiled."""

import dataclasses
from typing import Any

from efficientnet_pod.errors import UserError
from efficientnet_pod.pod import hosts, inject
from efficientnet_pod.pod.mesh import share_from_first_host
from efficientnet_pod.pod.terminal import plural
from efficientnet_pod.recipe.recipe import AUTO
from efficientnet_pod.recipe.rules import possible_replicas, recomputing
from efficientnet_pod.run.auto_replicas import fewest_replicas
from efficientnet_pod.run.identity import data_of
from efficientnet_pod.run.memory import Need
from efficientnet_pod.run.programs import COMPILE_SECONDS, Programs, get_programs, needs_of
from efficientnet_pod.run.run import Run, run_on
from efficientnet_pod.run.state import TrainState
from efficientnet_pod.run.tables import bn_groups_text, describe_devices, plan_table
from efficientnet_pod.train.display import Display
from efficientnet_pod.train.early_end import ended_by
from efficientnet_pod.train.ending import Ending
from efficientnet_pod.train.initial_weights import (
    Initial,
    initial_state,
    open_initial,
    with_statistics_of_images,
)
from efficientnet_pod.train.same_run import Claim
from efficientnet_pod.train.saves import Position
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints
from efficientnet_pod.workdir.checkpoints.commit import Commit
from efficientnet_pod.workdir.journal import Journal
from efficientnet_pod.workdir.metrics_log import read_metrics
from efficientnet_pod.workdir.owner import Owner
from efficientnet_pod.workdir.owner_record import seconds_of_this_process
from efficientnet_pod.workdir.workdir import Workdir

# Of the memory that a host has free at the start, whose other processes go on.
_ROOM_ON_CPU = 0.9


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a start begins.

    Attributes:
      position: of the run.
      skipped_steps: steps skipped so far, because they were not finite.
      evaluated: whether the evaluation that is due at this step has been made.
      summary: summary of a complete run, else None.
      restored: the train state in host memory; only on host 0, None for new random weights.
    """

    position: Position
    skipped_steps: int
    evaluated: bool
    summary: dict[str, Any] | None
    restored: TrainState | None


def open_initial_weights(run: Run, workdir: Workdir) -> Initial | None:
    """Returns the weights that the recipe begins with, on host 0 and where there is no checkpoint yet."""
    if hosts.index() or not run.plan.recipe.init.weights or Checkpoints(workdir.checkpoints).steps:
        return None
    return open_initial(run)


def take_workdir(
    workdir: Workdir, config: dict[str, Any], display: Display, ending: Ending
) -> tuple[Owner | None, Claim | None]:
    """Returns the owner of the workdir and its claim for this config; (None, None) on other hosts."""
    if hosts.index() > 0:
        return None, None
    owner = ending.hold(Owner(workdir.path, warn=display.warn))
    ending.before_exit(owner.release)
    return owner, Claim(workdir, config)


def find_replicas(run: Run, workdir: Workdir, claim: Claim | None, display: Display) -> Run:
    """Returns the run with a number of replicas in the place of ``auto``; any other run as it is.

    It is the number of the run's first start; of one that begins, the fewest whose programs fit the memory of
    every host. All hosts call this together. Programs that host 0 compiles stay in the workdir.

    Raises:
      UserError: even the most replicas do not fit.
    """
    recipe = run.plan.recipe
    if recipe.replicas != AUTO:
        return run

    def run_with(replicas: int) -> Run:
        return run_on(run.runtime, dataclasses.replace(recipe, replicas=replicas), run.source)

    def needs(replicas: int) -> list[Need | None]:
        found = needs_of(run_with(replicas), workdir)
        most = max((need for need in found if need), key=lambda need: need.total, default=None)
        takes = f"a step needs {most}" if most else "the compiler refuses the step"
        images = plural(recipe.global_batch // replicas, "image")
        line = f"replicas=auto: {plural(replicas, 'replica')} of {images}: {takes}"
        if replicas == possible[-1] and most and not most.fits():
            raise UserError(
                f"{line}, and more are not possible; lower config.data.image_size{recomputing(recipe)}"
            )
        display.print(line)
        return found

    def agreed(place: int) -> int:
        places = hosts.to_first("replicas", place)
        return int(hosts.from_first("replicas", max(places) if places else None))

    if kept := hosts.from_first("the replicas so far", claim.replicas() if claim else None):
        return run_with(kept)
    possible = possible_replicas(recipe, run.plan.num_devices)
    room = _ROOM_ON_CPU if run.runtime.platform == "cpu" else 1.0
    with display.phase("compiling, to find the number of replicas"):
        return run_with(fewest_replicas(possible, needs, room=room, agreed=agreed))


def open_checkpoints(
    run: Run, workdir: Workdir, claim: Claim | None, display: Display, ending: Ending
) -> Checkpoints | None:
    """Returns the checkpoints of the claimed workdir, whose run goes on with this plan."""
    if claim is None:
        return None
    plan = run.plan.as_dict() | {"device_kind": run.runtime.device_kind}
    for warning in claim.accept(plan, data_of(run)):
        display.warn(f"warning: {warning}")
    checkpoints = Checkpoints(workdir.checkpoints, keep=run.plan.recipe.keep_checkpoints, warn=display.warn)
    return ending.hold(checkpoints)


def find_start(run: Run, workdir: Workdir, checkpoints: Checkpoints | None, initial: Initial | None) -> Start:
    """Returns the start at the newest good checkpoint, or at the beginning; host 0 decides for all."""
    inject.at("restoring")
    start = Start(Position(0), 0, True, None, None)
    if checkpoints and (newest := checkpoints.restore_newest(run.abstract_state())):
        start = _resumed(run, workdir, *newest)
    elif initial:
        start = dataclasses.replace(start, restored=initial_state(run, initial))
        workdir.write("initial.json", initial.origin)
    shared = [dataclasses.asdict(start.position), start.skipped_steps, start.evaluated, start.summary]
    position, skipped_steps, evaluated, summary = hosts.from_first("where to start", shared)
    return Start(Position(**position), skipped_steps, evaluated, summary, start.restored)


def _resumed(run: Run, workdir: Workdir, step: int, state: TrainState, commit: Commit) -> Start:
    # An evaluation counts if both its row and its commit exist. Else it is made again, with the same numbers.
    evaluated = not run.plan.is_eval_due(step) or (
        "top1" in commit["metrics"]
        and any(row["step"] == step and row["split"] == "eval" for row in read_metrics(workdir))
    )
    record = commit["record"]
    names = [field.name for field in dataclasses.fields(Position) if field.name != "step"]
    position = Position(step, **{name: record[name] for name in names})
    summary = workdir.summary() if evaluated and ended_by(run.plan, position) else None
    return Start(position, record["skipped_steps"], evaluated, summary, state)


def print_plan(run: Run, display: Display, initial: Initial | None) -> None:
    """Prints the plan, the place of each process among several, and where given weights are from."""
    table = plan_table(run.plan, devices=describe_devices(run), bn_groups=bn_groups_text(run))
    display.print(table, "")
    places = hosts.to_first("places", run.runtime.place)
    if places and len(places) > 1:
        pairs = ", ".join(f"{process} → {place}" for process, place in enumerate(places))
        display.print(f"process → place among the devices: {pairs}")
    if initial:
        display.print(initial.line)
        for warning in initial.warnings:
            display.warn(f"warning: {warning}")


def open_journal(run: Run, workdir: Workdir, start: Start, display: Display, ending: Ending) -> Journal:
    """Returns the journal with the line of this start; only host 0 writes it."""
    journal = Journal(workdir if hosts.index() == 0 else None, warn=display.warn)
    journal.step = start.position.step
    runtime = run.runtime
    devices = {"count": len(runtime.devices), "kind": runtime.device_kind}
    resumed, hosts_now = journal.step > 0, runtime.host_count
    journal.write(
        "start", resumed=resumed, hosts=hosts_now, devices=devices, startup=seconds_of_this_process()
    )
    ending.is_written_to(journal)
    return journal


def compile_and_place(
    run: Run,
    workdir: Workdir,
    start: Start,
    display: Display,
    journal: Journal,
    ending: Ending,
) -> tuple[Programs, TrainState]:
    """Returns the programs, and the state on the devices of all hosts; all hosts come here together."""
    with journal.spent.on("compiling"):
        with display.phase("compiling"):
            inject.at("compiling")
            programs = get_programs(run, workdir, start_step=start.position.step)
        ending.close_with(programs.close)
        display.print(
            f"compiled in {programs.seconds:.0f} s; the largest step needs {programs.need} of memory"
        )
        hosts.barrier("compiled", seconds=COMPILE_SECONDS)  # collectives are less patient
        if programs.init:
            state = programs.init(run.initial_variables())
        else:
            state = share_from_first_host(start.restored, run.abstract_state(), run.mesh)
        if not start.position.step:
            state = with_statistics_of_images(run, state)
        # From the first step on a host depends on all others: none may still be free to leave.
        hosts.barrier("the first step", seconds=COMPILE_SECONDS)
    journal.write("compiled", seconds=programs.seconds, step_bytes=programs.need.total)
    return programs, state
