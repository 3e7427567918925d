"""A benchmark's results are made once, outlive a cut-off line and a failure, and know their sources."""

from benchmarks import resumable
from benchmarks.resumable import Results, made_of

NOTHING_HERE = ["no_such_module"]
ANSWERS = ["timeit", "-n1", "-r1", "print('{\"cycles\": 3}')"]


def test_a_result_is_made_once(tmp_path):
    path = tmp_path / "results.jsonl"
    made = Results(path, resume=False).get({"row": "b0x32"}, ANSWERS)
    assert made == {"row": "b0x32", "cycles": 3}
    assert Results(path, resume=True).get({"row": "b0x32"}, NOTHING_HERE) == made
    assert Results(path, resume=True).get({"row": "b2x32"}, NOTHING_HERE) is None


def test_a_failure_is_counted_and_a_line_cut_off_is_made_again(tmp_path, capfd):
    path = tmp_path / "results.jsonl"
    path.write_text('{"row": "b0x32", "cycles": 1}\n{"row": "b2x32", "cy')
    results = Results(path, resume=True)
    assert results.get({"row": "b2x32"}, NOTHING_HERE) is None
    assert results.failures == 1
    assert "No module named no_such_module" in capfd.readouterr().err
    assert results.get({"row": "b2x32"}, ANSWERS) == {"row": "b2x32", "cycles": 3}
    again = Results(path, resume=True)
    assert [again.get({"row": row}, NOTHING_HERE)["cycles"] for row in ("b0x32", "b2x32")] == [1, 3]


def test_a_result_is_of_its_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(resumable, "ROOT", tmp_path)
    (tmp_path / "package").mkdir()
    digests = []
    for text in ("one", "two"):
        (tmp_path / "package" / "module.py").write_text(text)
        digests.append(made_of(["package"]))
    assert digests[0] != digests[1]
    assert digests[1] == made_of(["package"])


def test_a_command_that_takes_too_long_ends_with_all_it_has_started(tmp_path, capfd):
    """The child of the child holds the output open: waiting for that alone would take a minute."""
    sleep = "import subprocess; subprocess.run(['sleep', '60'])"
    results = Results(tmp_path / "results.jsonl", resume=False)
    assert results.get({"row": "b0x32"}, ["timeit", "-n1", "-r1", sleep], seconds=2) is None
    assert results.failures == 1 and "was ended after 2 s" in capfd.readouterr().err
