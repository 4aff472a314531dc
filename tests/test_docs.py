"""Every code block of the documentation runs as written, a page a namespace, and prints what the page shows."""

from __future__ import annotations

from doctest import ELLIPSIS, NORMALIZE_WHITESPACE
from pathlib import Path

import pytest
import torch

pytest.importorskip("sybil")

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

from sst_cvx.paths.fast import registry

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
SYBIL = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=ELLIPSIS | NORMALIZE_WHITESPACE), SkipParser()],
    patterns=["*.md"],
)


@pytest.fixture(autouse=True)
def printed_briefly(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    torch.set_printoptions(precision=4, sci_mode=False)
    yield
    torch.set_printoptions(profile="default")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_page(page):
    torch.manual_seed(0)
    for example in SYBIL.parse(page).examples():
        example.evaluate()


def test_pages_have_blocks():
    """Nothing is left out by another fence: as many Python fences as examples that run."""
    fences = sum(page.read_text(encoding="utf-8").count("```python\n") for page in PAGES)
    assert fences > 60
