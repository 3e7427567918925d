"""Kills, signals and damaged files at random for as long as asked: do runs end as if nothing had been?

``make soak ARGS="--minutes 20"``. Prints a line for each event and a table at the end; exits with 1 if a run
ended otherwise than the one that was never interrupted. The faults of run N depend on ``--seed`` and N alone
(``--first-run N`` begins with it); where in the program they strike, also on the machine.
"""

import argparse
import collections
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from pod_processes import EVAL_BATCHES, EVAL_STEPS, Training, differences, digests, take_programs

STEPS = 60
STEP_SECONDS = 0.12
TRAINING_SECONDS = 12.0  # of a start that does all the steps, about
MAX_FAULTS = 9  # that a run meets before it is left alone
DEAD_SECONDS = 30.0  # in which the other hosts must be down
POINTS = ("saving", "saving", "committed", "evaluating", "step", "compiling", "restoring", "input")
POISON = {"on_non_finite": "skip", "fault": f"nan@step:{STEPS // 2}"}  # of each third run
KILLED, TERMINATED = -signal.SIGKILL, -signal.SIGTERM


class Soak:
    """What has happened so far."""

    def __init__(self, folder: Path, seed: int):
        """Starts the clock; runs are kept in ``folder``."""
        self.folder, self.seed = folder, seed
        self.began = time.monotonic()
        self.count: collections.Counter[str] = collections.Counter()
        self.slowest_end = 0.0
        self.failures: list[str] = []
        self.references: dict[tuple[int, str], Path] = {}

    def say(self, line: str) -> None:
        print(f"[{time.monotonic() - self.began:6.0f} s] {line}", flush=True)

    def fail(self, line: str) -> None:
        self.failures.append(line)
        self.say(f"FAILED: {line}")

    def reference(self, hosts: int, poison: dict) -> Path:
        """Returns the workdir of a run that was never interrupted, with the same steps not finite."""
        fault = poison.get("fault", "")
        if (hosts, fault) not in self.references:
            workdir = self.folder / f"uninterrupted-{hosts}{'-skips' * bool(fault)}"
            with Training(workdir, steps=STEPS, hosts=hosts, **poison) as training:
                codes = training.end(seconds=600)
                if any(codes):
                    sys.exit(f"the uninterrupted run ended with {codes}: {training.output()}")
            skipping = ", a step is skipped" if fault else ""
            self.say(f"uninterrupted run on {hosts} host{'s' * (hosts > 1)}{skipping}: done")
            self.references[hosts, fault] = workdir
        return self.references[hosts, fault]

    def run(self, number: int, hosts: int) -> None:
        """Has one run meet its faults, lets it end, and compares."""
        chance = random.Random(f"{self.seed}-{number}")
        poison = POISON if number % 3 == 1 else {}
        reference = self.reference(hosts, poison)
        workdir = self.folder / f"run-{number}"
        take_programs(reference, workdir)
        faults, damaged, start, newest = chance.randint(3, MAX_FAULTS), None, 0, 0
        for start in range(MAX_FAULTS + 2):
            name = f"run {number} start {start}"
            if 0 < start <= faults and not damaged:
                damaged = self._damage(workdir, chance, name)
            options = self._options(chance, hosts, newest) if start < faults else {}
            # Whoever makes the poisoned step meets it: it is a property of the run.
            fault = options.pop("fault", "")
            options |= poison | {"fault": ";".join(filter(None, (poison.get("fault"), fault)))}
            with Training(workdir, steps=STEPS, hosts=hosts, keep_checkpoints=3, **options) as training:
                event = fault or (self._strike(training, chance) if start < faults else "left alone")
                codes = self._end(training, name, event)
                if damaged and any(point.startswith("step") for point in training.points()):
                    self._judge_damage(workdir, damaged, name)
                    damaged = None
            newest = max(digests(workdir), default=0)
            self.say(f"{name}: {event} → exit {', '.join(map(str, codes))}; newest checkpoint {newest}")
            if not any(codes):
                break
            if self.failures:
                return
        if chance.random() < 0.5 and not self._mends_summary(workdir, hosts, chance, poison):
            return
        self.count["runs"] += 1
        if found := differences(workdir, reference):
            self.fail(f"run {number} in {workdir} differs: {'; '.join(found)}")
            return
        self.count["runs the same"] += 1
        self.say(f"run {number}: done after {start + 1} starts, the same as uninterrupted")
        shutil.rmtree(workdir)
        shutil.rmtree(workdir.parent / f"{workdir.name}-logs")

    def _options(self, chance: random.Random, hosts: int, newest: int) -> dict:
        """Returns how a start is made: in half of them the fault comes from inside, at a chosen point."""
        options: dict = {"step_seconds": STEP_SECONDS}
        if chance.random() < 0.5:
            return options
        kind, point = chance.choice(("kill", "kill", "term")), chance.choice(POINTS)
        if point in ("compiling", "restoring"):
            return options | {"fault": f"{kind}@{point},host={chance.randrange(hosts)}"}
        host = 0 if point in ("saving", "committed") else chance.randrange(hosts)
        step = min(newest + chance.randint(1, 4 * EVAL_STEPS), STEPS)
        if point in ("saving", "committed"):
            step = -(-step // EVAL_STEPS) * EVAL_STEPS
        elif point == "evaluating":
            step = chance.randrange(EVAL_BATCHES)
        where = f"{point}:{step}" if chance.random() < 0.5 else point
        return options | {"fault": f"{kind}@{where},host={host}"}

    def _strike(self, training: Training, chance: random.Random) -> str:
        """Returns what has been done to a start."""
        kind = chance.choice(("kill", "kill", "kill at any time", "SIGTERM", "SIGTERM twice"))
        host = chance.randrange(training.hosts)
        seconds = chance.uniform(0, TRAINING_SECONDS)
        if kind == "kill at any time":
            self._sleep(training, seconds)
        else:
            training.wait_until(lambda: "step" in " ".join(training.points(host)) or training.has_ended)
            self._sleep(training, seconds)
        if training.has_ended:
            return f"{kind} too late"
        training.signal(signal.SIGKILL if kind.startswith("kill") else signal.SIGTERM, host)
        if kind == "SIGTERM twice":
            self._sleep(training, chance.uniform(0.4, 1.5))
            if training.processes[host].poll() is None:
                training.signal(signal.SIGTERM, host)
        return f"{kind} after {seconds:.1f} s" + (f" to host {host}" if training.hosts > 1 else "")

    @staticmethod
    def _sleep(training: Training, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not training.has_ended:
            time.sleep(0.02)

    def _end(self, training: Training, name: str, event: str) -> list[int]:
        """Returns the exit codes, having judged and counted them."""
        took = training.seconds_to_the_end_of_all()
        codes = training.end()
        told = f"{name}: {event} → {codes}: {training.output()[-3000:]}"
        # What strikes after the last word of a run need not be noticed.
        is_complete = (training.workdir / "summary.json").exists()
        if KILLED in codes:
            self.count["kills"] += 1
            unfinished = list((training.workdir / "checkpoints").glob("*.unfinished"))
            self.count["kills inside a save"] += bool(unfinished)
            self.slowest_end = max(self.slowest_end, took)
            if took > DEAD_SECONDS or not (all(codes) or is_complete):
                self.fail(f"of the others one ended well, or after {took:.0f} s; {told}")
        elif "term" in event.lower() and any(codes):
            twice = "twice" in event
            self.count["SIGTERMs"] += 1
            self.count["SIGTERMs twice"] += twice
            # The second one may come when all is saved, and Python on its way out has its own handlers.
            allowed = {42, 143, TERMINATED} if twice else {42}
            allowed |= {0, TERMINATED} if is_complete else set()
            # Of two hosts, one that is gone at once takes the other with it.
            if not allowed.issuperset(codes) and not (twice and 143 in codes and all(codes)):
                self.fail(f"not {sorted(allowed)}; {told}")
        elif any(codes):
            self.fail(told)
        return codes

    def _damage(self, workdir: Path, chance: random.Random, name: str) -> str | None:
        """Damages a file of the newest checkpoint, if there is an older one; returns which."""
        if chance.random() < 0.3 and (workdir / "metrics.jsonl").exists():
            self.count["torn rows"] += 1
            self.say(f"{name}: after {_tear(workdir, chance)} of metrics.jsonl")
        steps = sorted(digests(workdir))
        if len(steps) < 2 or chance.random() < 0.5:
            return None
        files = sorted(
            path for path in (workdir / "checkpoints" / str(steps[-1])).rglob("*") if path.is_file()
        )
        path = chance.choice(files)
        kind = chance.choice(("flip", "truncate", "delete"))
        data = bytearray(path.read_bytes())
        if kind == "delete" or not data:
            path.unlink()
        else:
            place = chance.randrange(len(data))
            data[place] ^= 1 << chance.randrange(8)
            path.write_bytes(data if kind == "flip" else data[:place])
        what = f"{kind} in {path.relative_to(workdir / 'checkpoints')}"
        self.say(f"{name}: after {what}")
        return what

    def _mends_summary(self, workdir: Path, hosts: int, chance: random.Random, poison: dict) -> bool:
        """Returns whether a finished run that has lost its summary makes it again."""
        file = workdir / "summary.json"
        text = file.read_bytes()
        size = chance.choice((0, chance.randrange(len(text) - 2), None))
        file.unlink() if size is None else file.write_bytes(text[:size])
        with Training(workdir, steps=STEPS, hosts=hosts, keep_checkpoints=3, **poison) as training:
            codes = training.end()
        self.count["summaries made again"] += 1
        if any(codes):
            self.fail(f"{codes} of {workdir} with {size} bytes of summary.json: {training.output()[-3000:]}")
        return not any(codes)

    def _judge_damage(self, workdir: Path, damaged: str, name: str) -> None:
        """Counts whether a damage was found. One that was not must have no effect: the digests tell."""
        step = damaged.split(" in ")[1].split("/")[0]
        is_detected = bool(list((workdir / "checkpoints").glob(f"damaged-{step}-*")))
        self.count["corruptions detected"] += is_detected
        self.count["corruptions read"] += 1
        if not is_detected:
            self.say(f"{name}: {damaged} was not detected")

    def table(self) -> str:
        """Returns what there is to say at the end."""
        count = self.count
        detected = f"{count['corruptions detected']} of {count['corruptions read']}"
        lines = [
            ("runs that ended the same, of all", f"{count['runs the same']} of {count['runs']}"),
            ("kills survived", str(count["kills"])),
            ("  of these inside a save", str(count["kills inside a save"])),
            ("SIGTERMs answered", str(count["SIGTERMs"])),
            ("  of these twice", str(count["SIGTERMs twice"])),
            ("damage found, of those read (the rest: no effect)", detected),
            ("torn rows mended", str(count["torn rows"])),
            ("summaries made again", str(count["summaries made again"])),
            ("longest life after the death of another host", f"{self.slowest_end:.1f} s"),
            ("failures", str(len(self.failures))),
        ]
        return "\n".join(f"{name:<50} {value:>12}" for name, value in lines)


def _tear(workdir: Path, chance: random.Random) -> str:
    """Leaves a last row without its end, as a kill does; returns which: new, or to be made again."""
    file = workdir / "metrics.jsonl"
    text = file.read_text()
    lines = text.splitlines(keepends=True)
    last = json.loads(lines[-1]) if text.endswith("\n") else {"step": 0, "split": "none"}
    if chance.random() < 0.5 and (last["split"] == "eval" or last["step"] > max(digests(workdir), default=0)):
        file.write_text("".join(lines[:-1]) + lines[-1][: chance.randrange(1, len(lines[-1]) - 1)])
        return "a cut last row"
    with file.open("a") as opened:
        opened.write('{"step": 7, "ep')
    return "a torn last row"


def main() -> int:
    """Runs the soak; returns 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--first-run", type=int, default=1)
    parser.add_argument("--max-hosts", type=int, default=2, choices=(1, 2), help="2: each third run has two")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    soak = Soak(folder, options.seed)
    soak.say(f"seed {options.seed}, in {folder}")
    number = options.first_run
    while time.monotonic() - soak.began < 60 * options.minutes and not soak.failures:
        soak.run(number, hosts=options.max_hosts if number % 3 == 0 else 1)
        number += 1
    print(f"\nseed {options.seed}, {(time.monotonic() - soak.began) / 60:.1f} minutes\n{soak.table()}")
    if not soak.failures:
        shutil.rmtree(folder)
    return bool(soak.failures)


if __name__ == "__main__":
    sys.exit(main())
