"""Numbers in words, tables, and a bar that only a terminal shows."""

import io

import pytest
from rich.console import Console

from efficientnet_pod.pod.terminal import (
    byte_size,
    console,
    duration,
    percent,
    plural,
    progress_bar,
    share,
    short_duration,
    significant,
    table,
    three_digits,
    whole_number,
)


def test_durations():
    texts = {0: "0.0 s", 4.21: "4.2 s", 47: "47 s", 59.97: "1 min", 165.4: "2 min 45 s", 3599.9: "1 h",
             11520: "3 h 12 min", 183600: "2 d 3 h"}  # fmt: skip
    assert {seconds: duration(seconds) for seconds in texts} == texts
    short = {55.8: "55.8 s", 0.0558: "55.8 ms", 1.2e-5: "12.0 µs"}
    assert {seconds: short_duration(seconds) for seconds in short} == short


def test_numbers():
    assert [significant(value) for value in (0.012344, 5.0, 12345.6)] == ["0.01234", "5", "12,346"]
    assert [three_digits(value) for value in (1.234, 12.34, 1234.5)] == ["1.23", "12.3", "1,234"]
    assert [byte_size(value) for value in (5 << 29, 1 << 19)] == ["2.50 GiB", "0.5 MiB"]
    assert percent(0.9861) == "98.61 %" and whole_number(1281167.0) == "1,281,167"
    assert [share(part, 1000) for part in (0.2, 50, 123)] == ["<0.1 %", "5.0 %", "12 %"]
    assert plural(1, "host") == "1 host" and plural(1024, "batch", "batches") == "1,024 batches"


@pytest.mark.parametrize(
    "text_of", [duration, short_duration, significant, three_digits, byte_size, percent, whole_number]
)
def test_an_unknown_number_is_a_dash(text_of):
    assert text_of(None) == share(None, 1) == share(1, 0) == "–"


def test_a_table_aligns_words_to_the_left_and_numbers_to_the_right():
    out = io.StringIO()
    rows = table("name", "images")
    rows.add_row("a", "1,024")
    rows.add_row("long name", "7")
    Console(file=out, width=40).print(rows)
    assert out.getvalue().splitlines()[1:] == ["a           1,024", "long name       7"]


@pytest.mark.parametrize("text", ["[red]", "[/]", "[link=x]y[/link]", ":dog:", "a\\[b]", "[bold]c[/bold]"])
def test_text_is_no_markup_and_a_line_of_a_file_is_whole(text):
    out = io.StringIO()
    rows = table(text, "number")
    rows.title = text
    rows.add_row(f"{text} " + 300 * "w", "1")
    rows.add_row(text, "")
    plain = console(file=out)
    plain.print(text, rows, f"{text} " + 300 * "v", sep="\n")
    lines = out.getvalue().splitlines()
    assert (lines[0], lines[-1]) == (text, f"{text} " + 300 * "v")
    assert lines[1].strip() == text and lines[2].split() == [*text.split(), "number"]
    assert lines[3].split() == [*text.split(), 300 * "w", "1"] and lines[4] == text
    console(file=out, quiet=True).print("unseen")
    assert "unseen" not in out.getvalue()


def test_a_bar_is_shown_on_a_terminal_only():
    for is_terminal in (False, True):
        out = io.StringIO()
        console = Console(file=out, force_terminal=is_terminal, width=100)
        with progress_bar("reading", total=10, unit="images", on=console) as advance:
            advance(4)
        assert ("reading" in out.getvalue()) is is_terminal


def test_a_notebook_gets_the_lines_of_a_file(monkeypatch, capsys):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    out = console()
    out.print("warning", style="yellow")
    assert not out.is_terminal and not out.is_jupyter and capsys.readouterr().out == "warning\n"
