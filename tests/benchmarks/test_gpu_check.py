"""The list of tests for a GPU names tests that are there, and what became of them is told."""

import subprocess
import sys

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import CHECKS, Check
from benchmarks.resumable import ROOT


def test_each_test_is_there_once_and_has_a_reason():
    for check in CHECKS:
        file, _, name = check.test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text() or not name, check.test
        assert check.reason
    assert len({check.test for check in CHECKS}) == len(CHECKS)


def test_what_became_of_each_test_is_told(tmp_path):
    """In a process of its own: pytest inside of pytest would share its plug-ins."""
    file = tmp_path / "test_three.py"
    file.write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "@pytest.mark.skip(reason='no such GPU')\n"
        "def test_other(): pass\n"
    )
    code = "from benchmarks.gpu_check import Check, run; "
    code += f"raise SystemExit(run('cpu', [Check({str(file)!r}, 'made up')]))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 1
    told = ended.stdout.partition("\non cpu: ")[2].splitlines()
    assert told[0].startswith("1 passed, 1 failed, 1 left out")
    assert told[1].startswith("failed: ") and told[1].endswith("test_three.py::test_bad")
    assert "test_three.py::test_other: " in told[2] and told[2].endswith("no such GPU")


def test_a_file_that_cannot_be_read_has_failed():
    outcomes = gpu_check.Outcomes()
    report = type("Report", (), {"failed": True, "nodeid": "tests/none.py"})
    outcomes.pytest_collectreport(report)
    assert "0 passed, 1 failed, 0 left out" in outcomes.words("cpu")


@pytest.mark.parametrize("platform", ["cuda", "cpu"])
def test_the_list_goes_to_pytest_with_its_platform(platform, monkeypatch):
    given = []
    monkeypatch.setenv("EFFICIENTNET_POD_TEST_PLATFORM", "")
    monkeypatch.setattr(pytest, "main", lambda arguments, plugins: given.append(arguments) or 0)
    assert gpu_check.run(platform, (Check("tests/a.py", "a"), Check("tests/b.py::test_b", "b"))) == 0
    assert given[0][-2:] == ["tests/a.py", "tests/b.py::test_b"]
    assert gpu_check.os.environ["EFFICIENTNET_POD_TEST_PLATFORM"] == platform
