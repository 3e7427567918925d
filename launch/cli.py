"""The command line of the launcher: its commands, and the exit code with which it ends."""

import os
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from efficientnet_pod.cli.flags import run_command
from efficientnet_pod.errors import RunError, UserError, exit_code_of
from efficientnet_pod.pod import output
from efficientnet_pod.workdir.redact import redact

# gRPC reads it when it is imported; without it the end of a connection is a line on standard error.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

USAGE = """usage: efficientnet-pod launch COMMAND [FLAGS] [-- TRAINER'S FLAGS]

commands:
  submit    check a job, print its price, and start it
  render    print what submit would send: requests, manifest, start-up script; touches nothing
  status    print state and progress of the jobs
  logs      print the log of a worker
  watch     wait for a job's end; start it again when its machines are taken away
  cancel    stop a job and free its machines
  preempt   take the machines of a job of --backend=fake away
  capacity  limit the chips that --backend=fake grants to a request
  image     build or push a container with the trainer, for --backend=gke
  fault     let something go wrong in --backend=fake: no capacity, quota, lost hosts, clocks, buckets
  doctor    check this machine, or this worker, before a run

backends: qr (Cloud TPU queued resources), mig (Compute Engine's instance groups), gke (JobSet and Kueue),
          sky (SkyPilot), slurm (GPU clusters), local (processes here, in the foreground), fake (rehearsal
          here: service, workers, pre-emption)

efficientnet-pod launch COMMAND --help lists the flags.
example: efficientnet-pod launch submit --backend=fake --tpu=v4-16 --workdir=runs/a -- --config=digits

exit codes: 0 done; 1 failed; 2 change the command; 130 stopped by Ctrl-C
"""

# The function of each command; its module is imported only when the command is given.
COMMANDS = {
    "submit": "submit:run_submit",
    "render": "submit:run_render",
    "status": "follow:run_status",
    "logs": "follow:run_logs",
    "watch": "watch:run_watch",
    "cancel": "follow:run_cancel",
    "preempt": "rehearse:run_preempt",
    "capacity": "rehearse:run_capacity",
    "fault": "rehearse:run_fault",
    "image": "image.image:run_image",
    "doctor": "doctor.doctor:run_doctor",
}
_PRINT_RESULTS = ("render", "status", "logs", "doctor")


def run() -> None:
    """Runs the command line and exits with the code that the usage explains."""
    output.protect()
    code, prints_results = main(sys.argv[1:]), " ".join(sys.argv[1:2]) in _PRINT_RESULTS
    sys.exit(output.exit_code_with_output(code, program="launch", prints_results=prints_results))


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code; an error that the user can correct is one line on standard error."""
    try:
        commands = {word: partial(_call, place) for word, place in COMMANDS.items()}
        return run_command(arguments, commands, USAGE)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except (UserError, RunError) as error:
        print(f"launch: {redact(str(error))}", file=sys.stderr, flush=True)
        return exit_code_of(error)
    except KeyboardInterrupt:
        print("launch: stopped; what was submitted goes on", file=sys.stderr, flush=True)
        return 130
    except Exception as error:
        print(redact("".join(traceback.format_exception(error))), end="", file=sys.stderr, flush=True)
        return 1


def _call(place: str, arguments: Sequence[str]) -> int | None:
    """Calls ``module:function`` of this folder; returns its exit code, None for 0."""
    module, _, function = place.partition(":")
    return getattr(import_module(f"launch.{module}"), function)(arguments)
