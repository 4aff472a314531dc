"""Sentences with their dependency trees: the Turkish Web Treebank from its package on PyPI, or random ones."""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from examples.command_line import Told

PACKAGE, FILES = "turkish-treebanks", ("web.conllu", "wiki.conllu")
INSTALL = f"pip install --no-deps {PACKAGE}==1.0.0 (1.2 MB, Apache-2.0; only its two files of text are read)"
_FIELDS = 10  # of a line of CoNLL-U


class DataError(Told, ValueError):
    """A treebank that is not there, or not as it should be."""


@dataclass(frozen=True)
class Sentence:
    """Words with their fine part-of-speech tags, heads (1 to n, 0 for the root) and labels of the arcs.

    Attributes:
        punctuation: which words are: coarse tag PUNCT.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    heads: tuple[int, ...]
    labels: tuple[str, ...]
    punctuation: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.words)

    @functools.cached_property
    def projective(self) -> bool:
        """No two arcs cross above the words, that of the root included, which comes from the left of all."""
        spans = [(min(d, h), max(d, h)) for d, h in enumerate(self.heads, start=1)]
        return not any(a < c < b < d for (a, b), (c, d) in itertools.permutations(spans, 2))


@dataclass(frozen=True)
class Treebank:
    train: list[Sentence]
    valid: list[Sentence]
    test: list[Sentence]


def turkish(folder: Path | None = None) -> Treebank:
    """The Turkish Web Treebank (Kayadelen, Öztürel, Bohnet 2020), web and Wikipedia; tokens are inflectional groups.

    Its authors' splits: of every ten sentences of a file the ninth is for validation and the tenth for test.

    Args:
        folder: with web.conllu and wiki.conllu; None: those of the installed package.

    Raises:
        DataError: the files are missing or damaged.
    """
    parts: tuple[list[Sentence], ...] = ([], [], [])
    for file in _files(folder):
        for number, sentence in enumerate(read(file)):
            parts[max(0, number % 10 - 7)].append(sentence)
    return Treebank(*parts)


def _files(folder: Path | None) -> list[Path]:
    if folder is None:
        try:  # the wheel has data/ at the top of site-packages, beside its module
            package = importlib.metadata.distribution(PACKAGE)
        except importlib.metadata.PackageNotFoundError:
            raise DataError(f"the treebank is not installed: {INSTALL}, or --data FOLDER with {FILES}.") from None
        found = [Path(str(package.locate_file(f"data/{name}"))) for name in FILES]
    else:
        found = [folder / name for name in FILES]
    for file in found:
        if not file.is_file():
            raise DataError(f"no file {file}: --data is a folder with {' and '.join(FILES)}, or {INSTALL}.")
    return found


def read(file: Path) -> list[Sentence]:
    """The sentences of a CoNLL-U file.

    Raises:
        DataError: no such format, or a sentence whose heads are no tree with one root.
    """
    found, lines = [], []
    try:
        text = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}).") from None
    for number, line in enumerate([*text, ""], start=1):
        if line and not line.startswith("#"):
            lines.append(line.split("\t"))
        elif not line.strip() and lines:
            try:
                found.append(_sentence(lines))
            except ValueError as error:
                raise DataError(f"{file}: the sentence before line {number} is none of CoNLL-U ({error}).") from None
            lines = []
    if not found:
        raise DataError(f"{file} holds no sentence.")
    return found


def _sentence(lines: list[list[str]]) -> Sentence:
    if any(len(line) != _FIELDS for line in lines) or [line[0] for line in lines] != [
        *map(str, range(1, len(lines) + 1))
    ]:
        raise ValueError(f"{_FIELDS} columns, words numbered from 1")
    _, words, _, coarse, tags, _, heads, labels, _, _ = zip(*lines, strict=True)
    numbers = tuple(int(h) for h in heads)
    if not is_tree(numbers):
        raise ValueError("heads that are no tree with one root")
    return Sentence(words, tags, numbers, labels, tuple(tag == "PUNCT" for tag in coarse))


def is_tree(heads: tuple[int, ...]) -> bool:
    """Whether heads (of words 1 to n; 0 is the root) lead to the root from everywhere, and by one arc out of it."""
    n = len(heads)
    if sum(h == 0 for h in heads) != 1 or not all(0 <= h <= n for h in heads):
        return False
    places = list(range(1, n + 1))
    for _ in range(n):
        places = [heads[p - 1] if p else 0 for p in places]
    return not any(places)


# -- random sentences ---------------------------------------------------------------------------------------------

_TAGS = ("N", "V", "A", "D")


def synthetic(count: int, seed: int = 0, longest: int = 9) -> Treebank:
    """Random sentences with a tree that their words tell, to see the parser run: no language.

    Nouns hang from the nearest verb to the right, adjectives from the nearest noun to the right, determiners from
    the noun after the next (which crosses), and the last word is a verb, the root, before a full stop.
    """
    draws = random.Random(seed)
    sentences = [_random_sentence(draws, draws.randint(2, longest)) for _ in range(count)]
    return Treebank(*(list(s) for s in _shares(sentences)))


def _shares(sentences: list[Sentence]) -> Iterator[list[Sentence]]:
    ends = [0, len(sentences) * 8 // 10, len(sentences) * 9 // 10, len(sentences)]
    return (sentences[a:b] for a, b in itertools.pairwise(ends))


def _random_sentence(draws: random.Random, n: int) -> Sentence:
    tags = [draws.choice(_TAGS) for _ in range(n - 2)] + ["V", "."]
    heads = []
    for place, tag in enumerate(tags):
        wanted = {"N": "V", "V": "V", "A": "N", "D": "N"}.get(tag, "")
        after = [i for i in range(place + 1, n) if tags[i] == wanted]
        choice = after[1:2] if tag == "D" else after[:1]
        heads.append((choice or [n - 2])[0] + 1)
    heads[n - 2] = 0
    labels = ["root" if not h else tag.lower() for h, tag in zip(heads, tags, strict=True)]
    words = ["." if tag == "." else f"{tag.lower()}{draws.randint(0, 9)}{tag.lower()}" for tag in tags]
    return Sentence(*(tuple(x) for x in (words, tags, heads, labels)), tuple(tag == "." for tag in tags))
