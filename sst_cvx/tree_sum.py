"""Sums over the spanning trees of weighted graphs, directed or not; batched, on any device.

Vertex 0 is the root. ``w[..., i, j]`` is the log-weight of the edge from i to j, ``ABSENT`` where there is none; an
undirected tree is a directed one under symmetric weights. By the matrix-tree theorem (Kirchhoff; Tutte 1948) the sum is
the determinant of a Laplacian, but in floating point that has digits only while weights are alike. So:

- Where every vertex has an edge from the root that is not much worse than its best one, the Laplacian is well
  conditioned (its inverse is a matrix of expected visits, which few steps end), and LAPACK does it.
- Elsewhere vertices are eliminated one by one without any subtraction (Grassmann, Taksar, Heyman 1985), in the log
  domain: with S = sum_i w_iv the edges into v, w_ij <- w_ij + w_iv w_vj / S and Z <- Z S. Right at any scale.
"""

from __future__ import annotations

import math

import torch

ABSENT = -1e30  # log-weight of an edge that is not there: finite, so that differences of two of them are not NaN
_NEAR = 8.0  # log of how much worse than the best edge the one from the root may be
_UNDERFLOW = 300.0


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
    total = flat.new_zeros(len(flat))
    if n == 1 or not len(flat):
        return (total + flat.sum((-1, -2)) * 0).to(w.dtype).reshape(w.shape[:-2])
    # Vertices beyond the root have exactly one entering edge each: scale by the best.
    best = flat.detach()[:, :, 1:].amax(1)
    scaled = torch.cat([flat[:, :, :1], flat[:, :, 1:] - best[:, None]], 2)
    near = _is_near(scaled, single_root)
    by_laplacian = _single_root_laplacian if single_root else _laplacian
    by_elimination = _single_root_elimination if single_root else _elimination
    if bool(near.all()):
        total = by_laplacian(scaled)
    elif not bool(near.any()):
        total = by_elimination(scaled)
    else:
        for algorithm, elements in ((by_laplacian, near), (by_elimination, ~near)):
            index = torch.nonzero(elements).flatten()
            total = total.index_copy(0, index, algorithm(scaled.index_select(0, index)))
    return (total + best.sum(1)).to(w.dtype).reshape(w.shape[:-2])


def _is_near(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    """Where edges out of one vertex (the root; of the rest, if it has a single edge) carry at least exp(-_NEAR) of the
    best into the same vertex, ``(batch,)``."""
    w = w.detach()
    inner = w[:, 1:, 1:] if single_root else w
    if inner.shape[1] == 1:
        return torch.ones(len(w), dtype=torch.bool, device=w.device)
    best = inner.amax(1)[:, 1:]
    near = (best - inner[:, 0, 1:]).amax(1) <= _NEAR
    if (
        single_root
    ):  # nothing underflows: neither all edges of the rest into a vertex, nor all trees rooted at the first
        near &= (best.amin(1) > -_UNDERFLOW) & (w[:, 0, 1:].amax(1) - w[:, 0, 1] < _UNDERFLOW)
    return near


def _reduced(weights: torch.Tensor) -> torch.Tensor:
    """Laplacian without the root's row and column, for weights ``(batch, n, n)``."""
    inner = weights[:, 1:, 1:]
    return torch.diag_embed(weights[:, :, 1:].sum(1)) - inner


def _laplacian(w: torch.Tensor) -> torch.Tensor:
    return torch.linalg.slogdet(_reduced(w.exp()))[1]


def _single_root_laplacian(w: torch.Tensor) -> torch.Tensor:
    """sum_r rho_r tau_r over the vertices r that may follow the root: tau_r, the sum over trees of the rest that are
    rooted at r, goes as the stationary distribution of the walk to parents (Markov chain tree theorem)."""
    rho, inner = w[:, 0, 1:], w[:, 1:, 1:]
    weights = inner.exp()
    laplacian = _reduced(weights)
    share = torch.linalg.solve(laplacian, weights[:, 1:, :1])[:, :, 0]  # tau_r / tau_0
    top = rho.detach().amax(1, keepdim=True)
    factors = (rho - top).exp()
    return torch.linalg.slogdet(laplacian)[1] + (factors[:, 0] + (factors[:, 1:] * share).sum(1)).log() + top[:, 0]


def _elimination(w: torch.Tensor) -> torch.Tensor:
    total = w.new_zeros(len(w))
    for v in range(w.shape[-1] - 1, 0, -1):
        into, out, rest = w[:, :v, v], w[:, v, :v], w[:, :v, :v]
        mass = into.logsumexp(1)
        total = total + mass
        detour = (into - mass[:, None])[:, :, None] + out[:, None, :]
        w = torch.stack([rest, detour]).logsumexp(0)
    return total


def _single_root_elimination(w: torch.Tensor) -> torch.Tensor:
    """With edges out of the root worth so little that trees with two of them do not count."""
    n, present = w.shape[-1], w.detach() > ABSENT / 2
    most = w.detach().masked_fill(~present, -torch.inf).flatten(1).amax(1)
    least = w.detach().masked_fill(~present, torch.inf).flatten(1).amin(1)
    less = n * (most - least) + n * math.log(n) + 45
    return _elimination(torch.cat([w[:, :1] - less[:, None, None], w[:, 1:]], 1)) + less
