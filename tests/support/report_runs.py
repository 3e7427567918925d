"""Workdirs written by hand, with numbers that can be reckoned on paper, and one as a pod would leave it."""

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = (
    "beagle",
    "tabby",
    "goldfish",
    "barn",
    None,
    "sax",
    "violin",
    "cello",
    "church",
    "mosque",
    "castle",
)


def plan(**fields: Any) -> dict[str, Any]:
    """100 steps of 100 images: ten epochs of 1,000, on four devices of kind ``cpu``."""
    return {
        "recipe": {"epochs": 10.0, "global_batch": 100, "model": {"name": "b0"}, "data": {"name": "digits"}},
        "num_train": 1000,
        "num_eval": 100,
        "num_classes": 10,
        "num_replicas": 4,
        "num_hosts": 1,
        "per_replica_batch": 25,
        "total_steps": 100,
        "device_kind": "cpu",
    } | fields


def config(**fields: Any) -> dict[str, Any]:
    """The recipe of :func:`plan`."""
    return {
        "epochs": 10.0,
        "global_batch": 100,
        "seed": 0,
        "model": {"name": "b0", "dropout": 0.2},
        "data": {"name": "digits"},
        "optimizer": {"name": "lars"},
    } | fields


def metrics() -> list[dict[str, Any]]:
    """Four windows of 25 steps, each of 100 s of training, a tenth without input, and 10 s of evaluation.

    The clock at the evaluations: 110, 220, 330, 440 s; without them: 100, 200, 300, 400 s. Top-1: 50, 80, 95,
    90 %.
    """
    rows = []
    for at, (top1, top5) in enumerate(((0.5, 0.8), (0.8, 0.93), (0.95, 0.99), (0.9, 0.98)), start=1):
        step, epoch = 25 * at, 2.5 * at
        shared = {"step": step, "epoch": epoch, "learning_rate": 0.4 / at}
        rows.append(
            shared
            | {"split": "train", "loss": 4.0 / at, "top1": top1 - 0.1, "top5": top5, "images": 2500}
            | {"images_per_second": 25.0, "seconds": 110.0 * at - 10, "input_wait": 0.1}
        )
        rows.append(
            shared
            | {"split": "eval", "loss": 3.0 / at, "top1": top1, "top5": top5, "images": 100}
            | {"images_per_second": 10.0, "seconds": 110.0 * at}
        )
    return rows


def summary(**fields: Any) -> dict[str, Any]:
    """Of a run with these metrics: 441 s after 60 s of compilation."""
    return {
        "final": {"step": 100, "epoch": 10.0, "top1": 0.9, "top5": 0.98, "images": 100, "seconds": 440.0},
        "best": {"step": 75, "epoch": 7.5, "top1": 0.95, "top5": 0.99, "images": 100, "seconds": 330.0},
        "compile_seconds": 60.0,
        "total_seconds": 441.0,
        "images_per_second": 25.0,
        "input_wait": 0.1,
        "skipped_steps": 0,
        "devices": {"count": 4, "kind": "cpu"},
        "versions": {"jax": "0.10.2"},
        "state_digest": "ab" * 32,
    } | fields


