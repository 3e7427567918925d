"""Makes the README's two pictures from a real run: the terminal while it trains, and its report.

Needs Chromium. `make pictures` trains the digits for two minutes first; --run=WORKDIR and --log=FILE take a
run that is there, and what it printed.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

OUT = Path(__file__).parent / "_static"
WIDTH, HEIGHT = 1180, 1260  # pixels of the report's picture
COLUMNS = 118
COMMAND = ["efficientnet-pod", "train", "--config=digits", "--workdir=runs/digits"]
# Rich's own has fonts of another site in it, which pages of code do not load.
SVG = (
    '<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">'
    "<style>.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, monospace; font-size: "
    "{char_height}px; line-height: {line_height}px; }} {styles}</style><defs>"
    '<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" '
    'height="{terminal_height}" /></clipPath>{lines}</defs>{chrome}<g transform="translate({terminal_x}, '
    '{terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">{backgrounds}'
    '<g class="{unique_id}-matrix">{matrix}</g></g></svg>'
)


def main() -> None:
    """Trains if there is no run to take, and writes both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--log", type=Path)
    values = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        sys.exit("pictures: no Chromium here; Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        run = values.run or Path(folder) / "digits"
        if values.log:
            printed = values.log.read_text("utf-8")
        else:
            command = [sys.executable, "-m", "efficientnet_pod", *COMMAND[1:-1], f"--workdir={run}"]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        OUT.mkdir(exist_ok=True)
        terminal(printed.replace(str(run), "runs/digits"), OUT / "terminal.svg")
        report(browser, run / "report.html", OUT / "report.png")


def terminal(printed: str, path: Path) -> None:
    """Draws what a run printed: the plan, and the last lines."""
    lines = [line for line in printed.splitlines() if not line.startswith(("note", "process"))]
    first_epoch = next(number for number, line in enumerate(lines) if line.startswith("epoch"))
    shown = [*lines[:first_epoch], "…", *lines[-12:]]
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system=None)
    console.print(Text.assemble(("$ ", "bold green"), (" ".join(COMMAND), "bold")))
    for line in shown:
        style = "cyan" if " eval " in line else "bold" if line.startswith("top-1") else ""
        console.print(Text(line, style=style), overflow="crop", no_wrap=True)
    path.write_text(console.export_svg(title="efficientnet-pod", code_format=SVG, unique_id="t"), "utf-8")


def report(browser: str, page: Path, path: Path) -> None:
    """Takes the picture of a report's top, in few colours."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        flags = ["--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]
        command = [browser, *flags, f"--screenshot={shot}", page.absolute().as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        picture = Image.open(shot).convert("RGB").crop((0, 0, WIDTH, HEIGHT))
    picture.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
