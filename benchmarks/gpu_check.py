"""Runs those tests on a GPU that say something there and need no TensorFlow, Orbax or TFDS.

They are the tests of the CPU, with their own references and on one device; products have the highest
precision. `--platform=cpu` runs the same list on one CPU device.
"""

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.resumable import ROOT


class Check(NamedTuple):
    """A test, and what a GPU could get wrong there."""

    test: str  # node of pytest, from the repository's root
    reason: str


CHECKS = (
    Check(
        "tests/models/test_convolutions.py::test_bfloat16_is_the_float32_result_rounded_once",
        "cuDNN's bfloat16 convolutions and their gradients sum in float32",
    ),
    Check(
        "tests/models/test_packing.py::test_a_block_diagonal_kernel_does_to_each_image_what_the_kernel_does",
        "two convolutions of other shapes, by other algorithms, have one result",
    ),
    Check(
        "tests/models/test_packing.py::test_the_kernel_of_row_pairs_does_what_the_kernel_does",
        "padding on one side alone, and strides that differ in height and width",
    ),
    Check(
        "tests/models/test_packing.py::test_a_packed_network_trains_like_the_plain_one",
        "gradients of whole networks by other algorithms",
    ),
    Check(
        "tests/models/test_folding.py::test_logits_are_the_same_but_for_rounding",
        "batch norm apart and inside the kernels before it",
    ),
    Check("tests/benchmarks/test_plain_flax.py::test_its_logits_are_ours", "logits of Flax's own layers"),
    Check(
        "tests/models/test_resnet.py::test_gradients_are_finite_and_reach_every_tensor",
        "bfloat16 gradients of pools and of convolutions of stride 2",
    ),
    Check(
        "tests/models/test_cifar_resnet.py::test_gradients_are_finite_and_reach_every_trained_tensor",
        "float32 and bfloat16 gradients of small images",
    ),
    Check(
        "tests/models/test_cifar_resnet.py::test_ghosts_are_batch_norm_of_the_parts",
        "sums over parts of a batch",
    ),
    Check("tests/run/test_mixing.py", "random draws, and images mixed by them, as numpy has them"),
)


class Outcomes:
    """Plug-in of pytest that notes what became of each test."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Notes a test that has run, and one that failed or was skipped before or after that."""
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.skipped:
            self.skipped.append(f"{report.nodeid}: {report.longrepr[2]}")
        elif report.when == "call":
            self.passed += 1

    def pytest_collectreport(self, report: Any) -> None:
        """Notes a file that cannot be read."""
        if report.failed:
            self.failed.append(report.nodeid)

    def words(self, platform: str) -> str:
        """Returns the numbers, and the names of what did not pass."""
        numbers = f"{self.passed} passed, {len(self.failed)} failed, {len(self.skipped)} left out"
        lines = [f"\non {platform}: {numbers}; tests that are not in the list were not tried"]
        lines += [f"failed: {name}" for name in self.failed]
        return "\n".join(lines + [f"left out: {name}" for name in self.skipped])


def run(platform: str, checks: Sequence[Check] = CHECKS) -> int:
    """Returns 0 if all tests of the list have passed on the platform, else 1; prints what became of them."""
    os.environ["EFFICIENTNET_POD_TEST_PLATFORM"] = platform
    os.chdir(ROOT)
    import pytest

    outcomes = Outcomes()
    for check in checks:
        print(f"{check.test}: {check.reason}")
    # What CUDA's libraries warn of is not what these tests are about.
    arguments = ["-q", "-p", "no:cacheprovider", "-W", "default", "--durations=5"]
    status = pytest.main([*arguments, *(check.test for check in checks)], plugins=[outcomes])
    print(outcomes.words(platform))
    return 1 if status or outcomes.failed else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--platform", choices=("cuda", "cpu"), default="cuda", help="where the tests run")
    flags = parser.parse_args()
    if importlib.util.find_spec("pytest") is None:
        parser.exit(2, "pytest is not installed, and runs these tests: pip install pytest\n")
    from benchmarks.gpu_step import require_device

    require_device(parser, flags.platform, "benchmarks.gpu_check --platform=cpu")
    sys.exit(run(flags.platform))


if __name__ == "__main__":
    main()
