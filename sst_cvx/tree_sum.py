"""Sums over the spanning trees of weighted graphs, directed or not; batched, on any device.

Vertex 0 is the root. ``w[..., i, j]`` is the log-weight of the edge from i to j, ``ABSENT`` where there is none; an
undirected tree is a directed one under symmetric weights. By the matrix-tree theorem (Kirchhoff; Tutte 1948) the sum is
the determinant of a Laplacian, but in floating point that has digits only while weights are alike. So, element by
element, with weights into every vertex divided by their sum:

- Where the root has a fair share in every vertex, the Laplacian is well conditioned (its inverse is a matrix of
  expected visits, which few steps end), and LAPACK does it.
- Elsewhere vertices are eliminated one by one without any subtraction (Grassmann, Taksar, Heyman 1985), see
  ``tree_elimination.py``: on the weights while paths from the root keep every mass within the range of float64,
- and in the log domain beyond that, at any scale.

A single root's edges enter linearly: sum_r rho_r tau_r over the vertices r that may follow the root, where tau_r, the
sum over trees of the rest rooted at r, needs no edge of the root. Another vertex then takes the root's part.
"""

from __future__ import annotations

from typing import Any

import torch

from sst_cvx.best_tree import best_tree
from sst_cvx.tree_elimination import EliminatedWeights, eliminated

ABSENT = -1e30  # log-weight of an edge that is not there: finite, so that differences of two of them are not NaN
_NEAR = 11.0  # least log-share of the root's edge for LAPACK, which loses exp(_NEAR) of its digits
_RANGE = 500.0  # least log-mass of a vertex during elimination on weights
_OVERFLOW = 100.0  # most by which another edge of a single root may exceed the one into vertex 1
_LOST = 560.0  # weights below this part of the mass are dropped: less than rounding, and products do not underflow


def log_tree_sum(w: torch.Tensor, single_root: bool = False) -> torch.Tensor:
    """log of the sum over spanning trees directed away from vertex 0 of the product of their weights.

    Args:
        w: log-weights ``(*batch, n, n)``; the diagonal and edges into the root do not count. Every vertex must be
            within reach of the root.
        single_root: only trees with exactly one edge out of the root.

    Returns:
        ``(*batch,)``, differentiable by autograd, twice. In float64 inside: differences of log-weights of size 1,000
        leave float32 marginals with four digits.
    """
    n = w.shape[-1]
    flat = w.double().reshape(w.shape[:-2].numel(), n, n)
    ignored = torch.eye(n, dtype=torch.bool, device=w.device)
    ignored[:, 0] = True
    flat = flat.masked_fill(ignored, ABSENT)
    trivial = n == 1 or not len(flat)
    total = flat.sum((-1, -2)) * 0 if trivial else _by_range(flat, single_root and n > 2)
    return total.to(w.dtype).reshape(w.shape[:-2])


