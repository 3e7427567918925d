"""The command line: sub-commands, their flags, and what an error looks like."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from absl import flags
from ml_collections import config_flags

from efficientnet_pod.errors import CHECKPOINTED, Preempted, RunError, UserError, did_you_mean
from efficientnet_pod.redact import redact

# TensorFlow reads these once, when a library first imports it; without them each start prints a page.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

USAGE = """usage: efficientnet-pod COMMAND [FLAGS]

commands:
  train     train a recipe and evaluate it on the way; the same workdir resumes
  evaluate  evaluate a checkpoint of a workdir
  plan      print what a recipe would run, tensor by tensor; runs nothing
  data      describe and check a recipe's images, or prepare a smaller copy of them
  pod       rehearse the hosts of a pod on this machine: many processes of train or evaluate

efficientnet-pod COMMAND --help lists the flags.
example: efficientnet-pod train --config=configs/digits.py --workdir=runs/digits --config.epochs=10

A run on many hosts is the same command on each. On Cloud TPU pods and under SLURM, Open MPI and Kubernetes
they find each other; elsewhere give --coordinator=HOST:PORT --processes=N --process=I.

exit codes: 0 done; 1 failed; 2 change the command or the recipe; 42 checkpointed, start the same command
again; 130 stopped by Ctrl-C
"""

DATA_USAGE = """usage: efficientnet-pod data COMMAND [FLAGS]

commands:
  describe  print counts, classes and sizes, check a sample of the images, write a contact sheet
  prepare   write a copy with smaller images, which can be read in any order; the same command resumes

