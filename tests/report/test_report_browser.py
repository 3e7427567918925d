"""The page in a real browser: it asks for nothing, complains about nothing, and fits a phone."""

import io

import chromium
import pytest
from PIL import Image
from report_runs import eventful_journal, row_mesh, write_pod_run, write_run

from efficientnet_pod.report.page import write_report

BROWSER = chromium.find()
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="there is no Chromium; Debian: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser():
    assert BROWSER
    with chromium.Chromium(BROWSER) as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A run with all its files, and two side by side whose names and values are long."""
    folder = tmp_path_factory.mktemp("pages")
    full = write_pod_run(folder / "b5-v3-1024")
    long = write_run(folder / ("a-name-without-a-place-to-break-" * 5), journal=eventful_journal())
    plain = write_run(folder / "plain", mesh=row_mesh(8, 8))
    write_report([full], folder / "full.html")
    write_report([long, plain], folder / "two.html")
    return [folder / "full.html", folder / "two.html"]


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_the_page_is_one_file_that_fits(browser, pages, width):
    paper = {}
    for file in pages:
        for scheme in ("light", "dark"):
            seen = browser.open(file, width=width, scheme=scheme)
            asked = [url for url in seen.requests if not url.startswith("data:")]
            assert asked == [file.as_uri()]
            assert seen.complaints == []
            assert seen.width <= seen.shown == width
            assert "Where the time went" in seen.text and "Complete after" in seen.text
            picture = Image.open(io.BytesIO(seen.png)).convert("RGB")
            colours = picture.getcolors(maxcolors=1 << 24)
            assert picture.height > 2000 and colours and len(colours) > 50
            paper[scheme] = max(colours)[1][0]  # that of most pixels, its red
    assert paper["light"] > 240 and paper["dark"] < 40
