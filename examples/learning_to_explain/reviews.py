"""What a source gives: reviews with a rating and a rationale, in parts to train on, to validate on and to test on."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

MIN_WORDS = 20  # shorter reviews are left out: every k up to 20 words can be chosen from the rest
SPLIT_SEED = 2026  # one split for all seeds of the networks
_T = TypeVar("_T")


@dataclass(frozen=True)
class Review:
    """Words, the aspect's rating in [0, 1], and for each word whether it is about the aspect."""

    words: list[str]
    rating: float
    rationale: list[bool]


@dataclass(frozen=True)
class Parts:
    train: list[Review]
    valid: list[Review]
    test: list[Review]


def tokenise(text: str) -> list[str]:
    """Lower-case words, numbers and punctuation marks."""
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)?|[^\sa-z0-9]", text.lower())


def join(parts: Sequence[tuple[list[str], bool]], rating: float) -> Review:
    """A review of several texts, each with whether it is about the aspect."""
    return Review([w for words, _ in parts for w in words], rating, [about for words, about in parts for _ in words])


def split(items: list[_T], rng: random.Random, test: float, valid: float = 0.1) -> tuple[list[_T], list[_T], list[_T]]:
    """Shuffled into train, valid and test, the last two of these shares."""
    shuffled = rng.sample(items, len(items))
    tested, validated = round(test * len(items)), round(valid * len(items))
    end = tested + validated
    return shuffled[end:], shuffled[tested:end], shuffled[:tested]
