"""Trees and their force-directed layouts, as the paper's authors make them; thousands a second, in batched tensors.

A tree is the maximum spanning tree of independent standard Gumbel weights on the complete graph. Every frame of a
trajectory is one step of Fruchterman and Reingold from the one before, as ``networkx.spring_layout(iterations=1)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tqdm import tqdm

import polytopes

VERTICES = 10
#: networkx 2.4, which the authors used, sets lengths of forces below 0.01 to 0.1; today's clips them at 0.01.
RULES = ("2.4", "today")


def random_trees(count: int, generator: torch.Generator) -> torch.Tensor:
    """``(count, 45)`` 0/1 over the edges (0, 1), (0, 2), ..."""
    structure = polytopes.SpanningTree(VERTICES)
    uniform = torch.rand(count, *structure.event_shape, generator=generator, dtype=torch.float64)
    return structure.argmax(-(-uniform.clamp(1e-300).log()).log())


def adjacency(edges: torch.Tensor) -> torch.Tensor:
    """Undirected edges ``(*batch, 45)`` to symmetric matrices ``(*batch, 10, 10)``."""
    i, j = torch.triu_indices(VERTICES, VERTICES, 1)
    matrix = edges.new_zeros(*edges.shape[:-1], VERTICES, VERTICES)
    matrix[..., i, j] = edges
    return matrix + matrix.mT


def layout_step(x: torch.Tensor, matrix: torch.Tensor, rule: str = "2.4") -> torch.Tensor:
    """One step for positions ``(*batch, n, 2)`` under adjacency ``(*batch, n, n)``: forces, mean 0, largest 1."""
    if rule not in RULES:
        raise ValueError(f"rule must be one of {RULES}, got {rule!r}.")
    k = x.shape[-2] ** -0.5
    extent = (x.amax(-2) - x.amin(-2)).amax(-1)[..., None, None]
    between = x[..., :, None, :] - x[..., None, :, :]
    distance = between.norm(dim=-1).clamp(min=0.01)
    force = (between * (k * k / distance**2 - matrix * distance / k)[..., None]).sum(-2)
    length = force.norm(dim=-1, keepdim=True)
    length = torch.where(length < 0.01, 0.1, length) if rule == "2.4" else length.clamp(min=0.01)
    x = x + 0.1 * extent * force / length
    x = x - x.mean(-2, keepdim=True)
    return x / x.abs().amax((-1, -2), keepdim=True)


@dataclass
class Part:
    """Trees ``(count, 45)`` and trajectories ``(count, vertices, frames, 2)``, float32."""

    edges: torch.Tensor
    positions: torch.Tensor


def simulate(count: int, frames: int, seed: int, rule: str = "2.4", chunk: int = 10_000) -> Part:
    """Trees and their trajectories; the random start is not among the frames."""
    generator, parts = torch.Generator().manual_seed(seed), []
    for first in tqdm(range(0, count, chunk), desc="layouts", disable=None, leave=False):
        edges = random_trees(min(chunk, count - first), generator)
        x = torch.randn(len(edges), VERTICES, 2, generator=generator, dtype=torch.float64)
        trajectory, matrix = [], adjacency(edges)
        for _ in range(frames):
            x = layout_step(x, matrix, rule)
            trajectory.append(x)
        parts.append((edges.float(), torch.stack(trajectory, 2).float()))
    return Part(*(torch.cat(column) for column in zip(*parts, strict=True)))


def make(sizes: tuple[int, int, int], frames: int, seed: int = 0) -> tuple[Part, Part, Part]:
    """Training, validation and test part, coordinates scaled to [-1, 1] by the first."""
    parts = [simulate(size, frames, 3 * seed + i) for i, size in enumerate(sizes)]
    low, high = parts[0].positions.amin((0, 1, 2)), parts[0].positions.amax((0, 1, 2))
    train, valid, test = (Part(p.edges, 2 * (p.positions - low) / (high - low) - 1) for p in parts)
    return train, valid, test
