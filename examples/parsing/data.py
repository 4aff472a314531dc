"""Sentences as tensors: vocabularies of the training part, and batches of about equal lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from examples.parsing.treebank import Sentence

PADDING, UNKNOWN, ROOT = 0, 1, 2
_WIDTHS = 4  # sentences are padded to a multiple of these, so that few structures are made
_SUFFIX = 3  # characters


@dataclass(frozen=True)
class Vocabulary:
    """Numbers of words, suffixes, tags and labels; 0 is padding, 1 unknown, 2 the root."""

    words: dict[str, int]
    suffixes: dict[str, int]
    tags: dict[str, int]
    labels: dict[str, int]

    def sizes(self) -> tuple[int, int, int, int]:
        return tuple(len(d) + 3 for d in (self.words, self.suffixes, self.tags, self.labels))  # pyright: ignore


@dataclass(frozen=True)
class Batch:
    """B sentences padded to n places, the first of which is the root's.

    Attributes:
        words, suffixes, tags, labels: ``(B, n)`` numbers. heads: ``(B, n)`` places.
        lengths: ``(B,)``, the root included.
        scored: ``(B, n)`` bool, the words that count: no punctuation.
        groups: ``(B, n)`` bool, arcs inside a word, between its inflectional groups.
        projective: ``(B,)`` bool.
        sentences: the same as words.
    """

    words: torch.Tensor
    suffixes: torch.Tensor
    tags: torch.Tensor
    labels: torch.Tensor
    heads: torch.Tensor
    lengths: torch.Tensor
    scored: torch.Tensor
    groups: torch.Tensor
    projective: torch.Tensor
    sentences: list[Sentence]

    @property
    def present(self) -> torch.Tensor:
        """``(B, n)`` bool, words: neither the root nor padding."""
        places = torch.arange(self.words.shape[1])
        return (places > 0) & (places < self.lengths[:, None])


def lower(word: str) -> str:
    """Small letters, as Turkish has them: dotted and dotless i are two."""
    return word.replace("I", "\u0131").replace("\u0130", "i").lower()


def suffix(word: str) -> str:
    return lower(word)[-_SUFFIX:]


def vocabulary(sentences: list[Sentence], min_count: int = 2) -> Vocabulary:
    """Of words and suffixes those that occur ``min_count`` times, of tags and labels all."""
    return Vocabulary(
        _numbers((lower(w) for s in sentences for w in s.words), min_count),
        _numbers((suffix(w) for s in sentences for w in s.words), min_count),
        _numbers(tag for s in sentences for tag in s.tags),
        _numbers(label for s in sentences for label in s.labels),
    )


def _numbers(items: Iterable[str], min_count: int = 1) -> dict[str, int]:
    counts = Counter(items)
    kept = sorted((x for x, c in counts.items() if c >= min_count), key=lambda x: (-counts[x], x))
    return {x: number for number, x in enumerate(kept, start=3)}


def to_batch(sentences: list[Sentence], known: Vocabulary) -> Batch:
    longest = 1 + max(len(s) for s in sentences)
    n = -(-longest // _WIDTHS) * _WIDTHS

    def table(rows: Iterable[Iterable[int]], root: int) -> torch.Tensor:
        found = torch.zeros(len(sentences), n, dtype=torch.long)
        found[:, 0] = root
        for row, values in enumerate(rows):
            values = list(values)
            found[row, 1 : len(values) + 1] = torch.tensor(values)
        return found

    return Batch(
        table(([known.words.get(lower(w), UNKNOWN) for w in s.words] for s in sentences), ROOT),
        table(([known.suffixes.get(suffix(w), UNKNOWN) for w in s.words] for s in sentences), ROOT),
        table(([known.tags.get(t, UNKNOWN) for t in s.tags] for s in sentences), ROOT),
        table(([known.labels.get(label, UNKNOWN) for label in s.labels] for s in sentences), 0),
        table((s.heads for s in sentences), 0),
        torch.tensor([1 + len(s) for s in sentences]),
        table(([not p for p in s.punctuation] for s in sentences), 0).bool(),
        table(([label == "ig" for label in s.labels] for s in sentences), 0).bool(),
        torch.tensor([s.projective for s in sentences]),
        sentences,
    )


def batches(
    sentences: list[Sentence],
    known: Vocabulary,
    words: int,
    generator: torch.Generator | None = None,
    rising: bool = False,
) -> list[Batch]:
    """All sentences once, in batches of about so many words, each of about equal lengths.

    Args:
        generator: shuffles sentences of one length, and batches; None: in the order of lengths.
        rising: from short to long ones all the same.
    """
    order = list(range(len(sentences)))
    if generator is not None:
        order = torch.randperm(len(sentences), generator=generator).tolist()
    order.sort(key=lambda i: len(sentences[i]))
    groups: list[list[Sentence]] = [[]]
    for i in order:
        if groups[-1] and (len(groups[-1]) + 1) * len(sentences[i]) > words:
            groups.append([])
        groups[-1].append(sentences[i])
    if generator is not None and not rising:
        groups = [groups[i] for i in torch.randperm(len(groups), generator=generator).tolist()]
    return [to_batch(group, known) for group in groups]


def fit_for(kind: str, sentences: list[Sentence], max_words: int, projective_only: bool = False) -> list[Sentence]:
    """The sentences to train on: of up to ``max_words``, and for projective trees, those whose tree is one.

    A crossing tree is no element of the set: its Fenchel-Young loss is not bounded below, and the library refuses it.
    """
    crossing = kind != "projective" and not projective_only
    return [s for s in sentences if len(s) <= max_words and (crossing or s.projective)]
