"""Links of every Markdown page lead to a file of the repository, and to a heading where they name one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("", "benchmarks", "docs", "examples", "polytopes")
PAGES = sorted(
    page
    for folder in FOLDERS
    for page in ((ROOT / folder).rglob("*.md") if folder else ROOT.glob("*.md"))
    if "_build" not in page.parts
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|^:(?:img-top|link): (\S+)$", re.MULTILINE)
OUTSIDE = ("http://", "https://", "mailto:")


def prose(page: Path) -> str:
    """Without code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "code", text)


def headings(page: Path) -> set[str]:
    """As GitHub and MyST name them; and targets set by hand."""
    text = page.read_text(encoding="utf-8")
    lines = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line)).lower() for line in lines]
    return {line.strip().replace(" ", "-") for line in plain} | set(re.findall(r"^\((.+)\)=$", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    dead = []
    for match in LINK.finditer(prose(page)):
        target = match[1] or match[2]
        if target.startswith(OUTSIDE):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (heading and file.suffix == ".md" and heading not in headings(file)):
            dead.append(target)
    assert not dead


def test_there_are_links():
    assert sum(len(LINK.findall(prose(page))) for page in PAGES) > 100
