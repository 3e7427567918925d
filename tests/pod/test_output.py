"""Output that nobody takes, of real processes: what they print is lost, and what they do is not."""

import json
import os
import re
import subprocess
import sys
import threading
import time

import pytest

FULL = "No space left on device"
UNWRITTEN = f"program: the results could not be printed: {FULL}; print them elsewhere\n"


def ended(body, *, redirect="", prints_results=True, stdout=subprocess.PIPE, **environment):
    """Returns exit code, standard output and standard error of a protected program."""
    program = (
        "import os, sys\nfrom efficientnet_pod.pod import output\noutput.protect()\n" + body + "\n"
        f"sys.exit(output.exit_code_with_output(0, program='program', prints_results={prints_results}))"
    )
    ended = subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {redirect}', sys.executable, program],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
        timeout=60,
    )
    return ended.returncode, ended.stdout, ended.stderr.decode(errors="replace")


@pytest.mark.parametrize(
    "redirect, prints_results, code, error",
    [
        (">/dev/full", True, 1, UNWRITTEN),
        (">/dev/full", False, 0, ""),
        (">/dev/full 2>/dev/full", True, 1, ""),
        ("2>/dev/full", True, 0, ""),
        (">&-", True, 0, ""),
        ("2>&-", True, 0, ""),
        ("<&- >&- 2>&-", False, 0, ""),
    ],
)
def test_a_program_goes_on_without_output_and_its_exit_code_says_what_it_did(
    redirect, prints_results, code, error, tmp_path
):
    body = (
        f"file = open({str(tmp_path / 'kept')!r}, 'w')\n"
        "print('in vain', flush=True); print('x' * 10**6); print('told', file=sys.stderr)\n"
        "os.system('echo of a library; echo of a library >&2')\n"
        "file.write('whole'); file.close()"
    )
    code_, _, printed = ended(body, redirect=redirect, prints_results=prints_results)
    assert code_ == code
    said = "" if "2>" in redirect else "told\nof a library\n"
    assert printed == said + error
    assert (tmp_path / "kept").read_text() == "whole"  # no standard descriptor has become this file's


def test_a_reader_that_has_gone_has_read_what_it_wanted():
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as unread:
        body = "print('x', flush=True); print(output.losses(), output.is_unread(), file=sys.stderr)"
        assert ended(body, stdout=unread) == (
            0,
            None,
            "(Loss(stream='standard output', reason='Broken pipe', is_unread=True),) True\n",
        )


def test_a_slow_reader_of_a_descriptor_that_does_not_block_gets_everything():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    got = []

    def read():
        with open(reader, "rb") as slow:
            time.sleep(0.3)
            got.append(slow.read())

    thread = threading.Thread(target=read)
    thread.start()
    with open(writer, "wb") as pipe:
        assert ended("for i in range(40000): print('line', i)", stdout=pipe)[::2] == (0, "")
    thread.join()
    assert got == ["".join(f"line {i}\n" for i in range(40000)).encode()]


def test_a_run_waits_for_no_reader_and_says_what_it_has_missed(tmp_path):
    reader, writer = os.pipe()
    stopped = tmp_path / "stopped"
    got = []

    def read():
        while not stopped.exists():
            time.sleep(0.01)
        with open(reader, "rb") as slow:
            got.append(slow.read(100_000))  # more than a pipe holds
            got.append(slow.read())

    body = (
        "output._PATIENCE = 0.1; output.wait_for_no_reader()\n"
        "for i in range(20000): print(f'line {i:5}')\n"
        f"open({str(stopped)!r}, 'w'); output._PATIENCE = 60; i = 0\n"
        "while i < 20000 or sys.stdout.buffer._missed: print(f'more {i % 1000:5}', flush=True); i += 1\n"
        "print(i, output.losses(), file=sys.stderr)"
    )
    thread = threading.Thread(target=read)
    thread.start()
    with open(writer, "wb") as pipe:
        code, _, error = ended(body, stdout=pipe, prints_results=False)
    thread.join()
    count, _, said = error.partition(" ")
    reason = "its reader has stopped"
    assert code == 0 and said == f"(Loss(stream='standard output', reason='{reason}', is_unread=False),)\n"
    text = b"".join(got).decode()
    missed = [
        int(number.replace(",", "")) for number in re.findall(r"\n\(([\d,]+) bytes were not read", text)
    ]
    notes = sum(len(f"\n({number:,} bytes were not read in time)\n") for number in missed)
    lines = 20000 + int(count)
    assert missed and len(text) - notes + sum(missed) == lines * len("line     0\n")


@pytest.mark.parametrize(
    "encoding, printed",
    [
        ("utf-8", "0 × 1 – … µs é \\udce9 😀"),
        ("iso-8859-1", "0 × 1 - ... µs é \\udce9 \\ud83d\\ude00"),
        ("ascii", "0 x 1 - ... us \\u00e9 \\udce9 \\ud83d\\ude00"),
        ("ascii:strict", "0 x 1 - ... us \\u00e9 \\udce9 \\ud83d\\ude00"),
    ],
)
def test_characters_that_a_stream_lacks_are_replaced(encoding, printed):
    body = "print('0 × 1 – … µs é \\udce9 \\U0001f600'); print('é', file=sys.stderr)"
    code, out, error = ended(body, PYTHONIOENCODING=encoding)
    assert code == 0 and out.decode(encoding.partition(":")[0]) == printed + "\n" and error
    assert json.loads(f'"{printed}"')[-1] == "😀"  # an object in JSON is one still


def test_the_locale_c_without_utf_8_is_ascii():
    code, out, error = ended("print('8 \\xd7 8')", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (code, out, error) == (0, b"8 x 8\n", "")
