"""The command line: its commands, and the exit code with which it ends."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from efficientnet_pod.cli.flags import run_command
from efficientnet_pod.cli.host import print_error, until_the_end

# TensorFlow reads these once, when a library first imports it; without them each start prints a page.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

USAGE = """usage: efficientnet-pod COMMAND [FLAGS]

commands:
  train     train a recipe and evaluate it on the way; the same workdir resumes
  import    take weights of another library: Keras, timm, TensorFlow
  export    write weights for timm, Keras, ONNX and as a program, with a model card
  evaluate  evaluate a checkpoint of a workdir, or any weights on any images
  predict   print what weights take images for: files and folders of them
  plan      print what a recipe would run, tensor by tensor; runs nothing
  preflight compile a recipe for a machine that need not be here: does it fit, how long, at what price
  report    write one HTML page on a run, or on several side by side; follows a run in progress
  data      describe and check a recipe's images, or prepare a smaller copy of them
  pod       rehearse the hosts of a pod on this machine: many processes of train or evaluate

efficientnet-pod COMMAND --help lists the flags.
example: efficientnet-pod train --config=configs/digits.py --workdir=runs/digits --config.epochs=10

A run on many hosts is the same command on each. On Cloud TPU pods and under SLURM, Open MPI and Kubernetes
they find each other; elsewhere give --coordinator=HOST:PORT --processes=N --process=I.

exit codes: 0 done; 1 failed; 2 change the command or the recipe; 42 checkpointed, start the same command
again; 130 stopped by Ctrl-C
"""

# The function of each command; its module is imported only when the command is given.
COMMANDS = {
    "train": "train:run_train",
    "evaluate": "evaluate:run_evaluate",
    "predict": "predict:run_predict",
    "plan": "plan:run_plan",
    "preflight": "preflight:run_preflight",
    "report": "report:run_report",
    "import": "import_weights:run_import",
    "export": "export_weights:run_export",
    "data": "data:run_data",
    "pod": "pod:run_pod",
}


def run() -> None:
    """Runs the command line and exits with the code that the usage explains."""
    try:
        code = _main(sys.argv[1:])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    if code:
        # Python's own end would wait for threads, of which one may compile, or wait for input in vain.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    until_the_end.close()
    sys.exit(code)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code; an error that the user can correct is one line on standard error."""
    with until_the_end:
        return _main(arguments)


def _main(arguments: Sequence[str]) -> int:
    try:
        commands = {word: partial(_call, place) for word, place in COMMANDS.items()}
        return run_command(arguments, commands, USAGE)
    except (Exception, KeyboardInterrupt) as error:
        return print_error(error)[1]


def _call(place: str, arguments: Sequence[str]) -> int | None:
    """Calls ``module:function`` of this folder; returns its exit code, None for 0."""
    module, _, function = place.partition(":")
    return getattr(import_module(f"efficientnet_pod.cli.{module}"), function)(arguments)
