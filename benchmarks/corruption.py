"""What becomes of a damaged checkpoint, ours and Orbax's CheckpointManager's; and what our checks cost.

A trial copies three saved steps, damages one random file of the newest, and restores the newest there is.
Command: python -m benchmarks.corruption --trials 120
"""

import collections
import os
import shutil
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import app, flags

from efficientnet_pod.workdir.checkpoints import checkpoints as checkpoint
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints

FLAGS = flags.FLAGS
flags.DEFINE_integer("trials", 120, "Damaged copies of each kind of checkpoint.")
flags.DEFINE_integer("repeats", 5, "Timed saves and restores, with all checks and without.")
flags.DEFINE_integer("seed", 0, "Of the weights, the files chosen and the places in them.")

STEPS = (1, 2, 3)
DAMAGES = ("flip", "truncation", "deletion")
OUTCOMES = ("wrong bits", "error", "older step", "no harm")
CHECKS = ("read back before the commit", "digests alone", "none")


def main(_: list[str]) -> None:
    """Prints two tables in Markdown."""
    jax.config.update("jax_platforms", "cpu")
    states = {
        step: _state(np.random.default_rng([FLAGS.seed, step]), tensors=60, size=25_000) for step in STEPS
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Checkpoints(folder / "ours") as checkpoints:
            for step, state in states.items():
                checkpoints.save(step, state, metrics={"top1": 0.5})
        with _orbax(folder / "orbax") as manager:
            for step, state in states.items():
                manager.save(step, args=ocp.args.StandardSave(state))
        print(f"| checkpoints | file | damage | trials | {' | '.join(OUTCOMES)} |\n|{'---|' * 8}")
        for kind, restore in (("ours", _restore_ours), ("orbax", _restore_orbax)):
            for row, outcomes in sorted(_trials(folder / kind, restore, states).items()):
                counts = " | ".join(str(outcomes[outcome]) for outcome in OUTCOMES)
                print(f"| {kind} | {' | '.join(row)} | {outcomes.total()} | {counts} |", flush=True)
    _time_checks()


def _state(rng: np.random.Generator, *, tensors: int, size: int) -> dict[str, dict[str, np.ndarray]]:
    """Returns random weights, which no compression makes smaller, and their momentum."""
    names = [f"block{number}" for number in range(tensors // 2)]
    return {
        part: {name: rng.standard_normal(size, dtype=np.float32) for name in names}
        for part in ("params", "opt")
    }


def _orbax(folder: Path) -> ocp.CheckpointManager:
    handler = ocp.StandardCheckpointHandler()
    return ocp.CheckpointManager(folder, item_handlers=handler)


def _trials(folder: Path, restore, states) -> dict[tuple[str, str], collections.Counter]:
    """Returns the outcomes by class of file and kind of damage."""
    rng = np.random.default_rng(FLAGS.seed)
    newest = folder / str(STEPS[-1])
    classes = collections.defaultdict(list)
    for path in sorted(path for path in newest.rglob("*") if path.is_file()):
        classes[_class_of(path)].append(path.relative_to(folder))
    outcomes = collections.defaultdict(collections.Counter)
    for trial in range(FLAGS.trials):
        kind = sorted(classes)[trial % len(classes)]
        damage = DAMAGES[trial // len(classes) % len(DAMAGES)]
        copy = Path(shutil.copytree(folder, folder.parent / "copy"))
        _damage(copy / rng.choice([str(path) for path in classes[kind]]), damage, rng)
        outcomes[kind, damage][_outcome(copy, restore, states)] += 1
        shutil.rmtree(copy)
    return outcomes


def _class_of(path: Path) -> str:
    if path.name == "commit.json":
        return "commit"
    return "arrays" if path.parent.name == "d" else "metadata"


def _damage(path: Path, damage: str, rng: np.random.Generator) -> None:
    if damage == "deletion":
        return path.unlink()
    size = path.stat().st_size
    place = int(rng.integers(size))
    if damage == "truncation":
        return os.truncate(path, place)
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(raw)


def _outcome(copy: Path, restore, states) -> str:
    step = STEPS[-1]
    try:
        restored_step, state = restore(copy, states[step])
    except Exception:  # whatever a library thinks fit
        return "error"
    if not _same_bits(state, states[restored_step]):
        return "wrong bits"
    return "no harm" if restored_step == step else "older step"


def _restore_ours(folder: Path, like):
    lines = []
    with Checkpoints(folder, warn=lines.append) as checkpoints:
        step, state, _ = checkpoints.restore_newest(like)
    if step != STEPS[-1] and not any(f"checkpoint {STEPS[-1]} " in line for line in lines):
        raise AssertionError("an older step, and nobody was told")
    return step, state


def _restore_orbax(folder: Path, like):
    with _orbax(folder) as manager:
        step = manager.latest_step()
        return step, manager.restore(step, args=ocp.args.StandardRestore(like))


def _same_bits(a, b) -> bool:
    return all(
        jax.tree.leaves(jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b))
    )


def _time_checks() -> None:
    """Times saves and restores of three states: weights, as many numbers of momentum, as many of averages."""
    sizes = {
        "tiny network, 0.02 M numbers": (60, 300),
        "B0, 16 M": (930, 17_000),
        "B5, 90 M": (1500, 60_000),
    }
    print(f"\n| seconds, median of {FLAGS.repeats} (range) | {' | '.join(CHECKS)} |\n{'|---' * 4}|")
    for title, (tensors, size) in sizes.items():
        state = _state(np.random.default_rng(FLAGS.seed), tensors=tensors, size=size)
        seconds = collections.defaultdict(list)
        for repeat in range(FLAGS.repeats + 1):
            for checks in CHECKS:
                for name, value in _seconds(state, checks=checks).items():
                    seconds[name, checks] += [value] if repeat else []  # the first warms up
        for name in ("save returns", "committed", "restored"):
            cells = [
                f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"
                for values in (seconds[name, checks] for checks in CHECKS)
            ]
            print(f"| {title}: {name} | {' | '.join(cells)} |", flush=True)


def _seconds(state, *, checks: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        if checks != CHECKS[0]:
            stack.enter_context(mock.patch.object(checkpoint, "_require_found", lambda *_: None))
        if checks == CHECKS[2]:
            known = checkpoint.tensor_digests(state)
            stack.enter_context(mock.patch.object(checkpoint, "tensor_digests", lambda _: known))
            stack.enter_context(mock.patch.object(checkpoint, "require_tensors", lambda *_: None))
        checkpoints = stack.enter_context(Checkpoints(folder))
        began = time.monotonic()
        checkpoints.save(1, state, metrics={})
        returned = time.monotonic()
        checkpoints.wait()
        committed = time.monotonic()
        checkpoints.restore(1, state)
        restored = time.monotonic()
    return {
        "save returns": returned - began,
        "committed": committed - began,
        "restored": restored - committed,
    }


if __name__ == "__main__":
    app.run(main)
