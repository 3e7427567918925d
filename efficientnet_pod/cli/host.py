"""A command as one host of a run: it joins the others, notices signals and tells them how it ends."""

import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from absl import flags

from efficientnet_pod.cli.flags import AT_LEAST_0, define_number
from efficientnet_pod.errors import (
    CHECKPOINTED,
    Preempted,
    RunError,
    UserError,
    exit_code_of,
    in_one_line,
    is_out_of_memory,
)
from efficientnet_pod.optim.ranges import Range
from efficientnet_pod.pod.interrupt import Interrupt
from efficientnet_pod.workdir.redact import redact

if TYPE_CHECKING:
    from efficientnet_pod.pod.peers import Peers  # which imports JAX

# Signals are handled until the process ends. Python's own handlers would end it with 128 + 15 after the run.
until_the_end = ExitStack()


def define_hosts(values: flags.FlagValues) -> None:
    """Defines the flags that say where this host is among others."""
    about = "HOST:PORT of process 0, the same on all hosts; by default the hosts find each other."
    flags.DEFINE_string("coordinator", None, about, flag_values=values)
    define_number(values, "processes", None, "Number of hosts.")
    define_number(values, "process", None, "Index of this host, from 0.", AT_LEAST_0)
    about = "How long a host may be silent before all hosts end; the same on all hosts; by default 100."
    define_number(values, "silent_seconds", None, about, Range(4, 1_000_000, whole=True))


@contextmanager
def joined(values: flags.FlagValues) -> Iterator[tuple[Interrupt, "Peers"]]:
    """Connects this process to the other hosts of a run, by the flags of :func:`define_hosts`.

    Yields the signals that ask this process to stop, and the other hosts. If any host fails, all end; its
    error is printed here first.
    """
    interrupt = until_the_end.enter_context(Interrupt())
    with interrupt.nothing_to_lose():  # these take seconds to import; a signal then counts already
        from efficientnet_pod.pod import hosts
        from efficientnet_pod.pod.peers import Peers

        peers = Peers()
        interrupt.among(
            notify=peers.tell_stop, linger=peers.nothing_lost, is_alone=lambda: hosts.count() == 1
        )
    preempted = None
    with peers.subscribed(on_stop=interrupt.request):
        try:
            with interrupt.nothing_to_lose():
                where = (values.coordinator, values.processes, values.process)
                peers.join(*where, silent_seconds=values.silent_seconds)
            try:
                yield interrupt, peers
            except Preempted as error:
                preempted = error
            interrupt.all_is_saved()
            peers.finish()
        except (Exception, KeyboardInterrupt) as error:
            if hosts.count() == 1:
                raise
            line, code = print_error(error)
            peers.tell_failure(line, code)
            peers.leave(code)
    if preempted and hosts.index() > 0:
        raise SystemExit(CHECKPOINTED)
    if preempted:
        raise preempted


def print_warnings(warnings: Iterable[str]) -> None:
    """Prints warnings on standard error, a line each."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def print_error(error: BaseException) -> tuple[str, int]:
    """Prints why a command ended, without secrets; returns that in one line, and the exit code."""
    match error:
        case UserError() | RunError() | Preempted():
            line = redact(str(error))
        case KeyboardInterrupt():
            line = "stopped; the same command goes on from what is saved"
        case _ if is_out_of_memory(error):
            line = in_one_line(error)
        case _:
            print(redact("".join(traceback.format_exception(error))), end="", file=sys.stderr, flush=True)
            return redact(in_one_line(error)), exit_code_of(error)
    print(f"efficientnet-pod: {line}", file=sys.stderr, flush=True)
    return line, exit_code_of(error)
