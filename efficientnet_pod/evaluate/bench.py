"""What an image costs: programs of trained weights timed in turn, as a table, as JSON and for DAWNBench."""

import dataclasses
import os
import platform
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich.console import Console

from efficientnet_pod.errors import UserError, is_out_of_memory
from efficientnet_pod.evaluate.latency import Timing, accuracy, calls_within, compiler_of, timed
from efficientnet_pod.pod.chips import Chip, chip_of
from efficientnet_pod.pod.cpu import cpu_facts
from efficientnet_pod.pod.prices import price_of, price_source
from efficientnet_pod.pod.runtime import Runtime, version_of
from efficientnet_pod.pod.terminal import NOT_KNOWN, plural, progress_bar, significant, table, three_digits
from efficientnet_pod.pod.version import VERSION
from efficientnet_pod.run.run import Run
from efficientnet_pod.weights.trained import Trained

PERCENTILES = (50, 90, 99)
IMAGES = 10_000  # that the price is for
_FRAMEWORKS = {
    "jax": ("jax", "JAX"),
    "stablehlo": ("jax", "StableHLO by JAX"),
    "onnx": ("onnxruntime", "onnxruntime"),
}


@dataclasses.dataclass
class Bench:
    """The timings of weights on one device.

    Attributes:
      path: where the weights come from.
      trained: the weights.
      here: the backend of this process.
      timings: programs timed so far.
    """

    path: str
    trained: Trained
    here: Runtime
    timings: list[Timing] = dataclasses.field(default_factory=list)

    @property
    def chip(self) -> Chip | None:
        """Chip of the device; None if it is not in the table."""
        return chip_of(self.here.device_kind)

    @property
    def hardware(self) -> str:
        """The device, for people."""
        if self.here.platform == "cpu":
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            return f"{plural(cores, 'core')} of {_cpu()}"
        return f"1 {self.chip.replica} of {self.chip.title}" if self.chip else f"1 {self.here.device_kind}"

    @property
    def usd_per_hour(self) -> float | None:
        """Price of the device on demand, in the cheapest region; None where none is known."""
        price = price_of(self.chip, 1) if self.chip else None
        return price.least / self.chip.devices if self.chip and price else None

    def usd(self, timing: Timing) -> float | None:
        """Returns the price of 10,000 images."""
        if self.usd_per_hour is None:
            return None
        return self.usd_per_hour / 3600 * IMAGES / timing.images_per_second

    def add(
        self,
        backend: str,
        batches: Sequence[int],
        *,
        seconds: float,
        run: Run | None = None,
        onnx_python: str | None = None,
        warn: Callable[[str], None],
    ) -> None:
        """Compiles, warms up and times the program of each batch, with a bar, and counts its hits.

        A batch that does not fit the memory gets a warning and no row.

        Args:
          backend: name in :data:`.latency.BACKENDS`.
          batches: images of a call.
          seconds: time that the calls of a row fill.
          run: images, which the program of the largest batch classifies; None: accuracy is not measured.
          onnx_python: see :func:`.compiler_of`.
          warn: gets sentences.

        Raises:
          UserError: see :func:`.compiler_of`.
        """
        size, timings, largest = self.trained.image_size, [], None
        with compiler_of(backend, self.trained, self.path, onnx_python=onnx_python) as compile_for:
            for batch in sorted(batches):
                title = f"{backend}, {plural(batch, 'image')}"
                try:
                    with progress_bar(f"{title}: compiling", total=1, unit="programs"):
                        began = time.perf_counter()
                        program = compile_for(batch)
                        compile_seconds = time.perf_counter() - began
                    levels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
                    calls = calls_within(seconds, program, levels)
                    with progress_bar(title, total=calls, unit="calls") as advance:
                        taken = timed(program, levels, calls, advance)
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    warn(f"{title} do not fit the memory; lower --batch={batch}")
                    break  # nor do more
                timing, largest = Timing(backend, batch, compile_seconds, taken), (program, batch)
                timings.append(timing)
                self.timings.append(timing)
            if run and largest:
                with progress_bar(f"{backend}: top-1", total=run.plan.num_eval, unit="images") as advance:
                    rates = accuracy(*largest, run, advance)
                self.timings = [
                    dataclasses.replace(timing, rates=rates) if timing in timings else timing
                    for timing in self.timings
                ]

    def print(self, console: Console) -> None:
        """Prints a row for each program, below what was measured on what."""
        trained = self.trained
        images = next((timing.rates.images for timing in self.timings if timing.rates), None)
        console.print(f"{trained.title}, {trained.image_size} px, float32, on {self.hardware}")
        accuracy_of = f"; top-1 of {images:,}" if images else ""
        console.print(
            f"uint8 images in, logits out; compile in s, p50 to p99 of n calls in ms, USD for {IMAGES:,}"
            f"{accuracy_of}\n"
        )
        percentiles = (f"p{percent}" for percent in PERCENTILES)
        names = ("backend", "images", "compile", "n", *percentiles, "images/s", "USD")
        rows = table(*names, *(["top-1"] if images else []))
        rows.columns[0].no_wrap = True
        for timing in self.timings:
            rates = [f"{timing.rates.top1:.2%}" if timing.rates else NOT_KNOWN] if images else []
            rows.add_row(
                timing.backend,
                f"{timing.batch:,}",
                f"{timing.compile_seconds:.1f}",
                f"{len(timing.seconds):,}",
                *(three_digits(_ms(timing.percentile(percent))) for percent in PERCENTILES),
                three_digits(timing.images_per_second),
                significant(self.usd(timing), 3),
                *rates,
            )
        console.print(rows)

    def as_json(self) -> dict[str, Any]:
        """Returns plain values: ``weights``, ``device``, ``versions`` and ``rows``."""
        trained = self.trained
        return {
            "weights": {"path": self.path, "title": trained.title, "network": trained.network},
            "image_size": trained.image_size,
            "dtype": "float32",
            "device": {
                "hardware": self.hardware,
                "platform": self.here.platform,
                "kind": self.here.device_kind,
                "usd_per_hour": self.usd_per_hour,
                "usd_source": price_source(self.chip) if self.chip and self.usd_per_hour else None,
            },
            "versions": {name: version_of(name) for name in ("jax", "jaxlib", "onnxruntime")}
            | {"efficientnet_pod": VERSION},
            "rows": [
                {
                    "backend": timing.backend,
                    "images": timing.batch,
                    "compile_seconds": timing.compile_seconds,
                    "calls": len(timing.seconds),
                    "latency_ms": {
                        **{f"p{percent}": _ms(timing.percentile(percent)) for percent in PERCENTILES},
                        "mean": _ms(timing.mean),
                        "min": _ms(min(timing.seconds)),
                        "max": _ms(max(timing.seconds)),
                    },
                    "images_per_second": timing.images_per_second,
                    f"usd_per_{IMAGES}_images": self.usd(timing),
                    "accuracy": dataclasses.asdict(timing.rates) if timing.rates else None,
                }
                for timing in self.timings
            ],
        }

    def as_dawnbench(self) -> dict[str, Any]:
        """Returns an entry of DAWNBench's inference: the fastest program of one image.

        Author and e-mail are left for the sender to add. The latency is the mean of the calls, in
        milliseconds, and the cost that of one image, in US dollars.

        Source: the instructions of stanford-futuredata/dawn-bench-entries.

        Raises:
          UserError: no program of one image was timed.
        """
        single = [timing for timing in self.timings if timing.batch == 1]
        if not single:
            raise UserError("DAWNBench asks for images one at a time; add 1 to --batch")
        best = min(single, key=lambda timing: timing.mean)
        package, framework = _FRAMEWORKS[best.backend]
        entry: dict[str, Any] = {
            "version": "v1.0",
            "author": "",
            "authorEmail": "",
            "framework": f"{framework} {version_of(package) or ''}".strip() + f", efficientnet-pod {VERSION}",
            "model": self.trained.title,
            "hardware": self.hardware,
            "latency": _ms(best.mean),
        }
        if (usd := self.usd(best)) is not None:
            entry["cost"] = usd / IMAGES
        if best.rates:
            entry |= {"top1Accuracy": 100 * best.rates.top1, "top5Accuracy": 100 * best.rates.top5}
        return entry | {
            "timestamp": f"{datetime.now(UTC):%Y-%m-%d}",
            "misc": {
                "batchSize": 1,
                "imageSize": self.trained.image_size,
                "calls": len(best.seconds),
                "compileSeconds": best.compile_seconds,
                "imagesEvaluated": best.rates.images if best.rates else None,
                **{f"p{percent}Latency": _ms(best.percentile(percent)) for percent in PERCENTILES},
            },
        }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def _cpu() -> str:
    """Returns the name of this machine's CPU."""
    return cpu_facts().get("model name") or platform.processor() or platform.machine() or "a CPU"
