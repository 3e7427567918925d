"""The command line: its commands, and the exit code with which it ends."""

import atexit
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module

import efficientnet_pod.data  # noqa: F401  its settings for TensorFlow, before JAX makes others
from efficientnet_pod.cli.flags import run_command
from efficientnet_pod.cli.host import print_error, until_the_end
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod import memory, output

USAGE = """usage: efficientnet-pod COMMAND [FLAGS]

commands:
  train     train a recipe and evaluate it on the way; the same workdir resumes
  import    take weights of another library: Keras, timm, TensorFlow
  export    write weights for timm, Keras, ONNX and as a program, with a model card
  evaluate  evaluate a checkpoint of a workdir, or any weights on any images
  predict   print what weights take images for: files and folders of them
  bench     time weights on this device: one image, images/s of many, with accuracy and price
  plan      print what a recipe would run, tensor by tensor; runs nothing
  preflight compile a recipe for a machine that need not be here: does it fit, how long, at what price
  report    write one HTML page on a run, or on several side by side; follows a run in progress
  profile   ask a run in progress for a trace of its next steps
  data      describe and check a recipe's images, or prepare a smaller copy of them
  pod       rehearse the hosts of a pod on this machine: many processes of train or evaluate
  launch    submit, follow and stop a run on a TPU pod or a GPU cluster; rehearse that here
  init      make a small project folder: a recipe to edit, a Makefile, a git repository
  recipes   list the recipes that come with the trainer; print or copy one
  config    print every field of a recipe: its value, where that comes from, its meaning

efficientnet-pod COMMAND --help lists the flags; efficientnet-pod --version says what runs here.
example: efficientnet-pod train --config=digits --workdir=runs/digits --config.epochs=10

A run on many hosts is the same command on each. On Cloud TPU pods and under SLURM, Open MPI and Kubernetes
they find each other; elsewhere give --coordinator=HOST:PORT --processes=N --process=I.

exit codes: 0 done; 1 failed; 2 change the command or the recipe; 42 checkpointed, start the same command
again; 130 stopped by Ctrl-C
"""

COMMANDS = (
    "train",
    "evaluate",
    "predict",
    "bench",
    "plan",
    "preflight",
    "report",
    "profile",
    "import",
    "export",
    "data",
    "pod",
    "launch",
    "init",
    "recipes",
    "config",
)
# A module named `import` could not be imported, and `export` would not say what.
_MODULES = {"import": "import_weights", "export": "export_weights"}
_COMPUTE = ("train", "evaluate", "predict", "bench")
# Their results are what they print. The others leave files, and can do without being heard.
_PRINT_RESULTS = (
    "evaluate",
    "predict",
    "bench",
    "plan",
    "preflight",
    "data describe",
    "recipes",
    "config",
    "profile",
)


def run() -> None:
    """Runs the command line and exits with the code that the usage explains."""
    if sys.argv[1:2] and sys.argv[1] in _COMPUTE:
        memory.ask_for_huge_pages()
    output.protect()
    asks_for_help = sys.argv[1:2] == ["help"] or not {"-h", "--help"}.isdisjoint(sys.argv[1:])
    asks_for_help |= sys.argv[1:2] == ["--version"]
    prints_results = asks_for_help or " ".join(sys.argv[1:3]).startswith(_PRINT_RESULTS)
    if not prints_results:
        output.wait_for_no_reader()
    try:
        code = _main(sys.argv[1:])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    code = output.exit_code_with_output(code, program="efficientnet-pod", prints_results=prints_results)
    if not code:
        until_the_end.close()
        atexit._run_exitfuncs()  # private, but nothing else calls what libraries have registered
        sys.stdout.flush()
        sys.stderr.flush()
    # Python's own end would wait for threads, of which one may compile, or wait for input in vain; and it
    # would take TensorFlow apart for a second.
    os._exit(code)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code; an error that the user can correct is one line on standard error."""
    with until_the_end:
        return _main(arguments)


def _main(arguments: Sequence[str]) -> int:
    try:
        commands = {word: partial(_call, word) for word in COMMANDS} | {"--version": _print_version}
        return run_command(arguments, commands, USAGE)
    except (Exception, KeyboardInterrupt) as error:
        return print_error(error)[1]


def _print_version(arguments: Sequence[str]) -> None:
    """Prints the version, the versions of the libraries that count, and the devices here."""
    if arguments:
        raise UserError(f"--version stands alone, and '{arguments[0]}' is behind it; leave one of them out")
    from efficientnet_pod.pod import runtime  # imports JAX

    versions = runtime.versions()
    commit = versions.pop("git_commit")
    print(f"efficientnet-pod {versions.pop('efficientnet_pod')}" + (f", commit {commit}" if commit else ""))
    print(", ".join(f"{name} {version}" for name, version in versions.items() if version))
    started = runtime.start("any", None)
    print(f"{len(started.devices):,} × {started.device_kind}")


def _require_folder() -> None:
    """Raises UserError where the current folder was deleted: no path could be made absolute."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(
            f"the current folder '{os.environ.get('PWD', '.')}' cannot be read: {error.strerror}; "
            "cd to another and start again"
        ) from error


def _call(word: str, arguments: Sequence[str]) -> int | None:
    """Calls ``run_WORD``, whose module is imported only now; returns its exit code, None for 0."""
    _require_folder()
    memory.require_addresses()
    module = import_module(f"efficientnet_pod.cli.{_MODULES.get(word, word)}")
    return getattr(module, f"run_{word}")(arguments)
