"""The command line: sub-commands, their flags, and what an error looks like."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from absl import flags

from efficientnet_pod.cli.data import run_data
from efficientnet_pod.cli.evaluate import run_evaluate
from efficientnet_pod.cli.export_weights import run_export
from efficientnet_pod.cli.flags import define_hosts, parse_flags, run_command
from efficientnet_pod.cli.import_weights import run_import
from efficientnet_pod.cli.predict import run_predict
from efficientnet_pod.cli.preflight import run_preflight
from efficientnet_pod.cli.report import run_report
from efficientnet_pod.errors import CHECKPOINTED, Preempted, RunError, UserError, exit_code_of
from efficientnet_pod.pod.interrupt import Interrupt
from efficientnet_pod.workdir.redact import redact

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

# How signals are handled in a run, until the process ends: its exit code is then certain, and not 128 + 15.
_until_the_end = ExitStack()


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
    _until_the_end.close()
    sys.exit(code)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code; errors the user can mend are one line on standard error."""
    with _until_the_end:
        return _main(arguments)


def _main(arguments: Sequence[str]) -> int:
    try:
        return run_command(arguments, COMMANDS, USAGE)
    except (Exception, KeyboardInterrupt) as error:
        return _report(error)[1]


def _report(error: BaseException) -> tuple[str, int]:
    """Prints what ended a command; returns it in one line, and the exit code."""
    match error:
        case UserError() | RunError() | Preempted():
            line = redact(str(error))
        case KeyboardInterrupt():
            line = "stopped; the same command goes on from what is saved"
        case _:
            said = redact("".join(traceback.format_exception(error)))
            print(said, end="", file=sys.stderr, flush=True)
            return said.rstrip().rpartition("\n")[2], exit_code_of(error)
    print(f"efficientnet-pod: {line}", file=sys.stderr, flush=True)
    return line, exit_code_of(error)


@contextmanager
def _joined(values: flags.FlagValues) -> Iterator[Interrupt]:
    """Joins the hosts of a run for what happens inside; yields what tells of signals to this process.

    Of several hosts none survives an error of another one: it is reported here and ends the process.
    """
    interrupt = _until_the_end.enter_context(Interrupt())
    with interrupt.nothing_to_lose():
        from efficientnet_pod.pod import hosts

    preempted = None
    try:
        with interrupt.nothing_to_lose():
            interrupt.notify, interrupt.linger = hosts.tell_stop, hosts.nothing_lost
            hosts.on_stop = interrupt.request
            hosts.join(values.coordinator, values.processes, values.process)
            interrupt.lone_host = hosts.count() == 1
        try:
            yield interrupt
        except Preempted as error:
            preempted = error
        interrupt.all_is_saved()
        hosts.finish()
    except (Exception, KeyboardInterrupt) as error:
        if hosts.count() == 1:
            raise
        line, code = _report(error)
        hosts.tell_failure(line, code)
        hosts.leave(code)
    if preempted and hosts.index() > 0:
        raise SystemExit(CHECKPOINTED)
    if preempted:
        raise preempted


def _train(arguments: Sequence[str]) -> None:
    values = parse_flags("train", arguments, define_hosts, workdir=True, config=True)
    with _joined(values) as interrupt:
        with interrupt.nothing_to_lose():
            from efficientnet_pod.pod import hosts
            from efficientnet_pod.train.train import train_and_evaluate

        summary = train_and_evaluate(
            values.config.to_dict(), values.workdir, compile_apart=True, interrupt=interrupt
        )
        if hosts.index() == 0:
            _print_summary(summary, values.workdir)


def _print_summary(summary: dict[str, Any], workdir: str) -> None:
    final, best = summary["final"], summary["best"]
    hits = round(final["top1"] * final["images"])
    rate = summary["images_per_second"]
    print(
        f"\ntop-1 {final['top1']:.2%} ({hits:,} of {final['images']:,} images), top-5 {final['top5']:.2%}; "
        f"best top-1 {best['top1']:.2%} at step {best['step']:,}\n"
        f"{summary['total_seconds']:.0f} s after {summary['compile_seconds']:.0f} s of compilation"
        + (
            f", {rate:,.0f} images/s in training, {summary['input_wait']:.0%} of it without input"
            if rate
            else ""
        )
        + f"\nrecords in {workdir}: metrics.jsonl, summary.json, tensorboard/, checkpoints/"
    )


def _evaluate(arguments: Sequence[str]) -> None:
    run_evaluate(arguments, _joined)


def _pod(arguments: Sequence[str]) -> int:
    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_integer("processes", None, "Hosts of the pod.", 1, flag_values=values)
        about = "CPU devices of each host; by default as the recipe has it."
        flags.DEFINE_integer("devices_per_process", None, about, 1, flag_values=values)

    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    values, command = parse_flags("pod", arguments[:end], define), list(arguments[end + 1 :])
    example = "efficientnet-pod pod --processes=4 --devices-per-process=2 -- train --config=… --workdir=…"
    if values.processes is None:
        raise UserError(f"pod needs --processes, e.g. {example}")
    if command[:1] not in (["train"], ["evaluate"]):
        said = f"not '{command[0]}'" if command else "nothing is there"
        raise UserError(f"pod rehearses what follows --: train or evaluate, {said}; e.g. {example}")
    if command[0] == "evaluate" and values.devices_per_process:
        raise UserError("evaluate takes the devices of its workdir's recipe; leave out --devices-per-process")
    from efficientnet_pod.pod.rehearsal import rehearse

    return rehearse(
        [sys.executable, "-m", "efficientnet_pod", *command],
        processes=values.processes,
        devices=values.devices_per_process,
    )


def _plan(arguments: Sequence[str]) -> None:
    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_integer(
            "replicas", None, "Plan for so many replicas instead of the devices here.", 1, flag_values=values
        )
        about = "Images/s that one replica trains, to say how many host cores must feed it."
        flags.DEFINE_float("replica_rate", None, about, 1e-9, flag_values=values)
        about = "Replicas that one host feeds; by default as here, or 8 with --replicas."
        flags.DEFINE_integer("replicas_per_host", None, about, 1, flag_values=values)

    values = parse_flags("plan", arguments, define, config=True)
    from efficientnet_pod.recipe.recipe import read_recipe
    from efficientnet_pod.run.tables import print_plan

    print_plan(
        read_recipe(values.config.to_dict()),
        replicas=values.replicas,
        replica_rate=values.replica_rate,
        replicas_per_host=values.replicas_per_host,
    )


COMMANDS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": run_predict,
    "plan": _plan,
    "preflight": run_preflight,
    "report": run_report,
    "import": run_import,
    "export": run_export,
    "data": run_data,
    "pod": _pod,
}
