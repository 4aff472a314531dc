"""Reviews as tensors: vocabulary of the training part, padding, and where embeddings start."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import svds

from examples.learning_to_explain.reviews import Review
from examples.learning_to_explain.sources import load, read_vectors

PADDING, UNKNOWN = 0, 1


@dataclass(frozen=True)
class Part:
    """N reviews of up to n words.

    Attributes:
        words: ``(N, n)``, numbers of words; 0 is padding.
        lengths: ``(N,)``. ratings: ``(N,)`` in [0, 1].
        rationale: ``(N, n)`` bool, the words about the aspect (all False where nobody knows).
        reviews: the same as words.
    """

    words: torch.Tensor
    lengths: torch.Tensor
    ratings: torch.Tensor
    rationale: torch.Tensor
    reviews: list[Review]

    def __len__(self) -> int:
        return len(self.reviews)

    @functools.cached_property
    def _by_length(self) -> torch.Tensor:
        return self.lengths.argsort(stable=True)

    def draw(self, size: int, groups: int = 8) -> torch.Tensor:
        """Rows of reviews of about one length, so that little of a batch is padding.

        Drawn with replacement from one of ``groups`` equal shares, from the shortest to the longest.
        """
        groups = min(groups, len(self))
        place = int(torch.rand(()) * groups)
        first, end = (round(len(self) * (place + i) / groups) for i in (0, 1))
        return self._by_length[torch.randint(first, end, (size,))]

    def width(self, rows: torch.Tensor) -> int:
        """Of these reviews, rounded up to a multiple of 8: few structures are built."""
        return min(-(-int(self.lengths[rows].max()) // 8) * 8, self.words.shape[1])


@dataclass(frozen=True)
class Corpus:
    """A source as tensors, all parts padded to the same n words."""

    train: Part
    valid: Part
    test: Part
    vectors: torch.Tensor
    n: int


def corpus(
    source: str, aspect: str, path: Path | None = None, max_words: int = 120, dimension: int = 64,
    vectors: Path | None = None, min_count: int = 2, decorrelate: bool = False,
) -> Corpus:  # fmt: skip
    """A source ready to train on; see ``sources.load``. ``vectors`` is a text file of word vectors, if you have one."""
    parts = load(source, aspect, path, max_words, decorrelate)
    vocabulary = build_vocabulary(parts.train, min_count)
    n = max(len(r.words) for part in (parts.train, parts.valid, parts.test) for r in part)
    train, valid, test = (to_tensors(part, vocabulary, n) for part in (parts.train, parts.valid, parts.test))
    start = cooccurrence_vectors(train.words, len(vocabulary) + 2, dimension)
    if vectors is not None:
        start = _given_vectors(vectors, vocabulary)
    return Corpus(train, valid, test, start, n)


def build_vocabulary(reviews: list[Review], min_count: int = 2) -> dict[str, int]:
    """Numbers from 2 on for words that occur ``min_count`` times, the most frequent first."""
    counts = Counter(word for review in reviews for word in review.words)
    kept = sorted((w for w, c in counts.items() if c >= min_count), key=lambda w: (-counts[w], w))
    return {word: number for number, word in enumerate(kept, start=2)}


def to_tensors(reviews: list[Review], vocabulary: dict[str, int], n: int) -> Part:
    """Reviews padded to n words."""
    words, rationale = torch.zeros(len(reviews), n, dtype=torch.long), torch.zeros(len(reviews), n, dtype=torch.bool)
    for row, review in enumerate(reviews):
        words[row, : len(review.words)] = torch.tensor([vocabulary.get(w, UNKNOWN) for w in review.words])
        rationale[row, : len(review.words)] = torch.tensor(review.rationale)
    lengths = torch.tensor([len(r.words) for r in reviews])
    ratings = torch.tensor([r.rating for r in reviews], dtype=torch.float32)
    return Part(words, lengths, ratings, rationale, reviews)


def cooccurrence_vectors(words: torch.Tensor, vocabulary: int, dimension: int, window: int = 4) -> torch.Tensor:
    """``(vocabulary, dimension)`` to start embeddings from, made of the training part alone.

    Singular vectors of the positive pointwise mutual information of words within a window (Levy and Goldberg 2014).
    """
    padded = words.numpy()
    pairs = [(padded[:, :-d].ravel(), padded[:, d:].ravel()) for d in range(1, window + 1)]
    left, right = (np.concatenate([p[i] for p in pairs]) for i in (0, 1))
    real = (left > UNKNOWN) & (right > UNKNOWN)
    counts = sp.coo_array((np.ones(real.sum()), (left[real], right[real])), shape=(vocabulary, vocabulary)).tocsr()
    counts = (counts + counts.T).tocoo()
    totals = counts.sum(0)
    information = np.log(counts.data * counts.sum() / (totals[counts.row] * totals[counts.col])).clip(min=0)
    matrix = sp.csr_array((information, (counts.row, counts.col)), shape=counts.shape)
    rank = min(dimension, vocabulary - 1)
    u, s, _ = svds(matrix, k=rank, v0=np.ones(vocabulary))
    vectors = torch.zeros(vocabulary, dimension)
    vectors[:, :rank] = torch.from_numpy(u * np.sqrt(s)).float()
    return _normalised(vectors)


def _given_vectors(path: Path, vocabulary: dict[str, int]) -> torch.Tensor:
    found = read_vectors(path, vocabulary)
    vectors = 0.1 * torch.randn(len(vocabulary) + 2, len(next(iter(found.values()))), generator=torch.Generator())
    vectors[PADDING] = 0
    for number, values in found.items():
        vectors[number] = torch.tensor(values)
    return vectors


def _normalised(vectors: torch.Tensor) -> torch.Tensor:
    """Scaled to a root mean square of 0.3 an entry, about what trained embeddings have."""
    return vectors * (0.3 / vectors.square().mean().sqrt())


def precision(masks: torch.Tensor, part: Part) -> float:
    """Mean over reviews of the share of chosen words that are about the aspect."""
    return float(((masks > 0) & part.rationale).sum(1).div((masks > 0).sum(1)).mean())


def random_floor(part: Part) -> float:
    """Expected precision of words chosen at random."""
    return float((part.rationale.sum(1) / part.lengths).mean())
