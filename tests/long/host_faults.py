"""How long the hosts of a run go on after one of them has died, raised, or got stuck: real processes, timed.

``make host-faults``. Prints for each fault the seconds until the others are down, and the exit codes.
"""

import argparse
import signal
import statistics
import tempfile
import time
from pathlib import Path

from pod_processes import Training, take_programs

HOSTS, STEPS, STUCK_SECONDS = 2, 30, 10.0
# SIGSTOP: the host cannot end by itself, and is killed when the others are down.
FAULTS = ("raise", "kill", "hang", "stop")


def main() -> None:
    """Times every fault on every host, in turns."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference"
        with Training(reference, steps=STEPS, hosts=HOSTS) as training:
            assert not any(training.end(seconds=300)), training.output()
        seconds: dict[tuple[str, int], list[float]] = {}
        codes: dict[tuple[str, int], set[str]] = {}
        for number in range(rounds):
            for kind in FAULTS:
                for host in range(HOSTS):
                    workdir = Path(folder) / f"{kind}-{host}-{number}"
                    take_programs(reference, workdir)
                    took, ended = _time(workdir, kind, host)
                    seconds.setdefault((kind, host), []).append(took)
                    codes.setdefault((kind, host), set()).add(ended)
    print(
        f"| fault | host | seconds until the others are down, median (min-max), n = {rounds} | exit codes |"
    )
    print("|---|---|---|---|")
    for (kind, host), took in seconds.items():
        spread = f"{statistics.median(took):.1f} ({min(took):.1f}-{max(took):.1f})"
        print(f"| {kind} | {host} | {spread} | {'; '.join(sorted(codes[kind, host]))} |")


def _time(workdir: Path, kind: str, host: int) -> tuple[float, str]:
    """Returns the seconds until all hosts but a suspended one are down, and the exit codes of all."""
    fault = f"{kind}@step:10,host={host}"
    with Training(workdir, steps=STEPS, hosts=HOSTS, fault=fault, stuck_seconds=STUCK_SECONDS) as training:
        training.wait_for("step 10", host)
        began = time.monotonic()
        suspended = training.processes[host] if kind == "stop" else None
        others = [process for process in training.processes if process is not suspended]
        training.wait_until(lambda: all(process.poll() is not None for process in others))
        took = time.monotonic() - began
        if suspended:
            suspended.send_signal(signal.SIGKILL)
        ended = [str(process.wait()) for process in training.processes if process is not suspended]
        return took, ", ".join(ended)


if __name__ == "__main__":
    main()
