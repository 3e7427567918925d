"""The command line of the launcher: its commands, and what an error looks like."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from absl import flags

from efficientnet_pod.cli.flags import parse_flags, run_command
from efficientnet_pod.errors import RunError, UserError, exit_code_of
from efficientnet_pod.workdir.redact import redact
from launch.flags import PROGRAM, parse_job

# gRPC reads it when it is imported; without it the end of a connection is a line on standard error.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

USAGE = """usage: python -m launch COMMAND [FLAGS] [-- TRAINER'S FLAGS]

commands:
  submit    check a job, say what it costs, and start it
  render    print what submit would send: requests, manifest, start-up script; touches nothing
  status    how far the jobs are
  logs      what a worker has printed
  watch     wait for a job's end; make it again when its machines are taken away
  cancel    stop a job and free its machines
  preempt   take the machines of a job of --backend=fake away
  doctor    check this machine, or this worker, before a run

back ends: qr (Cloud TPU queued resources), mig (Compute Engine's instance groups), gke (JobSet and Kueue),
           sky (SkyPilot), slurm (GPU clusters), local (processes here, in the foreground), fake (rehearsal
           here: service, workers, pre-emption)

python -m launch COMMAND --help lists the flags.
example: python -m launch submit --backend=fake --tpu=v4-16 --workdir=runs/a -- --config=configs/digits.py

exit codes: 0 done; 1 failed; 2 change the command; 130 stopped by Ctrl-C
"""


def run() -> None:
    """Runs the command line and exits with the code that the usage explains."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code; errors the user can mend are one line on standard error."""
    try:
        return run_command(arguments, COMMANDS, USAGE)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except (UserError, RunError) as error:
        print(f"launch: {redact(str(error))}", file=sys.stderr, flush=True)
        return exit_code_of(error)
    except BrokenPipeError:  # whoever read has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("launch: stopped; what was submitted goes on", file=sys.stderr, flush=True)
        return 130
    except Exception as error:
        print(redact("".join(traceback.format_exception(error))), end="", file=sys.stderr, flush=True)
        return 1


def _submit(arguments: Sequence[str]) -> int:
    from launch.submit import submit

    return submit(parse_job("submit", arguments))


def _render(arguments: Sequence[str]) -> None:
    from launch.job.source_code import name_of

    asked = parse_job("render", arguments, placeholders=True)
    code = name_of(Path.cwd())
    job = replace(asked.job, commit=code.commit, code=code.file)
    for number, document in enumerate(asked.backend.render(job)):
        print("\n" * bool(number) + f"# ---- {document.title}\n{document.text.rstrip()}")


def _status(arguments: Sequence[str]) -> None:
    words: list[str] = []
    parse_flags("status", arguments, words=words, program=PROGRAM)
    from launch.follow import print_status
    from launch.job.remembered import all_jobs, recall

    print_status([recall(name) for name in words] or all_jobs())


def _logs(arguments: Sequence[str]) -> None:
    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_integer("worker", 0, "Whose.", 0, flag_values=values)
        flags.DEFINE_integer("attempt", None, "Of the job; by default the newest.", 1, flag_values=values)
        flags.DEFINE_bool("follow", False, "Go on printing.", short_name="f", flag_values=values)

    values, job = _named("logs", arguments, define)
    from launch.follow import print_logs

    print_logs(job, worker=values.worker, attempt=values.attempt, follow=values.follow)


def _watch(arguments: Sequence[str]) -> int:
    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_float("poll_seconds", 10.0, "Between looks.", 0.05, flag_values=values)
        about = "Before a job is made again the first time; then twice as long each time without progress."
        flags.DEFINE_float("backoff_seconds", 30.0, about, 0.0, flag_values=values)

    values, job = _named("watch", arguments, define)
    from launch.backends.backend import backend_named
    from launch.watch import Pace, Watch
    from launch.workdir.storage import storage_of

    backend = backend_named(job.backend)
    if backend.restarts != "watch":
        raise UserError(f"{job.name} needs no watch: {backend.restarts}; see: {PROGRAM} status {job.name}")
    pace = Pace(poll=values.poll_seconds, backoff=values.backoff_seconds)
    return Watch(job, backend, storage_of(job.workdir), pace=pace).run()


def _cancel(arguments: Sequence[str]) -> None:
    _, job = _named("cancel", arguments)
    from launch.backends.backend import backend_named
    from launch.workdir.progress import mark_cancelled
    from launch.workdir.storage import storage_of

    mark_cancelled(job, storage_of(job.workdir))
    backend_named(job.backend).cancel(job)
    print(f"{job.name}: cancelled; its machines are free, its records stay in {job.workdir}")


def _preempt(arguments: Sequence[str]) -> None:
    def define(values: flags.FlagValues) -> None:
        about = "That hears of it first; by default all at once."
        flags.DEFINE_integer("worker", None, about, 0, flag_values=values)

    values, job = _named("preempt", arguments, define)
    if job.backend != "fake":
        raise UserError(f"'{job.name}' runs on --backend={job.backend}; only those of fake can be pre-empted")
    from launch.backends.fake.backend import FakeBackend

    FakeBackend().preempt(job, values.worker)


def _doctor(arguments: Sequence[str]) -> int:
    from launch.doctor.doctor import run_doctor

    return run_doctor(arguments)


def _named(
    command: str, arguments: Sequence[str], define: Callable[[flags.FlagValues], None] | None = None
) -> tuple[Any, Any]:
    """Returns the flags of a command and the one job that it names."""
    words: list[str] = []
    values = parse_flags(command, arguments, define, words=words, program=PROGRAM)
    if len(words) != 1:
        raise UserError(f"{command} needs the name of one job, e.g. {PROGRAM} {command} run1")
    from launch.job.remembered import recall

    return values, recall(words[0])


COMMANDS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "submit": _submit,
    "render": _render,
    "status": _status,
    "logs": _logs,
    "watch": _watch,
    "cancel": _cancel,
    "preempt": _preempt,
    "doctor": _doctor,
}
