"""Files of a workdir: whole or not at all, and errors that name the remedy."""

import errno
import os
import sys

import pytest
from etils import epath

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.workdir import files
from efficientnet_pod.workdir.workdir import Workdir


def test_a_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    workdir = Workdir(tmp_path)
    workdir.write_text("parameters.txt", "old\n")
    with (
        monkeypatch.context() as patch,
        pytest.raises(RunError, match=r"parameters.txt' cannot.*bytes free; "),
    ):
        patch.setattr(os, "replace", refused)
        workdir.write_text("parameters.txt", "new\n")
    assert (tmp_path / "parameters.txt").read_text() == "old\n" and os.listdir(tmp_path) == ["parameters.txt"]
    with pytest.raises(
        RunError, match=r"gone/a.txt' cannot be written: No such file or directory; correct that"
    ):
        Workdir(tmp_path / "gone").write_text("a.txt", "")  # no folder, no free bytes to tell


def test_a_device_or_a_pipe_is_written_to_and_never_replaced(tmp_path):
    os.mkfifo(pipe := tmp_path / "pipe")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for path in (str(pipe), "/dev/null"):
        files.require_output(path, "--json")
        files.write_result(path, b"{}\n")
    assert os.read(reader, 9) == b"{}\n" and pipe.is_fifo() and os.path.samefile(os.devnull, "/dev/null")
    os.close(reader)
    assert os.listdir(tmp_path) == ["pipe"] and not os.path.isfile("/dev/null")


def test_a_damaged_summary_is_none(tmp_path):
    workdir = Workdir(tmp_path)
    assert workdir.summary() is None
    workdir.write("summary.json", {"final": {"top1": 0.5}})
    assert workdir.summary() == {"final": {"top1": 0.5}}
    whole = (tmp_path / "summary.json").read_bytes()
    for damage in (b"", whole[:-9], b"[]", b"\xff"):
        (tmp_path / "summary.json").write_bytes(damage)
        assert workdir.summary() is None


def test_a_workdir_on_a_full_disk_is_refused_with_the_room_there_is(tmp_path, monkeypatch):
    def full(self, text):
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_bytes", full)
    message = (
        r"workdir '.*/run' cannot be written: No space left on device, [\d,]+ bytes free; make room there"
    )
    with pytest.raises(UserError, match=message):
        files.make_writable(epath.Path(tmp_path / "run"))


def test_a_workdir_on_gs_without_the_package_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)  # as if it were not installed
    with pytest.raises(
        UserError, match=r"'gs://bucket/run' is in Google Cloud .*pip install 'efficientnet-pod\[gcs"
    ):
        files.make_writable(epath.Path("gs://bucket/run"))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("runs/a", "HERE/runs/a"),
        ("./a//b/", "HERE/a/b"),
        ("~/runs", "HOME/runs"),
        ("./~", "HERE/~"),
        ("a~b/~", "HERE/a~b/~"),
        ("-a [0.1] {x} 50 %20 #*?$'\"\\é ", "HERE/-a [0.1] {x} 50 %20 #*?$'\"\\é "),
        ("/a:b/gs:c", "/a:b/gs:c"),
        ("gs://bucket/run 1,b=2/", "gs://bucket/run 1,b=2"),
    ],
)
def test_a_path_means_the_same_to_every_command(tmp_path, monkeypatch, given, kept):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    kept = kept.replace("HERE", str(tmp_path)).replace("HOME", "/home/me")
    assert str(files.absolute(given)) == str(Workdir(given).path) == kept


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("", "the path of the workdir is empty; give one"),
        ("~nobody-here/x", "'~nobody-here' has no home folder; write ./~nobody-here/x for"),
        ("a\nb", r"'a\?b' has line ends, control characters or bytes that are no UTF-8; choose"),
        ("caf\udce9", r"'caf\?' has line ends"),
        ("\x1b[31mred", r"'\?\[31mred' has line ends"),
        ("gs:/bucket/run", "is no path of a known kind; write gs://BUCKET/RUN"),
        ("s3://bucket/run", "is no path of a known kind"),
        ("file:///run", "is no path of a known kind"),
        ("gs://bucket/lr[0.1]", "has one of .* which mean something else in a bucket"),
        ("gs://bucket/50%20", "has one of"),
        ("/gs/run", "'/gs/run' would be taken for gs://run; give that, or another local folder"),
    ],
)
def test_a_path_that_cannot_be_kept_is_refused(given, why):
    with pytest.raises(UserError, match=why) as caught:
        Workdir(given)
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("error", "damage"),
    [
        (ValueError("RESOURCE_EXHAUSTED: Error reading gs://b/x: HTTP response code: 429"), False),
        (ValueError("INTERNAL: HTTP response code: 500"), False),
        (ValueError("Error reading manifest: UNKNOWN: something"), False),
        (type("ResourceExhaustedError", (Exception,), {})("quota"), False),
        (type("TooManyRequests", (Exception,), {})("429 GET"), False),
        (ConnectionResetError("by peer"), False),
        (OSError(errno.EACCES, ""), False),
        (MemoryError(), False),
        (OSError(errno.ENOENT, ""), True),
        (OSError(errno.EIO, ""), True),
        (ValueError("DATA_LOSS: CRC-32C checksum verification failed"), True),
        (ValueError("NOT_FOUND: key"), True),
        (ValueError("OUT_OF_RANGE: requested byte range"), True),
        (ValueError("FAILED_PRECONDITION: Error opening"), True),
        (ValueError("Unknown codec 'zstx'"), True),
        (KeyError("internal_shape"), True),
    ],
)
def test_what_speaks_against_a_file_and_what_against_the_way_to_it(error, damage):
    assert files.is_damage(error) is damage
