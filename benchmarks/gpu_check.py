"""Runs those tests on a GPU that say something there and need no TensorFlow, Orbax or TFDS.

They are the tests of the CPU, with their own references and on one device; products have the highest
precision. `--platform=cpu` runs the same list on one CPU device.
"""

import argparse
import importlib.util
import os
import sys
from collections import Counter
from typing import Any, NamedTuple

from benchmarks.resumable import ROOT


class Check(NamedTuple):
    """A file of tests, or one test, and why it is worth running on a GPU.

    Attributes:
      tests: file or node of pytest, from the repository's root.
      reason: what a GPU could get wrong there.
      left_out: test of the file that is not run → the reason.
    """

    tests: str
    reason: str
    left_out: dict[str, str] = {}


EIGHT = "needs eight devices"
CPU_ONLY = "compares programs for the CPU"
CHECKS: tuple[Check, ...] = ()


class Outcomes:
    """Plug-in of pytest: counts tests by what became of them, and keeps reasons."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failed: list[str] = []
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Counts a test when it has run, or failed or was skipped before that."""
        if report.when != "call" and report.passed:
            return
        self.counts[report.outcome] += 1
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.skipped:
            self.skipped.append(f"{report.nodeid}: {report.longrepr[2]}")

    def pytest_collectreport(self, report: Any) -> None:
        """Counts a file that cannot be read as a failure."""
        if report.failed:
            self.counts["failed"] += 1
            self.failed.append(report.nodeid)


def run(platform: str, checks: tuple[Check, ...] = CHECKS) -> int:
    """Returns 0 if all tests of the list have passed on the platform, else 1; prints what became of them."""
    os.environ["EFFICIENTNET_POD_TEST_PLATFORM"] = platform
    os.chdir(ROOT)
    import pytest

    outcomes = Outcomes()
    for check in checks:
        print(f"{check.tests}: {check.reason}")
    arguments = ["-q", "-p", "no:cacheprovider", "-W", "default", "--durations=5"]
    arguments += [f"--deselect={check.tests}::{test}" for check in checks for test in check.left_out]
    status = pytest.main([*arguments, *(check.tests for check in checks)], plugins=[outcomes])
    left_out = [f"{check.tests}::{test}: {why}" for check in checks for test, why in check.left_out.items()]
    left_out += outcomes.skipped
    print(f"\non {platform}: {outcomes.counts['passed']} passed, {len(outcomes.failed)} failed, ", end="")
    print(f"{len(left_out)} left out; files of tests that are not in the list are left out too")
    print(*(f"failed: {name}" for name in outcomes.failed), sep="\n")
    print(*(f"left out: {name}" for name in left_out), sep="\n")
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
