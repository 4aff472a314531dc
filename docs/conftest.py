"""Every code block of the pages runs, top to bottom, a page a namespace; what it prints is compared."""

from __future__ import annotations

from doctest import ELLIPSIS, NORMALIZE_WHITESPACE

import pytest
from sybil import Sybil
from sybil.parsers.myst import DocTestDirectiveParser, PythonCodeBlockParser, SkipParser


def begin(namespace: dict) -> None:
    import torch

    torch.manual_seed(0)
    torch.set_printoptions(precision=4, sci_mode=False)


def end(namespace: dict) -> None:
    import torch

    torch.set_printoptions(profile="default")


flags = ELLIPSIS | NORMALIZE_WHITESPACE
pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=flags), DocTestDirectiveParser(flags), SkipParser()],
    patterns=["*.md"],
    setup=begin,
    teardown=end,
).pytest()
