"""Two networks that share word embeddings: one gives a utility to every word, the other rates the words let through."""

from __future__ import annotations

import torch
from torch import nn

from examples.learning_to_explain import relaxations


class Dropout(nn.Module):
    """Entries to 0 with this probability, rounded to 1/256, in training; the others are scaled up.

    As ``nn.Dropout``, whose random numbers are a tenth of a training step on CPUs: here they are bytes.
    """

    def __init__(self, probability: float):
        super().__init__()
        self.threshold = round(256 * probability)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.threshold:
            return x
        longs = torch.randint(-(2**63), 2**63 - 1, (-(-x.numel() // 8),), device=x.device)
        kept = longs.view(torch.uint8)[: x.numel()].view(x.shape) >= self.threshold
        return x * kept * (256 / (256 - self.threshold))


class Utilities(nn.Module):
    """Utility of every word, and of every adjacent pair if asked: ``(batch, n, d)`` to ``(batch, n or 2 n - 1)``.

    "simple" is one convolution; "complex" three, and a summary of the whole review beside each word (Chen et al. 2018).
    """

    def __init__(self, dimension: int, hidden: int, network: str, pairs: bool, pair_start: float):
        super().__init__()
        if network not in ("simple", "complex"):
            raise ValueError(f"network must be 'simple' or 'complex', got {network!r}.")
        self.first = nn.Linear(3 * dimension, hidden)
        self.local = self.summary = None
        if network == "complex":
            self.local = nn.Sequential(
                nn.Conv1d(hidden, hidden, 3, padding=1), nn.ReLU(), nn.Conv1d(hidden, hidden, 3, padding=1), nn.ReLU()
            )
            self.summary = nn.Linear(hidden, hidden)
        width = hidden if network == "simple" else 2 * hidden
        self.word = nn.Conv1d(width, 1, 1)
        self.pair = nn.Conv1d(width, 1, 2) if pairs else None
        if self.pair is not None:
            nn.init.constant_(self.pair.bias, pair_start)  # pyright: ignore

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(embedded, (0, 0, 1, 1))
        neighbours = torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], -1)
        h = self.first(neighbours).relu().transpose(1, 2)  # a convolution; its gradient is faster so
        if self.local is not None and self.summary is not None:
            summary = self.summary(h.amax(2)).relu()[:, :, None].expand(-1, -1, h.shape[2])
            h = torch.cat([self.local(h), summary], 1)
        words = self.word(h)[:, 0]
        return words if self.pair is None else torch.cat([words, self.pair(h)[:, 0]], 1)


class Regressor(nn.Module):
    """A rating in [0, 1] from masked embeddings: ``(batch, n, d)`` to ``(batch,)``."""

    def __init__(self, dimension: int, hidden: int):
        super().__init__()
        self.convolution = nn.Conv1d(dimension, hidden, 3, padding=1)
        self.out = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, masked: torch.Tensor) -> torch.Tensor:
        h = self.convolution(masked.transpose(1, 2)).relu().amax(2)
        return self.out(h)[:, 0].sigmoid()


class Explainer(nn.Module):
    """Embeddings, utilities, the mask and the regressor on what the mask lets through.

    Args:
        vectors: ``(vocabulary, d)``, where the embeddings start; row 0 is padding.
        relaxation: by which masks of ``k`` words are relaxed, see ``relaxations``.
        hidden: channels of all convolutions.
        network: "simple" or "complex" utilities.
        dropout: of embedded entries, in training.
        pair_start: bias at the start of the utilities of adjacent pairs; above 0 it favours contiguous words.
        freeze: keep the embeddings as given; a small corpus is soon learnt by heart otherwise.
    """

    def __init__(
        self,
        vectors: torch.Tensor,
        relaxation: str,
        k: int,
        hidden: int,
        network: str,
        dropout: float,
        freeze: bool,
        pair_start: float,
    ):
        super().__init__()
        self.relaxation, self.k = relaxation, k
        self.embedding = nn.Embedding.from_pretrained(vectors.clone(), freeze=freeze, padding_idx=0)
        self.dropout = Dropout(dropout)
        self.utilities = Utilities(vectors.shape[1], hidden, network, relaxation in relaxations.WITH_PAIRS, pair_start)
        self.regressor = Regressor(vectors.shape[1], hidden)

    def chooser(self, words: torch.Tensor) -> relaxations.Chooser:
        """The distribution over masks of reviews padded to this width."""
        return relaxations.make(self.relaxation, words.shape[1], self.k)

    def forward(
        self, words: torch.Tensor, lengths: torch.Tensor, temperature: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ratings ``(batch,)`` through random soft masks, and utilities; ``(batch, n)`` word numbers, 0 is padding.

        Without a temperature all words are let through.
        """
        embedded = self.dropout(self.embedding(words))
        u = self.utilities(embedded)
        if temperature is None:
            return self.regressor(embedded), u
        return self.rate(embedded, self.chooser(words).soft(u, lengths, temperature)), u

    def rate(self, embedded: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Ratings of what a mask lets through."""
        return self.regressor(embedded * mask[..., None])

    @torch.no_grad()
    def explain(
        self, words: torch.Tensor, lengths: torch.Tensor, noise: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ratings and hard masks, the best ones or with ``noise`` random ones."""
        embedded = self.embedding(words)
        u = self.utilities(embedded)
        chooser = self.chooser(words)
        mask = chooser.hard(chooser.noisy(u) if noise else u, lengths)
        return self.rate(embedded, mask), mask