efficientnet-pod data COMMAND --help lists the flags.
example: efficientnet-pod data prepare --config=configs/imagenet.py:b0 --resize=256 --output=/data/small
"""


def run() -> None:
    """Runs the command line and exits with the code that the usage explains."""
    try:
        code = main(sys.argv[1:])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    if code:
        # Python's own end would wait for threads, of which one may compile, or wait for input in vain.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code; errors the user can mend are one line on standard error."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    try:
        name, *rest = arguments
        if name not in COMMANDS:
            raise UserError(f"unknown command '{name}'{did_you_mean(name, COMMANDS)}")
        return COMMANDS[name](rest) or 0
    except (Exception, KeyboardInterrupt) as error:
        return _report(error)[1]


def _report(error: BaseException) -> tuple[str, int]:
    """Prints what ended a command; returns it in one line, and the exit code."""
    line, code = redact(str(error)), 1
    match error:
        case UserError():
            code = 2
        case Preempted():
            code = CHECKPOINTED
        case KeyboardInterrupt():
            line, code = "stopped; the same command goes on from what is saved", 130
        case RunError():
            pass
        case _:
            said = redact("".join(traceback.format_exception(error)))
            print(said, end="", file=sys.stderr, flush=True)
            return said.rstrip().rpartition("\n")[2], 1
    print(f"efficientnet-pod: {line}", file=sys.stderr, flush=True)
    return line, code


@contextmanager
def _joined(values: flags.FlagValues) -> Iterator[bool]:
    """Joins the hosts of a run for what happens inside; yields whether this is host 0, which prints.

    Of several hosts none survives an error of another one: it is reported here and ends the process.
    """
    from efficientnet_pod.pod import hosts

    preempted = None
    try:
        hosts.join(values.coordinator, values.processes, values.process)
        try:
            yield hosts.index() == 0
        except Preempted as error:
            preempted = error
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
    values = _flags("train", arguments, _define_hosts, workdir=True, config=True)
    with _joined(values) as is_first_host:
        from efficientnet_pod.train import train_and_evaluate

        summary = train_and_evaluate(values.config.to_dict(), values.workdir, compile_apart=True)
        if is_first_host:
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
    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_string("checkpoint", "latest", "'best', 'latest' or a step.", flag_values=values)
        flags.DEFINE_bool("raw", False, "Take the raw weights, not the averaged ones.", flag_values=values)
        _define_hosts(values)

    values = _flags("evaluate", arguments, define, workdir=True)
    with _joined(values) as is_first_host:
        from efficientnet_pod.evaluate import evaluate_checkpoint
        from efficientnet_pod.pod import hosts
        from efficientnet_pod.recipe import read_recipe
        from efficientnet_pod.records import Workdir
        from efficientnet_pod.run import open_run

        workdir = Workdir(values.workdir)
        config = workdir.read("config.json") if hosts.index() == 0 else None
        run = open_run(read_recipe(hosts.from_first("config", config)))
        step, result = evaluate_checkpoint(run, workdir, values.checkpoint, raw=values.raw)
        if is_first_host:
            print(
                f"step {step:,}: top-1 {result.top1:.2%}, top-5 {result.top5:.2%}, loss {result.loss:.4f} "
                f"of {result.images:,} images"
            )


def _pod(arguments: Sequence[str]) -> int:
    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_integer("processes", None, "Hosts of the pod.", 1, flag_values=values)
        about = "CPU devices of each host; by default as the recipe has it."
        flags.DEFINE_integer("devices_per_process", None, about, 1, flag_values=values)

    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    values, command = _flags("pod", arguments[:end], define), list(arguments[end + 1 :])
    example = "efficientnet-pod pod --processes=4 --devices-per-process=2 -- train --config=… --workdir=…"
    if values.processes is None:
        raise UserError(f"pod needs --processes, e.g. {example}")
    if command[:1] not in (["train"], ["evaluate"]):
        said = f"not '{command[0]}'" if command else "nothing is there"
        raise UserError(f"pod rehearses what follows --: train or evaluate, {said}; e.g. {example}")
    if command[0] == "evaluate" and values.devices_per_process:
        raise UserError("evaluate takes the devices of its workdir's recipe; leave out --devices-per-process")
    from efficientnet_pod.rehearsal import rehearse

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

    values = _flags("plan", arguments, define, config=True)
    from efficientnet_pod.describe import print_plan
    from efficientnet_pod.recipe import read_recipe

    print_plan(
        read_recipe(values.config.to_dict()),
        replicas=values.replicas,
        replica_rate=values.replica_rate,
        replicas_per_host=values.replicas_per_host,
    )


def _data(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(DATA_USAGE, end="")
        raise SystemExit(0 if arguments else 2)
    name, *rest = arguments
    if name not in DATA_COMMANDS:
        raise UserError(f"unknown command 'data {name}'{did_you_mean(name, DATA_COMMANDS)}")
    DATA_COMMANDS[name](rest)


def _data_describe(arguments: Sequence[str]) -> None:
    def define(values: flags.FlagValues) -> None:
        about = "Images of each split to look at and decode: a number, or 'all'."
        flags.DEFINE_string("check", "1000", about, flag_values=values)
        flags.DEFINE_string(
            "sheet", None, "PNG to write: eight images, evaluated and augmented.", flag_values=values
        )

    values = _flags("data describe", arguments, define, config=True)
    check = values.check
    if check != "all" and not (check.isdecimal() and int(check)):
        raise UserError(f"--check={check} is not a number above 0; give the images of each split, or 'all'")
    from efficientnet_pod.models.efficientnet import VARIANTS
    from efficientnet_pod.recipe import read_recipe
    from efficientnet_pod.run import open_images

    recipe = read_recipe(values.config.to_dict())
    model = recipe.model.name
    if model not in VARIANTS:
        raise UserError(f"config.model.name='{model}' is unknown{did_you_mean(model, VARIANTS)}")
    source = open_images(recipe)
    from efficientnet_pod.data.describe import describe

    bad = describe(
        source,
        recipe.data,
        image_size=recipe.data.image_size or VARIANTS[model].image_size,
        check=None if check == "all" else int(check),
        sheet=values.sheet,
    )
    if bad:
        raise UserError(f"{bad:,} bad image{'s' * (bad > 1)} in '{source.name}'; replace or remove them")


def _data_prepare(arguments: Sequence[str]) -> None:
    def define(values: flags.FlagValues) -> None:
        about = "Pixels of the short side that images keep at most."
        flags.DEFINE_integer("resize", None, about, 1, flag_values=values)
        flags.DEFINE_string("output", None, "Folder of the copy.", flag_values=values)
        flags.DEFINE_integer("quality", 95, "Of the JPEGs that are written.", 1, 100, flag_values=values)

    values = _flags("data prepare", arguments, define, config=True)
    for name, example in (("resize", "256"), ("output", "/data/small")):
        if values[name].value is None:
            raise UserError(f"data prepare needs --{name}, e.g. --{name}={example}")
    from efficientnet_pod.data.prepare import prepare
    from efficientnet_pod.recipe import read_recipe

    recipe = read_recipe(values.config.to_dict())
    copy = prepare(recipe.data, resize=values.resize, output=values.output, quality=values.quality)
    for warning in copy.warnings:
        print(f"warning: {warning}")
    before, after = copy.bytes_before / 1e6, copy.bytes_after / 1e6
    print(
        f"{copy.images:,} images, {before:,.1f} MB before, {after:,.1f} MB now; "
        + (
            f"{copy.written:,} of them written by this start"
            if copy.written
            else "complete before this start"
        )
        + f"\nto use them: --config.data.name=prepared:{values.output}"
    )


def _flags(
    command: str,
    arguments: Sequence[str],
    define: Callable[[flags.FlagValues], None] | None = None,
    *,
    config: bool = False,
    workdir: bool = False,
) -> flags.FlagValues:
    """Returns the parsed flags of one command.

    Raises:
      UserError: an unknown flag or field, a value of the wrong type, a missing flag or file.
    """
    arguments = [_with_underscores(word) for word in arguments]
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "Show the flags.", short_name="h", flag_values=values)
    if config:
        _define_config(values, arguments)
    if workdir:
        flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    if define:
        define(values)
    try:
        stray = values([command, *arguments])[1:]
        given = values.config if config else None
        if given is not None:
            given.to_dict()  # config_flags reports a file it could not load at its first use
    except Exception as error:  # what a config file raises is anything
        raise UserError(_unknown_field(arguments) or _one_line(error)) from error
    if values.help:
        print(f"efficientnet-pod {command}\n{values.get_help()}")
        raise SystemExit(0)
    if stray:
        raise UserError(f"'{stray[0]}' is not a flag; flags look like --workdir=PATH")
    if config and given is None:
        raise UserError(f"{command} needs --config, e.g. --config=configs/digits.py")
    if workdir and values.workdir is None:
        raise UserError(f"{command} needs --workdir, e.g. --workdir=runs/digits")
    # Libraries that read absl's global flags must find them parsed.
    flags.FLAGS.mark_as_parsed()
    return values


def _define_hosts(values: flags.FlagValues) -> None:
    about = "HOST:PORT of process 0, the same on all hosts; by default the hosts find each other."
    flags.DEFINE_string("coordinator", None, about, flag_values=values)
    flags.DEFINE_integer("processes", None, "Number of hosts.", 1, flag_values=values)
    flags.DEFINE_integer("process", None, "Index of this host, from 0.", 0, flag_values=values)


def _define_config(values: flags.FlagValues, arguments: Sequence[str]) -> None:
    about = "Recipe, e.g. configs/digits.py; --config.FIELD=VALUE overrides a field."
    config_flags.DEFINE_config_file(
        "config", None, about, flag_values=values, sys_argv=["efficientnet-pod", *arguments]
    )


def _with_underscores(word: str) -> str:
    """Returns a flag as absl knows it: ``--devices-per-process=2`` with underscores; all else as it is."""
    flag, equals, value = word.partition("=")
    if not flag.startswith("--") or flag.startswith("--config."):
        return word
    return "--" + flag[2:].replace("-", "_") + equals + value


def _unknown_field(arguments: Sequence[str]) -> str | None:
    """Returns the message for the first ``--config.FIELD`` that the config file does not have."""
    values = flags.FlagValues()
    files = [word for word in arguments if word.startswith("--config=")]
    _define_config(values, files)
    try:
        values(["efficientnet-pod", *files])
        config: Any = values.config  # typed as possibly None
        config = config.to_dict()
    except Exception:  # reported by the caller, which met it too
        return None
    for word in arguments:
        if word.startswith("--config."):
            table, where = config, "config"
            for name in word.removeprefix("--config.").partition("=")[0].split("."):
                if not isinstance(table, dict) or name not in table:
                    known = table if isinstance(table, dict) else ()
                    return f"{where} has no field '{name}'{did_you_mean(name, known)}"
                table, where = table[name], f"{where}.{name}"
    return None


def _one_line(error: Exception) -> str:
    """Returns what went wrong; config_flags puts a config file's whole traceback into its message."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"^.*Traceback .*?\w+(Error|Exception): ", "config file: ", text)
    if "Failed loading config file" in text:
        return f"no config file '{text.partition('path]: ')[2].split(' ')[0]}'; the recipes are in configs/"
    return text


COMMANDS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "plan": _plan,
    "data": _data,
    "pod": _pod,
}
DATA_COMMANDS = {"describe": _data_describe, "prepare": _data_prepare}