def _by_range(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    """Each element by the fastest algorithm that is right for it."""
    if single_root:
        w = _heaviest_first(w)
    scaled, shift = _scaled(w, single_root)
    near, far = _ranges(scaled.detach(), single_root)
    ways = (
        (near, lambda i: _Determinant.apply(scaled[i], single_root) + shift[i]),
        (~near & ~far, lambda i: _elimination(scaled[i], single_root) + shift[i]),
        (far, lambda i: eliminated(_best_first(w[i]) if single_root else w[i], single_root)),
    )
    total = w.new_zeros(len(w))
    for elements, algorithm in ways:
        if bool(elements.all()):
            return algorithm(slice(None))
        if bool(elements.any()):
            index = torch.nonzero(elements).flatten()
            total = total.index_copy(0, index, algorithm(index))
    return total


def _scaled(w: torch.Tensor, single_root: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights into every vertex over their sum, and what this takes off the log of every tree, ``(batch,)``.

    A single root's edges do not count in the sum, and are relative to its edge into vertex 1.
    """
    first = int(single_root)
    mass = w.detach()[:, first:].logsumexp(1)
    mass = torch.where(mass > ABSENT / 2, mass, 0.0)
    scaled, shift = w - mass[:, None], mass.sum(1)
    if single_root:
        edge = scaled.detach()[:, 0, 1]
        scaled = torch.cat([scaled[:, :1] - edge[:, None, None], scaled[:, 1:]], 1)
        shift = shift + edge
    return scaled, shift


def _ranges(w: torch.Tensor, single_root: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Where scaled weights suit LAPACK, and where not even elimination, ``(batch,)`` bool.

    During elimination, the mass that enters v is at least the product of weights along any path from the first vertex.
    """
    inner = w[:, 1:, 1:] if single_root else w
    reach = inner[:, 0, 1:]
    most = w[:, 0].amax(1)
    near = (reach.amin(1) > -_NEAR) & (most < _NEAR)
    for _ in range(inner.shape[1] - 2):
        further = torch.maximum(reach, (reach[:, :, None] + inner[:, 1:, 1:]).amax(1))
        if bool(near.all()) or torch.equal(further, reach):
            break
        reach = further
    return near, (reach.amin(1) < -_RANGE) | (most > _OVERFLOW)


class _Determinant(torch.autograd.Function):
    """log det L of log-weights; its gradient w (dL/dw)^T L^-T is written with operations that autograd knows."""

    @staticmethod
    def forward(ctx: Any, w: torch.Tensor, single_root: bool) -> torch.Tensor:  # type: ignore[override]
        ctx.save_for_backward(w)
        ctx.single_root = single_root
        return torch.linalg.slogdet(_laplacian(w.exp(), single_root))[1]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (w,) = ctx.saved_tensors
        weights = w.exp()
        inverse = torch.linalg.inv(_laplacian(weights, ctx.single_root))
        return _by_weight(inverse, ctx.single_root) * weights * gradients[0][:, None, None], None


def _laplacian(weights: torch.Tensor, single_root: bool) -> torch.Tensor:
    """Laplacian without the root; a single root's edges stand in place of the first row (Koo et al. 2007)."""
    if not single_root:
        return torch.diag_embed(weights[:, :, 1:].sum(1)) - weights[:, 1:, 1:]
    rest = torch.diag_embed(weights[:, 1:, 1:].sum(1)) - weights[:, 1:, 1:]
    return torch.cat([weights[:, :1, 1:], rest[:, 1:]], 1)


def _by_weight(inverse: torch.Tensor, single_root: bool) -> torch.Tensor:
    """Derivatives by every weight of the log-determinant, ``(batch, n, n)``, from the inverse of the Laplacian."""
    across = inverse.mT
    visits = inverse.diagonal(dim1=1, dim2=2)[:, None]
    if not single_root:
        return torch.nn.functional.pad(torch.cat([visits, visits - across], 1), (1, 0))
    visits = torch.cat([torch.zeros_like(visits[:, :, :1]), visits[:, :, 1:]], 2)  # column 1 has no diagonal entry
    return torch.nn.functional.pad(torch.cat([across[:, :1], visits, visits - across[:, 1:]], 1), (1, 0))


def _elimination(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    return EliminatedWeights.apply(torch.where(w < -_LOST, ABSENT, w), single_root)  # type: ignore[no-any-return]


def _heaviest_first(w: torch.Tensor) -> torch.Tensor:
    """Vertex 1 is one whose edge from the root is heavy beside its others, or nothing where it hardly matters."""
    edges = w.detach()[:, 0, 1:] - w.detach()[:, 1:, 1:].amax(1)
    heaviest, start = edges.max(1)
    return _with_first(w, start + 1) if bool((heaviest - edges[:, 0] > _NEAR / 2).any()) else w


def _best_first(w: torch.Tensor) -> torch.Tensor:
    """Vertex 1 is the one that follows the root in the best tree, so that it reaches all."""
    parent = best_tree(torch.where(w > ABSENT / 2, w, -torch.inf), single_root=True)
    return _with_first(w, (parent[:, 1:] == 0).int().argmax(1) + 1)


def _with_first(w: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Weights with vertices 1 and ``start``, ``(batch,)``, exchanged."""
    order = torch.arange(w.shape[-1], device=w.device).repeat(len(w), 1)
    order = order.scatter(1, start[:, None], 1)
    order[:, 1] = start
    return w.gather(1, order[:, :, None].expand_as(w)).gather(2, order[:, None].expand_as(w))
