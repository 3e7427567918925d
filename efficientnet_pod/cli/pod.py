"""The command ``pod``: the hosts of a pod rehearsed on this machine, each a process of its own."""

import sys
from collections.abc import Sequence

from absl import flags

from efficientnet_pod.cli.flags import define_number, parse_flags
from efficientnet_pod.cli.help import example_of
from efficientnet_pod.errors import UserError
from efficientnet_pod.optim.ranges import Range
from efficientnet_pod.pod.rehearsal import rehearse


def run_pod(arguments: Sequence[str]) -> int:
    """Runs the command behind ``--`` in so many processes; returns the exit code of them all."""
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    values, command = parse_flags("pod", arguments[:end], _define), list(arguments[end + 1 :])
    if values.processes is None:
        raise UserError(f"pod needs --processes, e.g. {example_of('pod')}")
    if command[:1] not in (["train"], ["evaluate"]):
        given = f"not '{command[0]}'" if command else "nothing is there"
        raise UserError(
            f"pod rehearses what follows --: train or evaluate, {given}; e.g. {example_of('pod')}"
        )
    if command[0] == "evaluate" and values.devices_per_process:
        raise UserError("evaluate takes the devices of its workdir's recipe; leave out --devices-per-process")
    return rehearse(
        [sys.executable, "-m", "efficientnet_pod", *command],
        processes=values.processes,
        devices=values.devices_per_process,
    )


def _define(values: flags.FlagValues) -> None:
    define_number(values, "processes", None, "Hosts of the pod.", Range(1, 1024, whole=True))
    about = "CPU devices of each host; by default as the recipe has it."
    define_number(values, "devices_per_process", None, about, Range(1, 1024, whole=True))
