"""The model: scores of edges from two LSTMs, a sample of edges, and a graph network that evaluates along them."""

from __future__ import annotations

import torch
from torch import nn

from examples.listops import edges
from examples.listops.data import ANSWERS, PADDING, TOKENS, Part


class EdgeScores(nn.Module):
    """Products of head and modifier vectors, each the states of a one-layer LSTM of its own.

    LSTMs read from left to right, so that padding, at the end, changes nothing before it.
    """

    def __init__(self, hidden: int):
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, hidden, padding_idx=PADDING)
        self.heads, self.modifiers = (nn.LSTM(hidden, hidden, batch_first=True) for _ in range(2))

    def forward(self, part: Part) -> torch.Tensor:
        """Scores ``(B, parents, children)`` of edges between vertices; all tokens are read."""
        x = self.embedding(part.tokens)
        places = part.vertices[..., None].expand(-1, -1, x.shape[-1])
        heads, modifiers = (lstm(x)[0].gather(1, places) for lstm in (self.heads, self.modifiers))
        return heads @ modifiers.mT


class GraphNetwork(nn.Module):
    """Messages from children to parents along weighted edges, in rounds of the same weights.

    h_i <- e_i + f(e_i, sum_j w_ij g(h_j)) with embeddings e of the tokens, from h = e: after as many rounds as a tree
    is deep, vertex 0 has heard of all of it, and from one more on its state does not change.
    """

    def __init__(self, hidden: int, rounds: int):
        super().__init__()
        self.rounds = rounds
        self.embedding = nn.Embedding(TOKENS, hidden, padding_idx=PADDING)
        self.message = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU())
        self.own, self.received = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden, bias=False)
        self.update = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden))

    def forward(self, tokens: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """States of vertex 0, ``(B, hidden)``; weights ``(B, parents, children)``."""
        embedded = self.embedding(tokens)
        own, state = self.own(embedded), embedded
        for _ in range(self.rounds - 1):
            state = embedded + self.update(own + self.received(weights @ self.message(state)))
        received = self.received(weights[:, :1] @ self.message(state))[:, 0]  # the last round's at the root alone
        return embedded[:, 0] + self.update(own[:, 0] + received)


class Model(nn.Module):
    """Answers to expressions through a latent graph over their tokens.

    Args:
        kind: of edges, see ``edges.KINDS``: "none" reads with one LSTM instead, "true" is given the tree.
        utilities: random ones, see ``edges.UTILITIES``.
    """

    def __init__(self, kind: str, utilities: str, hidden: int, rounds: int):
        super().__init__()
        self.kind, self.utilities = kind, utilities
        if kind == "none":
            self.embedding = nn.Embedding(TOKENS, hidden, padding_idx=PADDING)
            self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        else:
            self.graph = GraphNetwork(hidden, rounds)
        if kind in edges.LATENT:
            self.scores = EdgeScores(hidden)
        self.decoder = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, ANSWERS))

    def sample(
        self, part: Part, temperature: float, hard: bool, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Weights of edges ``(B, parents, children)``: relaxed, hard, or the true ones."""
        if self.kind == "true":
            return part.true_edges.float()
        scores = self.scores(part)
        return edges.sample(self.kind, self.utilities, scores, part.counts, temperature, hard, generator)

    def best(self, part: Part) -> torch.Tensor:
        """Edges without noise, as ``sample``."""
        if self.kind == "true":
            return part.true_edges.float()
        return edges.best(self.kind, self.utilities, self.scores(part), part.counts)

    def read(self, part: Part) -> torch.Tensor:
        """Scores of the answers ``(B, 10)`` by the LSTM alone."""
        states = self.lstm(self.embedding(part.tokens))[0]
        last = (part.lengths - 1)[:, None, None].expand(-1, 1, states.shape[-1])
        return self.decoder(states.gather(1, last)[:, 0])

    def answer(self, part: Part, weights: torch.Tensor) -> torch.Tensor:
        """Scores of the answers ``(B, 10)`` along weighted edges."""
        return self.decoder(self.graph(part.vertex_tokens, weights))

    def forward(self, part: Part, temperature: float) -> torch.Tensor:
        """Scores of the answers ``(B, 10)`` along one relaxed sample."""
        return self.read(part) if self.kind == "none" else self.answer(part, self.sample(part, temperature, hard=False))
