"""Links of the pages: to each other, and to files of the repository."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<!!)\[[^\]\n]*(?:\n[^\]\n]*)?\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(`{3,}|:{3,})[\s\S]*?^\1", re.MULTILINE)
_ELSEWHERE = ("http://", "https://", "mailto:")


def to_published(page: str, file: Path, repository: str) -> str:
    """Returns a page as it is published: its links to files outside of docs/ lead to the repository.

    Where the address of the repository is not known, such a link is its text alone.
    """

    def published(match: re.Match[str]) -> str:
        path, _, anchor = match[1].partition("#")
        place = (file.parent / path).resolve()
        if match[1].startswith((*_ELSEWHERE, "#")) or place.is_relative_to(DOCS):
            return match[0]
        text = match[0].rpartition("](")[0].removeprefix("[")
        if not repository:
            return text
        kind, inside = ("tree" if place.is_dir() else "blob"), place.relative_to(ROOT)
        return f"[{text}]({repository}/{kind}/main/{inside}{'#' if anchor else ''}{anchor})"

    return LINK.sub(published, page)


def broken(page: str, file: Path, anchors: dict[Path, set[str]]) -> list[str]:
    """Returns the links of a page that lead nowhere; ``anchors`` holds those of each page."""
    found = []
    for target in LINK.findall(FENCE.sub("", page)):
        path, _, anchor = target.partition("#")
        place = (file.parent / path).resolve() if path else file
        if target.startswith(_ELSEWHERE):
            continue
        known = anchors.get(place)
        if not place.exists() or (anchor and known is not None and anchor not in known):
            found.append(target)
    return found


def anchors_of(page: str) -> set[str]:
    """Returns the anchors of a page: those of its headings."""
    text = re.sub(r"^```[\s\S]*?^```", "", page, flags=re.MULTILINE)
    return {slug(heading) for heading in re.findall(r"^#{1,3} (.+)$", text, re.MULTILINE)}


def slug(heading: str) -> str:
    """Returns the anchor of a heading; dots and underscores become hyphens."""
    words = re.sub(r"[._ ]", "-", heading.strip().lower())
    return re.sub(r"[^\w-]", "", words)
