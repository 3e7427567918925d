"""Shows that the input pipeline's memory is bounded: the resident set, each second, over 20,000 images.

Command: python -m benchmarks.input_memory
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from benchmarks import input_ours
from benchmarks.input_rate import BATCH, CONTENDERS, TASKS
from benchmarks.photos import CACHE, photos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, default=CACHE)
    parser.add_argument("--task", choices=TASKS, default="crop+flip")
    parser.add_argument("--images", type=int, default=20_000)
    flags = parser.parse_args()
    settings = CONTENDERS["ours, fast"][1]
    batches, description = input_ours.prepare(photos(flags.photos), flags.task, BATCH, **settings)
    seen, start, samples = 0, time.perf_counter(), []
    while seen < flags.images:
        next(batches)
        seen += BATCH
        if time.perf_counter() - start >= len(samples):  # at most one a second
            samples.append((seen, _resident()))
    later = np.array([sample for sample in samples if sample[0] >= seen / 4], np.float64)
    slope, _ = np.polyfit(*later.T, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print("images seen: resident MB")
    for images, megabytes in samples[:: max(1, len(samples) // 10)]:
        print(f"{images:>7,}: {megabytes:,.0f}")
    print(f"{flags.task}, {description}: {seen:,} images in {time.perf_counter() - start:.0f} s")
    low, high = later[:, 1].min(), later[:, 1].max()
    print(f"peak {peak:,.0f} MB; over the last three quarters, n = {len(later)}: ", end="")
    print(f"{low:,.0f} to {high:,.0f} MB, slope {slope * 1e4:+.1f} MB per 10,000 images")


def _resident() -> float:
    """Returns the memory that the process has now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    main()
