"""Shows what a large batch costs: accuracy against images a step, each optimizer at its best, equal epochs.

A narrow ResNet-9 learns glyphs under noise, of which the best possible accuracy is known. For each optimizer
and each batch the peak learning rate is searched by factors of two until the best one has a worse one on
either side, then the warm-up, then the rate beside it once more: all on images of their own. What is found is
trained from fresh seeds and evaluated on other images. The step is the trainer's own; rates are polynomial.
"""

import argparse
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from benchmarks.glyphs import Glyphs
from efficientnet_pod.models.batch_norm import BatchNorm
from efficientnet_pod.models.cifar_resnet import ResNet9
from efficientnet_pod.models.initial import initial_variables
from efficientnet_pod.models.inputs import normalise
from efficientnet_pod.optim.lars import Lars
from efficientnet_pod.optim.rmsprop import RmsProp
from efficientnet_pod.optim.schedules import Schedule, create_schedule
from efficientnet_pod.optim.sgd import Sgd
from efficientnet_pod.pod import runtime
from efficientnet_pod.pod.agreement import GO, host_signals, not_halted
from efficientnet_pod.pod.mesh import BN_MEMBER, BY_REPLICA, EVERYWHERE, create_mesh
from efficientnet_pod.run.state import init_state
from efficientnet_pod.run.train_step import TrainStep

GLYPHS = Glyphs(size=8, side=4, contrast=40.0, noise=40.0, blur=0.7)
TRAINED, HELD_OUT, WIDTH = 3072, 4000, 8
EPOCHS, BATCHES = 12, (64, 512, 3072)
WARMUPS = (0.0, 0.25, 0.5, 0.75, 0.9)  # shares of the run
SEARCH_SEEDS = (100, 101)
MOST_RATES = 12  # of one search, so that none goes on for ever
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 8: 2.36, 10: 2.26}  # Student's, two-sided, by count

Optimizer = Callable[[optax.Schedule, Any], optax.GradientTransformation]


def _ours(settings: Any) -> Optimizer:
    return settings.transformation


def _adamw(learning_rate: optax.Schedule, params: Any) -> optax.GradientTransformation:
    return optax.adamw(learning_rate, weight_decay=1e-4, mask=Sgd(1.0, l2=1e-4).decayed(params))


