"""Damaged checkpoints: found, kept, and never taken for a fresh start."""

import errno
import shutil
from pathlib import Path

import pytest
from states import abstract, bits, damage, make_state, names, newest

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.workdir.checkpoints import checkpoints as checkpoint_module
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints


# Orbax closes its event loop at the first error of a read, with others still under way.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["flip", "truncate", "delete"])
def test_a_damaged_file_of_any_kind_is_found_or_does_no_harm(saved, tmp_path, kind):
    files = sorted(path.relative_to(saved / "3") for path in (saved / "3").rglob("*") if path.is_file())
    assert len(files) > 8
    lost = set()
    for number, name in enumerate(files):
        folder = Path(shutil.copytree(saved, tmp_path / str(number)))
        damage(folder / "3" / name, kind)
        step, state, warnings = newest(folder)
        assert bits(state) == bits(make_state(step)), name
        if step == 3:
            continue
        lost.add(str(name))
        assert step == 2 and len(warnings) == 1 and "checkpoint 3" in warnings[0] and "damaged" in warnings[0]
        (aside,) = [other for other in names(folder) if other.startswith("damaged-3-")]
        assert aside in warnings[0]
        left = {path.relative_to(folder / aside) for path in (folder / aside).rglob("*") if path.is_file()}
        assert left == set(files) - ({name} if kind == "delete" else set())  # nothing more is lost
        assert newest(folder)[0] == 2 and not newest(folder)[2]
    largest = max(files, key=lambda name: (saved / "3" / name).stat().st_size)
    assert {
        "commit.json",
        str(largest),
        "state/_METADATA",
        "state/manifest.ocdbt",
    } <= lost or kind == "flip"
    assert {"commit.json", str(largest)} <= lost


def test_no_byte_of_a_commit_can_change_unseen(copy):
    commit = copy / "3" / "commit.json"
    raw = commit.read_bytes()
    with Checkpoints(copy) as checkpoints:
        for place in range(0, len(raw), 97):
            commit.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
            with pytest.raises(
                UserError, match=r"checkpoint 3 in .* is damaged: commit\.json .*there are: 1, 2$"
            ):
                checkpoints.commit(3)
        commit.write_bytes(raw)
        assert checkpoints.commit(3)["step"] == 3


def test_empty_folders_and_foreign_commits_are_damage(copy):
    (copy / "7").mkdir()
    shutil.copytree(copy / "1", copy / "6")
    shutil.rmtree(copy / "3" / "state")
    (copy / "notes").mkdir()
    with Checkpoints(copy) as checkpoints:
        assert checkpoints.steps == [1, 2, 3, 6]
        assert [checkpoints.named(which) for which in ("latest", "best")] == [6, 3]
        for step in (3, 6, 7):
            with pytest.raises(UserError, match=f"checkpoint {step} in .* is damaged: "):
                checkpoints.restore(step, abstract(make_state(0)))
        with pytest.raises(UserError, match=r"no checkpoint of step 5 in .*; there are: 1, 2, 3, 6"):
            checkpoints.restore(5, abstract(make_state(0)))
    assert names(copy) == ["1", "2", "3", "6", "7", "notes"]  # reading changes nothing
    step, _, warnings = newest(copy)
    assert step == 2 and [line.split()[1] for line in warnings] == ["7", "6", "3"]
    assert [name.split("-")[:2] for name in names(copy)[2:5]] == [["damaged", s] for s in "367"]


def test_no_good_checkpoint_is_never_a_fresh_start(copy):
    for step in (1, 2, 3):
        damage(copy / str(step) / "commit.json", "truncate")
    for _ in range(2):
        with pytest.raises(UserError, match=r"no good checkpoint .*step 3: commit\.json.*--workdir"):
            newest(copy)
        assert names(copy) == ["1", "2", "3"]
    shutil.rmtree(copy / "1")
    shutil.rmtree(copy / "2")
    (copy / "3").rename(copy / "damaged-3-20261231T000000.000000Z")
    with pytest.raises(UserError, match="no good checkpoint .*damaged-3-2026"):
        newest(copy)


def test_a_checkpoint_that_cannot_be_read_now_is_not_called_damaged(copy, monkeypatch):
    class UnavailableError(Exception):
        pass

    for error in (OSError(errno.EMFILE, ""), ValueError("PERMISSION_DENIED: no"), UnavailableError("later")):
        monkeypatch.setattr(
            checkpoint_module, "_restore_arrays", lambda *_, error=error: (_ for _ in ()).throw(error)
        )
        with pytest.raises(RunError, match="checkpoint .* cannot be read: "):
            newest(copy)
    assert names(copy) == ["1", "2", "3"]
