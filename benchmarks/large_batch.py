"""Shows what a large batch costs: accuracy against images a step, at equal epochs, for SGD, RMSProp and LARS.

A narrow ResNet-9 on two data sets that are here: scikit-learn's digits, and glyphs under noise, of which the
best possible accuracy is known. For each optimizer the base learning rate is the best of a few at the
smallest batch, and from there on follows the batch linearly, with warm-up and quadratic decay, as in arXiv
1706.02677 and 2011.00071; only the optimizers differ. The step is the trainer's own.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.glyphs import Glyphs
from efficientnet_pod.models.batch_norm import BatchNorm
from efficientnet_pod.models.cifar_resnet import ResNet9
from efficientnet_pod.models.initial import initial_variables
from efficientnet_pod.models.inputs import normalise
from efficientnet_pod.optim.hyperparameters import Hyperparameters
from efficientnet_pod.optim.lars import Lars
from efficientnet_pod.optim.rmsprop import RmsProp
from efficientnet_pod.optim.schedules import Schedule, create_schedule, peak_learning_rate
from efficientnet_pod.optim.sgd import Sgd
from efficientnet_pod.pod import runtime
from efficientnet_pod.pod.agreement import GO, host_signals, not_halted
from efficientnet_pod.pod.mesh import BN_MEMBER, create_mesh, to_global
from efficientnet_pod.run.state import init_state
from efficientnet_pod.run.train_step import TrainStep, compile_train_step

SIZE, WIDTH = 8, 8
EPOCHS, WARMUP_EPOCHS, SMALLEST = 12, 3, 64
# The base learning rates that are tried at the smallest batch.
OPTIMIZERS: dict[str, tuple[type[Hyperparameters], dict[str, float], tuple[float, ...]]] = {
    "sgd": (Sgd, {"momentum": 0.9, "nesterov": True, "l2": 1e-4}, (0.05, 0.1, 0.2, 0.4)),
    "rmsprop": (RmsProp, {"l2": 1e-5}, (0.008, 0.016, 0.032, 0.064)),
    "lars": (Lars, {"weight_decay": 1e-5, "trust_coefficient": 0.02}, (0.5, 1.0, 2.0, 4.0)),
}


class Images(NamedTuple):
    """A data set: uint8 images (count, 8, 8, 3) and labels; ``best`` is the best possible accuracy."""

    name: str
    train: tuple[np.ndarray, np.ndarray]
    held_out: tuple[np.ndarray, np.ndarray]
    best: float | None


def digits() -> Images:
    """Returns scikit-learn's digits with the trainer's split."""
    from efficientnet_pod.data.sources.opening import open_source
    from efficientnet_pod.data.sources.reading import read_part

    source = open_source("digits")
    splits = []
    for split in (source.train, source.eval):
        examples = list(read_part(split, 0, split.num_examples).as_numpy_iterator())
        image = np.stack([example["image"] for example in examples])
        label = np.array([example["label"] for example in examples], np.int32)
        splits.append((image, label))
    return Images("digits", splits[0], splits[1], None)


def glyphs() -> Images:
    """Returns 2,048 generated images to train on and 2,000 others."""
    kind = Glyphs(size=SIZE, side=4, contrast=40.0, noise=40.0, blur=0.7)
    train, held_out = kind.draw(2048, seed=0), kind.draw(2000, seed=1)
    return Images("glyphs", train, held_out, float(np.mean(kind.best_guess(held_out[0]) == held_out[1])))


class Trainer:
    """Compiled programs for one data set, batch and optimizer, whatever the seed."""

    def __init__(self, images: Images, optimizer: str, lr_per_256: float, global_batch: int):
        """Builds network, schedule and step."""
        self._images, self._global_batch = images, global_batch
        count = len(images.train[1])
        self.steps = max(1, round(EPOCHS * count / global_batch))
        # Running statistics of a quarter of an epoch at every batch, so that none evaluates with stale ones.
        momentum = math.exp(-global_batch / (count / 4))
        norm = partial(BatchNorm, axis_name=BN_MEMBER, momentum=momentum, epsilon=1e-5, dtype=jnp.float32)
        self._model = ResNet9(10, norm, jax.nn.relu, "late", False, 1 / 8, jnp.float32, width=WIDTH)
        kind, options, _ = OPTIMIZERS[optimizer]
        schedule = create_schedule(
            Schedule("polynomial", warmup_epochs=WARMUP_EPOCHS),
            peak_lr=peak_learning_rate(lr_per_256, global_batch),
            steps_per_epoch=count / global_batch,
            total_steps=self.steps,
        )
        variables = initial_variables(self._model, SIZE, seed=0)
        self._optimizer = kind(lr_per_256, **options).transformation(schedule, variables["params"])
        self._mesh = create_mesh(jax.devices()[:1], 1)
        step = TrainStep(self._model, self._optimizer, 0.0, 0.0, jax.random.key(0))
        self._step = compile_train_step(step, self._mesh)
        self._evaluate = jax.jit(lambda variables, image: self._model.apply(variables, image, train=False))

    def accuracy(self, seed: int) -> float:
        """Returns the share of the held-out images that a network trained from this seed gets right."""
        image, label = self._images.train
        order = itertools.chain.from_iterable(_permutations(len(label), seed))
        state = init_state(initial_variables(self._model, SIZE, seed=seed), self._optimizer, ema=False)
        halted, command = not_halted(self._mesh), host_signals(self._mesh)[GO]
        for _ in range(self.steps):
            numbers = np.fromiter(itertools.islice(order, self._global_batch), np.int64)
            batch = {"image": image[numbers].astype(np.float32), "label": label[numbers]}
            state, outcome = self._step(state, to_global(batch, self._mesh) | {"command": command}, halted)
            halted = outcome.halted
        pixels, truth = self._images.held_out
        guess = np.argmax(
            self._evaluate(state.variables, normalise(jnp.asarray(pixels, jnp.float32))), axis=-1
        )
        return float(np.mean(guess == truth))


def _permutations(count: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    while True:
        yield rng.permutation(count)


def measure(images: Images, batches: list[int], seeds: int, report: Any) -> list[dict[str, Any]]:
    """Returns a row for each optimizer and batch."""
    rows = []
    for optimizer, (_, _, rates) in OPTIMIZERS.items():
        tried = {rate: Trainer(images, optimizer, rate, batches[0]).accuracy(100) for rate in rates}
        best = max(tried, key=tried.__getitem__)
        report(
            f"{images.name}, {optimizer}: at {batches[0]} images a step "
            + ", ".join(f"{rate:g}: {accuracy:.1%}" for rate, accuracy in tried.items())
        )
        for batch in batches:
            trainer = Trainer(images, optimizer, best, batch)
            found = [trainer.accuracy(seed) for seed in range(seeds)]
            row = {
                "images": images.name,
                "optimizer": optimizer,
                "lr_per_256": best,
                "batch": batch,
                "steps": trainer.steps,
                "accuracy": found,
                "best_possible": images.best,
            }
            rows.append(row)
            report(
                f"  {batch:5,} images a step, {row['steps']:4,} steps: " + " ".join(f"{a:.1%}" for a in found)
            )
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes the picture."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["images"] for row in rows))
    figure = Figure(figsize=(5 * len(names), 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for optimizer, marker in zip(OPTIMIZERS, "os^", strict=True):
            own = [row for row in rows if (row["images"], row["optimizer"]) == (name, optimizer)]
            means = [100 * np.mean(row["accuracy"]) for row in own]
            low = [mean - 100 * min(row["accuracy"]) for mean, row in zip(means, own, strict=True)]
            high = [100 * max(row["accuracy"]) - mean for mean, row in zip(means, own, strict=True)]
            batches = [row["batch"] for row in own]
            axes.errorbar(batches, means, yerr=[low, high], marker=marker, capsize=3, label=optimizer)
        best = next(row["best_possible"] for row in rows if row["images"] == name)
        if best:
            axes.axhline(100 * best, linestyle=":", color="grey", label="best possible")
        axes.set_xscale("log", base=2)
        axes.set(title=f"{name}, {EPOCHS} epochs", xlabel="images a step", ylabel="top-1, %")
        axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", default="digits,glyphs")
    parser.add_argument("--batches", help="such as 64,1024; by default from 64 on, by four, to all images")
    parser.add_argument("--json", type=Path, help="gets a row for each optimizer and batch")
    parser.add_argument("--plot", type=Path, help="gets the picture, SVG or PNG")
    flags = parser.parse_args()
    runtime.start("cpu", 1)
    began, rows = time.monotonic(), []
    for name in flags.images.split(","):
        images = {"digits": digits, "glyphs": glyphs}[name]()
        most = len(images.train[1])
        batches = [SMALLEST * 4**n for n in range(10) if SMALLEST * 4**n <= most]
        if flags.batches:
            batches = [int(batch) for batch in flags.batches.split(",")]
        rows += measure(images, batches, flags.seeds, partial(print, flush=True))
    print(f"{time.monotonic() - began:.0f} s")
    for path in filter(None, (flags.json, flags.plot)):
        path.parent.mkdir(parents=True, exist_ok=True)
    if flags.json:
        flags.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if flags.plot:
        plot(rows, flags.plot)


if __name__ == "__main__":
    main()
