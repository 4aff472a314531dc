"""Encoder and decoder of neural relational inference (Kipf et al. 2018), with the paper's sizes as default."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

import sst_cvx as sst
from examples.graph_layout.data import VERTICES
from examples.graph_layout.edges import EdgeDistribution, directed
from examples.runs import Diverged

VARIANCE = 5e-5  # of the Gaussian likelihood


class _Sum(torch.autograd.Function):
    """Sum over all processes. Each of them differentiates its own loss: gradients are summed, too."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return _Sum.forward(ctx, gradients[0])


class BatchNorm(nn.BatchNorm1d):
    """Over all but the last dimension, and over all processes: torch's synchronised one has no CPU version."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # pyright: ignore
        flat = x.reshape(-1, x.shape[-1])
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(flat).reshape(x.shape)
        total = _Sum.apply(torch.cat([flat.sum(0), flat.new_full((1,), len(flat))]))
        mean, count = total[:-1] / total[-1], total[-1]
        variance = _Sum.apply((flat - mean).square().sum(0)) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.momentum is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return ((x - mean) * torch.rsqrt(variance + self.eps)) * self.weight + self.bias


def mlp(inputs: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU(), BatchNorm(hidden))


class Encoder(nn.Module):
    """Trajectories ``(batch, vertices, frames, 2)`` to logits of the directed edges ``(batch, 90, outputs)``."""

    def __init__(self, frames: int, hidden: int, outputs: int):
        super().__init__()
        self.vertex, self.edge = mlp(2 * frames, hidden), mlp(2 * hidden, hidden)
        self.vertex_again, self.edge_again = mlp(hidden, hidden), mlp(3 * hidden, hidden)
        self.out = nn.Linear(hidden, outputs)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.constant_(layer.bias, 0.1)

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        vertices = self.vertex(positions.flatten(2))
        first = self.edge(_at_edges(vertices))
        gathered = _at_receivers(first) / VERTICES
        second = self.edge_again(torch.cat([_at_edges(self.vertex_again(gathered)), first], -1))
        return self.out(second)


class Decoder(nn.Module):
    """Next positions from the present ones and the edges: an interaction network with an edge type for "no edge"."""

    def __init__(self, hidden: int):
        super().__init__()
        self.messages = nn.ModuleList(
            nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()) for _ in range(2)
        )
        self.out = nn.Sequential(
            nn.Linear(2 + hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2)
        )

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Positions ``(batch, steps, vertices, 2)``, edge weights ``(batch, 90)``."""
        vertices = x.transpose(1, 2)
        weights = (1 - edges, edges)
        message = sum(_received(w, f, vertices) for w, f in zip(weights, self.messages, strict=True))
        return x + self.out(torch.cat([x, message.transpose(1, 2)], -1))  # pyright: ignore


def _received(weights: torch.Tensor, network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Weighted sums of the messages into each vertex, ``(batch, vertices, steps, hidden)``.

    The network's first layer sees receiver and sender joined: its products are taken at the vertices, which are 9 times
    fewer than edges. The sums are one matrix product a receiver.

    Args:
        x: ``(batch, vertices, steps, 2)``.
    """
    first, *others = network.children()
    assert isinstance(first, nn.Linear)
    at_receiver, at_sender = first.weight.split(x.shape[-1], 1)
    from_senders = functional.linear(x, at_sender).index_select(1, directed(x.device)[1])
    messages = functional.linear(x, at_receiver, first.bias)[:, :, None] + _by_receiver(from_senders, 1)
    for layer in others:
        messages = layer(messages)
    return (_by_receiver(weights, 1)[:, :, None] @ messages.flatten(3)).view(*x.shape[:3], -1)


class Model(nn.Module):
    """The auto-encoder. Its forward is the negative ELBO of a batch, so that DistributedDataParallel can wrap it."""

    def __init__(self, frames: int, hidden: int, edges: EdgeDistribution, roll_out: int):
        super().__init__()
        self.encoder, self.decoder = Encoder(frames, hidden, edges.outputs), Decoder(hidden)
        self.edges, self.roll_out = edges, roll_out

    def forward(
        self,
        positions: torch.Tensor,
        temperature: float,
        hard: bool = False,
        roll_out: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """NLL and KL of each trajectory ``(batch,)`` and the sampled edges ``(batch, 90)``.

        The decoder is fed its own predictions for ``roll_out`` steps, then the truth again; 1 is teacher forcing.

        Raises:
            Diverged: the logits are no longer finite.
        """
        logits = self.encoder(positions)
        try:
            edges = self.edges.sample(logits, temperature, hard, generator)
        except (ValueError, sst.SolveError) as error:  # the library's own checks: no other one that the host waits for
            if bool(logits.isfinite().all()):
                raise
            raise Diverged from error
        target = positions.transpose(1, 2)  # (batch, frames, vertices, 2)
        predicted = self._predict(target, edges, self.roll_out if roll_out is None else roll_out)
        squares = (predicted - target[:, 1:]) ** 2
        nll = squares.flatten(1).sum(1) / (2 * VARIANCE) / VERTICES
        return nll, self.edges.divergence(logits), edges

    def _predict(self, target: torch.Tensor, edges: torch.Tensor, roll_out: int) -> torch.Tensor:
        """Frames 1, 2, ... from every ``roll_out``-th true one."""
        x, steps = target[:, :-1:roll_out], []
        for _ in range(roll_out):
            x = self.decoder(x, edges)
            steps.append(x)
        return torch.stack(steps, 2).flatten(1, 2)[:, : target.shape[1] - 1]


def _at_edges(x: torch.Tensor) -> torch.Tensor:
    """Receiver's and sender's features at every edge: ``(..., vertices, d)`` to ``(..., 90, 2 d)``."""
    receivers, senders = directed(x.device)
    return torch.cat([x.index_select(-2, receivers), x.index_select(-2, senders)], -1)


def _at_receivers(x: torch.Tensor) -> torch.Tensor:
    """Sums over the edges into each vertex: ``(..., 90, d)`` to ``(..., vertices, d)``."""
    return _by_receiver(x, -2).sum(-2)


def _by_receiver(x: torch.Tensor, dim: int) -> torch.Tensor:
    """A dimension of 90 edges as ``(vertices, vertices - 1)``."""
    return x.unflatten(dim, (VERTICES, VERTICES - 1))
