"""The light check of the documents finds what it is for."""

import importlib.util
from pathlib import Path

import pytest
from from_code import links

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("docs_check", ROOT / "docs" / "check.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_documents_are_well(check):
    assert [*check.faulty_links(), *check.faulty_commands()] == []


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("efficientnet-pod trian --workdir=x", "there is no such command"),
        ("efficientnet-pod train --wrokdir=x", "--wrokdir is no flag of it"),
        (
            "efficientnet-pod train --config=a.py --config.data.cutuot=16",
            "--config.data.cutuot is no flag of it",
        ),
        ("efficientnet-pod evaluate runs/digits --config=a.py", "--config is no flag of it"),
        (
            "efficientnet-pod launch submit --tpu=v3-8 -- --config=a.py --config.epoch=1",
            "--config.epoch is no flag of it",
        ),
        ("efficientnet-pod train --config='a", "No closing quotation"),
        ("efficientnet-pod pod --processes=2 -- train --config.phases.any.image_size=16", None),
        ("efficientnet-pod data describe --check=all", None),
        ("make smoke", None),
    ],
)
def test_a_faulty_command_is_found(check, command, fault):
    assert check.fault_of(command) == fault


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    page.write_text(
        "# Title\n\n[a](other.md) [b](other.md#a-b) [c](gone.md) [d](other.md#a-c) [e](#title) [f](#tilte)"
    )
    other.write_text("# Other\n\n## `a.b`\n")
    anchors = {path: links.anchors_of(path.read_text()) for path in (page, other)}
    assert links.broken(page.read_text(), page, anchors) == ["gone.md", "other.md#a-c", "#tilte"]


def test_a_link_out_of_the_pages_leads_to_the_repository(tmp_path):
    page = links.DOCS / "concepts" / "page.md"
    text = "[all](../../records/tpu_scale.md), [plan](plan.md), [paper](https://arxiv.org/abs/2011.00071)"
    shown = links.to_published(text, page, "https://host/us/it")
    assert shown == text.replace("../../", "https://host/us/it/blob/main/")
    assert links.to_published(text, page, "") == text.replace("[all](../../records/tpu_scale.md)", "all")
