"""The biaffine parser (Dozat and Manning 2017), small: embeddings, BiLSTM, scores of arcs and of their labels."""

from __future__ import annotations

import torch
from torch import nn

from examples.parsing.data import PADDING, UNKNOWN, Batch


class Biaffine(nn.Module):
    """h' U_k d + v_k' h + w_k' d + b_k for outputs k."""

    def __init__(self, size: int, outputs: int):
        super().__init__()
        self.bilinear = nn.Parameter(torch.empty(outputs, size, size))
        nn.init.normal_(self.bilinear, std=1 / size)
        self.of_heads, self.of_dependents = nn.Linear(size, outputs), nn.Linear(size, outputs, bias=False)

    def pairs(self, h: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        """All pairs of ``(B, n, size)`` each, for one output: ``(B, heads, dependents)``."""
        return h @ self.bilinear[0] @ d.mT + self.of_heads(h) + self.of_dependents(d).mT

    def forward(self, h: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        """Of vectors side by side, ``(..., size)`` each: ``(..., outputs)``."""
        both = torch.einsum("...i,kij,...j->...k", h, self.bilinear, d)
        return both + self.of_heads(h) + self.of_dependents(d)


class Parser(nn.Module):
    """Scores of arcs and labels.

    Args:
        sizes: numbers of words, suffixes, tags, labels.
        embedding: of a word; a suffix and a tag have half of it each.
        hidden: of either direction of the LSTM. arcs, labels: of the vectors that are compared.
        dropout: of embeddings, hidden states, and vectors compared; of words, which become unknown.
    """

    def __init__(
        self, sizes: tuple[int, int, int, int], embedding: int, hidden: int, layers: int, arcs: int, labels: int,
        dropout: float,
    ):  # fmt: skip
        super().__init__()
        words, suffixes, tags, outputs = sizes
        dims = (embedding, embedding // 2, embedding // 2)
        self.embeddings = nn.ModuleList(
            nn.Embedding(count, dim, padding_idx=PADDING)
            for count, dim in zip((words, suffixes, tags), dims, strict=True)
        )
        self.dropout, self.rate = nn.Dropout(dropout), dropout
        between = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(sum(dims), hidden, layers, batch_first=True, bidirectional=True, dropout=between)
        # Normalised, so that utilities of arcs begin with variance 1: Euclidean solutions of nearly equal ones mix very
        # many trees, and are slow.
        self.vectors = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * hidden, size), nn.LeakyReLU(0.1), nn.LayerNorm(size))
            for size in (arcs, arcs, labels, labels)
        )
        self.arc, self.label = Biaffine(arcs, 1), Biaffine(labels, outputs)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores ``(B, heads, dependents)`` of arcs, and states ``(B, n, 2 hidden)``."""
        words, suffixes, tags = batch.words, batch.suffixes, batch.tags
        if self.training and self.rate:
            words = words.masked_fill((torch.rand(words.shape) < self.rate) & batch.present, UNKNOWN)
        parts = [embed(x) for embed, x in zip(self.embeddings, (words, suffixes, tags), strict=True)]
        inputs = self.dropout(torch.cat(parts, -1))
        packed = nn.utils.rnn.pack_padded_sequence(inputs, batch.lengths, batch_first=True, enforce_sorted=False)
        states, _ = self.lstm(packed)
        states, _ = nn.utils.rnn.pad_packed_sequence(states, batch_first=True, total_length=words.shape[1])
        states = self.dropout(states)
        return self.arc.pairs(self._vector(0, states), self._vector(1, states)), states

    def label_scores(self, states: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
        """``(B, n, labels)`` of the arcs from ``heads`` ``(B, n)``."""
        h = self._vector(2, states)
        h = h.gather(1, heads[..., None].expand(-1, -1, h.shape[-1]))
        return self.label(h, self._vector(3, states))

    def _vector(self, which: int, states: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.vectors[which](states))