def write_lines(file: Path, rows: list[dict[str, Any]], *, torn: str = "") -> None:
    """Writes a table on each line, and after them the beginning of another."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)


def write_run(folder: Path, **files: Any) -> Path:
    """Writes a complete run; ``config=…``, ``plan=…``, ``metrics=…``, ``summary=…`` replace a file.

    None leaves one out; other names, such as ``mesh``, add one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {"config": config(), "plan": plan(), "metrics": metrics(), "summary": summary()} | files
    for name, value in written.items():
        if value is None:
            continue
        if isinstance(value, list):
            write_lines(folder / f"{name}.jsonl", value)
        else:
            (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def at(seconds: float) -> str:
    """A moment of a journal, so many seconds after its beginning."""
    moment = datetime(2026, 11, 25, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event(when: float, kind: str, step: int = 0, **fields: Any) -> dict[str, Any]:
    """A line of a journal."""
    return {"time": at(when), "kind": kind, "step": step, **fields}


def eventful_journal() -> list[dict[str, Any]]:
    """Four starts, of 300, 400, 200 and 100 s: killed, failed, stopped, and complete."""
    devices = {"count": 4, "kind": "cpu"}
    first = {"resumed": False, "hosts": 1, "devices": devices}
    again = first | {"resumed": True}
    return [
        event(0, "start", 0, **first),
        event(60, "compiled", 0, seconds=60.0),
        event(200, "skipped_step", 11),
        event(210, "skipped_step", 12),
        event(250, "skipped_image", 20, name="n01/a.jpeg"),
        event(300, "saved", 25, seconds=0.5),
        event(1000, "start", 25, **again),
        event(1010, "quarantined", 25, what="checkpoint 30: digest of head differs"),
        event(1300, "rewound", 60, to=50),
        event(1400, "failed", 60, error="loss is nan"),
        event(2000, "start", 50, **again),
        event(2200, "stopped", 75, reason="SIGTERM"),
        event(3000, "start", 75, **again),
        event(3050, "evaluated", 100, seconds=10.0),
        event(3100, "end", 100),
    ]


def row_mesh(groups: int, size: int) -> dict[str, Any]:
    """Replicas without coordinates."""
    devices = [
        [{"id": g * size + d, "coords": None, "core": None} for d in range(size)] for g in range(groups)
    ]
    return {"bn_group_size": size, "groups": devices}


def torus_mesh(width: int, height: int, tile: tuple[int, int], cores: int = 2) -> dict[str, Any]:
    """Chips of a v3 in tiles, two cores each."""
    groups = []
    for top in range(0, height, tile[1]):
        for left in range(0, width, tile[0]):
            places = [(left + x, top + y) for y in range(tile[1]) for x in range(tile[0])]
            group = [
                {"id": (y * width + x) * cores + core, "coords": [x, y, 0], "core": core}
                for x, y in places
                for core in range(cores)
            ]
            groups.append(group)
    return {"bn_group_size": tile[0] * tile[1] * cores, "groups": groups}


def trust_lines(tensors: list[str], steps: list[int]) -> list[dict[str, Any]]:
    """Ratios between 1e-3 and 1, which fall with depth and time."""
    rng = np.random.default_rng(0)
    depth = np.linspace(0, 2.5, len(tensors)) + rng.normal(0, 0.15, len(tensors))
    rows: list[dict[str, Any]] = [{"tensors": tensors}]
    for step in steps:
        noise = rng.normal(0, 0.05, len(tensors))
        ratios = 10 ** (-depth - 0.9 * step / steps[-1] + 0.5 * np.sin(step / steps[-1] * 3) + noise)
        rows.append({"step": step, "ratios": ratios.tolist()})
    return rows


def picture(seed: int, size: int = 48) -> bytes:
    """A PNG with colours that run into each other."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
    out = io.BytesIO()
    coarse.resize((size, size), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


def predictions(samples: int) -> dict[str, Any]:
    """Of eleven classes, one without a name; every fifth sample is missed."""
    rng = np.random.default_rng(1)
    count = len(CLASSES)
    shown = []
    for at in range(samples):
        label, other = at % count, (at + 3) % count
        first = other if at % 5 == 4 else label
        chances = [[first, 0.62], [(label + 1) % count, 0.21], [(label + 2) % count, 0.06]]
        shown.append({"image": f"samples/{at:03}.png", "label": label, "predicted": chances})
    return {
        "step": 100,
        "classes": list(CLASSES),
        "confusions": [[a, (a + 3) % count, 12 - a] for a in range(count)],
        "per_class": [[a, 50, int(rng.integers(20, 50))] for a in range(count)],
        "samples": shown,
    }


def write_samples(folder: Path, count: int) -> None:
    """Writes the images that :func:`predictions` names."""
    (folder / "samples").mkdir()
    for at in range(count):
        (folder / f"samples/{at:03}.png").write_bytes(picture(at))


def block_names(counts: tuple[int, ...] = (3, 5, 5, 7, 7, 9, 3)) -> list[str]:
    """The blocks of a B5."""
    return [f"block{stage}{chr(96 + at)}" for stage, n in enumerate(counts, 1) for at in range(1, n + 1)]


def write_pod_run(folder: Path, *, epochs: int = 100, peak: float = 0.831) -> Path:
    """Writes B5 on 1,024 cores with all of its files, as a run of an hour and a bit would leave them."""
    rng = np.random.default_rng(2)
    total = round(epochs * 19.55)
    rows, clock = [], 0.0
    for step in range(20, total + 1, 20):
        epoch, share = step / 19.55, step / total
        rate = 26_800 * (1 + rng.normal(0, 0.012)) * (0.8 if step == 20 else 1)
        clock += 20 * 65_536 / rate
        lr = 14.6 * (share / 0.18 if share < 0.18 else ((1 - share) / 0.82) ** 2)
        top1 = peak * (1 - np.exp(-4.2 * share)) + 0.012 * share
        shared = {"step": step, "epoch": epoch, "learning_rate": lr}
        rows.append(
            shared
            | {"split": "train", "loss": 7.1 * np.exp(-3 * share) + 1.5 + rng.normal(0, 0.01)}
            | {"top1": top1 - 0.06 + rng.normal(0, 0.004), "top5": top1 + 0.08, "images": 20 * 65_536}
            | {"images_per_second": rate, "seconds": clock, "input_wait": abs(rng.normal(0.004, 0.003))}
        )
        if step % 100 == 0 or step == total // 20 * 20:
            clock += 4.1
            rows.append(
                shared
                | {"split": "eval", "loss": 5.5 * np.exp(-3.4 * share) + 0.72, "images": 50_000}
                | {"top1": top1, "top5": 1 - (1 - top1) * 0.32, "images_per_second": 50_000 / 4.1}
                | {"seconds": clock}
            )
    last = rows[-1]
    tensors = [
        f"{part}/{name}/kernel" for part in ["stem", *block_names(), "head", "classifier"] for name in "abcd"
    ]
    recipe = {
        "epochs": float(epochs),
        "global_batch": 65_536,
        "bn_group_size": 16,
        "label_smoothing": 0.1,
        "ema_decay": 0.9999,
        "eval_epochs": 5.0,
        "model": {"name": "b5", "survival_probability": 0.8},
        "data": {"name": "imagenet2012", "image_size": 456, "policy": "autoaugment"},
        "optimizer": {"name": "lars", "lr_per_256": 0.081, "momentum": 0.9, "weight_decay": 1e-5},
        "schedule": {"name": "polynomial", "power": 2.0, "warmup_epochs": 18.0},
    }
    write_run(
        folder,
        config=recipe | {"seed": 0},
        plan=plan(
            recipe=recipe, num_train=1_281_167, num_eval=50_000, num_classes=1000, num_replicas=1024,
            num_hosts=128, host_batch=512, per_replica_batch=64, bn_batch=1024, eval_batch=65_536,
            image_size=456, compute_dtype="bfloat16", dropout=0.4, steps_per_epoch=19.55,
            total_steps=last["step"], peak_lr=14.6, warmup_steps=352, device_kind="TPU v3",
            warnings=["The last batch of an evaluation is a tenth full."],
        ),
        metrics=rows,
        summary=summary(
            final={k: last[k] for k in ("step", "epoch", "top1", "top5", "loss", "images", "seconds")},
            devices={"count": 1024, "kind": "TPU v3"}, total_seconds=clock + 3, compile_seconds=212.0,
            images_per_second=26_730.0, input_wait=0.004,
            seconds_of={"training": clock - 140, "waiting_for_input": 20.0, "evaluating": 82.0,
                        "saving": 31.0, "compiling": 212.0},
        ),
        journal=_pod_journal(last["step"], clock),
        trust_ratios=trust_lines(tensors, list(range(20, total + 1, 20))),
        mesh=torus_mesh(32, 16, (4, 2)),
        predictions=predictions(18),
    )  # fmt: skip
    write_samples(folder, 18)
    return folder


def _pod_journal(last: int, clock: float) -> list[dict[str, Any]]:
    start = {"hosts": 128, "devices": {"count": 1024, "kind": "TPU v3"}}
    half = clock / 2
    return [
        event(0, "start", 0, resumed=False, **start),
        event(212, "compiled", 0, seconds=212.0),
        event(700, "skipped_step", 410),
        event(701, "skipped_step", 411),
        event(900, "skipped_image", 520, name="train/n02105855/n02105855_2933.JPEG"),
        event(half, "stopped", last // 2, reason="SIGTERM on host 17"),
        event(half + 400, "start", last // 2, resumed=True, **start),
        event(half + 430, "quarantined", last // 2, what="checkpoint 980: the digest of head/kernel differs"),
        event(half + 900, "rewound", 1310, to=1200),
        event(half + 1400, "saved", 1500, seconds=1.9),
        event(half + 2000, "start", 1500, resumed=True, **start),
        event(half + 2050, "compiled", 1500, seconds=14.0),
        event(clock + 2400, "evaluated", last, seconds=4.1),
        event(clock + 2404, "end", last),
    ]