# Each with the peak rate at which the search at the smallest batch begins.
OPTIMIZERS: dict[str, tuple[Optimizer, float]] = {
    "SGD": (_ours(Sgd(1.0, momentum=0.9, nesterov=True, l2=1e-4)), 0.1),
    "RMSProp": (_ours(RmsProp(1.0, l2=1e-5)), 0.016),
    "AdamW": (_adamw, 0.004),
    "LARS": (_ours(Lars(1.0, weight_decay=1e-5, trust_coefficient=0.02)), 1.0),
}


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is searched: ``rate`` is the peak of the learning rate, ``warmup`` a share of the run."""

    rate: float
    warmup: float


class Training:
    """The whole training of one optimizer at one batch, compiled once for all rates, warm-ups and seeds."""

    def __init__(self, optimizer: Optimizer, batch: int, images: dict[str, tuple[np.ndarray, np.ndarray]]):
        """Builds the network; the program is compiled when it is first called for."""
        self._optimizer, self._batch, self._images = optimizer, batch, images
        self.steps = EPOCHS * TRAINED // batch
        # Running statistics of a quarter of an epoch at every batch, so that none evaluates with stale ones.
        momentum = math.exp(-batch / (TRAINED / 4))
        norm = partial(BatchNorm, axis_name=BN_MEMBER, momentum=momentum, epsilon=1e-5, dtype=jnp.float32)
        self._model = ResNet9(10, norm, jnp.float32, width=WIDTH)

    def accuracy(self, choice: Choice, seed: int, held_out: str) -> float:
        """Returns the share of the images of one set that a network trained from this seed gets right."""
        schedule = create_schedule(
            Schedule("polynomial", warmup_epochs=choice.warmup * EPOCHS),
            peak_lr=choice.rate,
            steps_per_epoch=TRAINED / self._batch,
            total_steps=self.steps,
        )
        rng = np.random.default_rng(seed)
        order = np.concatenate([rng.permutation(TRAINED) for _ in range(EPOCHS)])
        variables = initial_variables(self._model, GLYPHS.size, seed=seed)
        trained = self._program(
            schedule(jnp.arange(self.steps)), variables, order.reshape(self.steps, self._batch)
        )
        pixels, truth = self._images[held_out]
        return float(np.mean(np.asarray(self._guess(trained, pixels)) == truth))

    @cached_property
    def _program(self) -> Any:
        mesh = create_mesh(jax.devices()[:1], 1)
        halted, command = not_halted(mesh), host_signals(mesh)[GO]
        pixels, labels = map(jnp.asarray, self._images["training"])

        def train(rates: jax.Array, variables: Any, order: jax.Array) -> Any:
            optimizer = self._optimizer(lambda step: rates[step], variables["params"])
            step = TrainStep(self._model, optimizer, 0.0, 0.0, jax.random.key(0))
            step = jax.shard_map(
                step,
                mesh=mesh,
                in_specs=(EVERYWHERE, BY_REPLICA, EVERYWHERE),
                out_specs=(EVERYWHERE, EVERYWHERE),
            )

            def one(state: Any, numbers: jax.Array) -> tuple[Any, None]:
                image = pixels[numbers].astype(jnp.float32)
                batch = {"image": image, "label": labels[numbers], "command": command}
                return step(state, batch, halted)[0], None

            state, _ = lax.scan(one, init_state(variables, optimizer, ema=False), order)
            return state.variables

        return jax.jit(train)

    @cached_property
    def _guess(self) -> Any:
        def guess(variables: Any, pixels: jax.Array) -> jax.Array:
            images = normalise(pixels.astype(jnp.float32))
            return jnp.argmax(self._model.apply(variables, images, train=False), axis=-1)

        return jax.jit(guess)


class Search:
    """The search of one optimizer at one batch; every choice is tried once."""

    def __init__(self, training: Training, pool: ThreadPoolExecutor):
        """Begins with nothing tried."""
        self._training, self._pool = training, pool
        self.tried: dict[Choice, float] = {}

    def best_of(self, choices: list[Choice]) -> Choice:
        """Tries what is new of these, and returns the best of them."""
        new = [choice for choice in choices if choice not in self.tried]
        jobs = [(choice, seed) for choice in new for seed in SEARCH_SEEDS]
        found = list(self._pool.map(lambda job: self._training.accuracy(*job, "search"), jobs))
        for number, choice in enumerate(new):
            each = found[number * len(SEARCH_SEEDS) : (number + 1) * len(SEARCH_SEEDS)]
            self.tried[choice] = float(np.mean(each))
        return max(choices, key=lambda choice: self.tried[choice])

    def rate(self, warmup: float, start: float) -> Choice:
        """Returns the best rate with a warm-up: one of a row of factors of two, and not its first or last."""
        rates = [start / 2, start, 2 * start]
        while True:
            best = self.best_of([Choice(rate, warmup) for rate in rates])
            if best.rate not in (rates[0], rates[-1]) or len(rates) == MOST_RATES:
                return best
            rates = [rates[0] / 2, *rates] if best.rate == rates[0] else [*rates, 2 * rates[-1]]

    def run(self, start: float) -> Choice:
        """Returns the best choice: no other warm-up of the row is better, nor a rate beside it."""
        best = self.rate(0.25, start)
        while True:
            longer = self.best_of([Choice(best.rate, warmup) for warmup in WARMUPS])
            again = self.rate(longer.warmup, longer.rate)
            if again == best or self.tried[again] <= self.tried[best]:
                return best
            best = again


def measure(seeds: int, batches: list[int], report: Any) -> list[dict[str, Any]]:
    """Returns a row for each optimizer and batch."""
    drawn = {"training": (TRAINED, 0), "search": (HELD_OUT, 1), "final": (HELD_OUT, 2)}
    images = {name: GLYPHS.draw(count, seed=seed) for name, (count, seed) in drawn.items()}
    pixels, truth = images["final"]
    possible = float(np.mean(GLYPHS.best_guess(pixels) == truth))
    report(f"the best possible classifier gets {possible:.1%} right")
    rows = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for name, (optimizer, start) in OPTIMIZERS.items():
            for batch in batches:
                began, training = time.monotonic(), Training(optimizer, batch, images)
                search = Search(training, pool)
                best = search.run(start)
                final = partial(training.accuracy, best, held_out="final")
                found = list(pool.map(final, range(seeds)))
                middle, half = _interval(found)
                rates = sorted({choice.rate for choice in search.tried})
                tried = f"{len(search.tried)} tried, rates {rates[0]:g} to {rates[-1]:g}"
                rows.append(
                    {
                        "optimizer": name,
                        "batch": batch,
                        "steps": training.steps,
                        "rate": best.rate,
                        "warmup": best.warmup,
                        "rates_tried": rates,
                        "tried": len(search.tried),
                        "accuracy": found,
                        "mean": middle,
                        "half_interval": half,
                        "best_possible": possible,
                    }
                )
                report(
                    f"{name:8} {batch:5,} images a step, {training.steps:4,} steps: {middle:.1%} "
                    f"± {half:.1%} at a peak of {best.rate:g} ({best.rate * 256 / batch:g} per 256) after "
                    f"{best.warmup:.0%} of warm-up; {tried}; {time.monotonic() - began:.0f} s"
                )
                start = best.rate  # the next batch's is searched from here
    return rows


def _interval(found: list[float]) -> tuple[float, float]:
    """Returns the mean and half of its 95 % interval, by Student's distribution."""
    half = T_95[len(found)] * float(np.std(found, ddof=1)) / math.sqrt(len(found))
    return float(np.mean(found)), half


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes the picture: accuracy, and the best rate beside linear scaling."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, marker in zip(OPTIMIZERS, "os^d", strict=True):
        own = [row for row in rows if row["optimizer"] == name]
        batches = [row["batch"] for row in own]
        means, halves = ([100 * row[key] for row in own] for key in ("mean", "half_interval"))
        left.errorbar(batches, means, yerr=halves, marker=marker, capsize=3, label=name)
        first = own[0]["rate"]
        right.plot(batches, [row["rate"] / first for row in own], marker=marker, label=name)
    batches = sorted({row["batch"] for row in rows})
    left.axhline(100 * rows[0]["best_possible"], linestyle=":", color="grey", label="best possible")
    right.plot(batches, [batch / batches[0] for batch in batches], ":", color="grey", label="linear")
    right.plot(
        batches, [math.sqrt(batch / batches[0]) for batch in batches], "--", color="grey", label="square root"
    )
    left.set(title=f"{EPOCHS} epochs, each at its best rate", xlabel="images a step", ylabel="top-1, %")
    right.set(title="best peak rate, of that at the smallest batch", xlabel="images a step", yscale="log")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, choices=T_95)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--json", type=Path, help="gets a row for each optimizer and batch")
    parser.add_argument("--plot", type=Path, help="gets the picture, SVG or PNG")
    flags = parser.parse_args()
    runtime.start("cpu", 1)
    began = time.monotonic()
    rows = measure(flags.seeds, flags.batches, partial(print, flush=True))
    print(f"{time.monotonic() - began:.0f} s")
    for path in filter(None, (flags.json, flags.plot)):
        path.parent.mkdir(parents=True, exist_ok=True)
    if flags.json:
        flags.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if flags.plot:
        plot(rows, flags.plot)


if __name__ == "__main__":
    main()
