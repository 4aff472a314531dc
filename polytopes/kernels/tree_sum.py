"""Sums over the spanning trees of weighted graphs, directed or not; batched, on any device.

Vertex 0 is the root. ``w[..., i, j]`` is the log-weight of the edge from i to j, ``ABSENT`` where there is none; an
undirected tree is a directed one under symmetric weights. By the matrix-tree theorem (Kirchhoff; Tutte 1948) the sum is
the determinant of a Laplacian, but in floating point that has digits only while weights are alike. So, element by
element, with weights into every vertex divided by their sum:

- Where the root has a fair share in every vertex, the Laplacian is well conditioned (its inverse is a matrix of
  expected visits, which few steps end), and LAPACK does it.
- Elsewhere vertices are eliminated one by one without any subtraction (Grassmann, Taksar, Heyman 1985), see
  ``tree_elimination.py``: on the weights while paths from the root keep every mass within the range of float64,
- and in the log domain beyond that, at any scale. Where the host must not be asked, this serves for all elements, see
  ``tree_log_elimination.py``.

A single root's edges enter linearly: sum_r rho_r tau_r over the vertices r that may follow the root, where tau_r, the
sum over trees of the rest rooted at r, needs no edge of the root. Another vertex then takes the root's part.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from polytopes.kernels.best_tree import best_tree
from polytopes.kernels.log_weights import ABSENT
from polytopes.kernels.tree_elimination import eliminated, eliminated_marginals, eliminated_weights
from polytopes.kernels.tree_log_elimination import log_domain_marginals, log_domain_sum
from polytopes.kernels.tree_native import compiled_marginals, compiled_sum
from sst_cvx import native
from sst_cvx.autodiff import gradient
from sst_cvx.host import stops_early

_NEAR = 11.0  # least log-share of the root's edge for LAPACK, which loses exp(_NEAR) of its digits
_RANGE = 500.0  # least log-mass of a vertex during elimination on weights
_COMPILED = 100  # vertices up to which compiled elimination is faster than LAPACK
_COMPILED_TWICE = 20  # the same with derivatives, which LAPACK takes by products of matrices
_OVERFLOW = 100.0  # most by which another edge of a single root may exceed the one into vertex 1


def log_tree_sum(w: torch.Tensor, single_root: bool = False) -> torch.Tensor:
    """log of the sum over spanning trees directed away from vertex 0 of the product of their weights.

    Args:
        w: log-weights ``(*batch, n, n)``; the diagonal and edges into the root do not count. Every vertex must be
            within reach of the root.
        single_root: only trees with exactly one edge out of the root.

    Returns:
        ``(*batch,)``, differentiable by autograd any number of times. In float64 inside: differences of log-weights of
        size 1,000 leave float32 marginals with four digits.
    """
    if not stops_early(w):
        return log_domain_sum(w.double(), single_root and w.shape[-1] > 2).to(w.dtype)
    if _all_compiled(w):
        flat = w.double().reshape(w.shape[:-2].numel(), *w.shape[-2:])
        return compiled_sum(flat, single_root and w.shape[-1] > 2).to(w.dtype).reshape(w.shape[:-2])
    flat, single_root, start = _prepared(w, single_root)
    scaled, shift = _scaled(flat if start is None else _with_first(flat, start), single_root)
    total = _by_range(scaled, single_root, (_determinant, _eliminated, _eliminated_from_best))
    return (total + shift).to(w.dtype).reshape(w.shape[:-2])


def tree_marginals(w: torch.Tensor, single_root: bool = False) -> torch.Tensor:
    """Gradient of ``log_tree_sum``: how likely every edge is in a tree, ``(*batch, n, n)``; differentiable as it is.

    Without its detour through the log-partition, in half the time.
    """
    if not stops_early(w):
        return log_domain_marginals(w.double(), single_root and w.shape[-1] > 2).to(w.dtype)
    if _all_compiled(w):
        flat = w.double().reshape(w.shape[:-2].numel(), *w.shape[-2:])
        return compiled_marginals(flat, single_root and w.shape[-1] > 2).to(w.dtype).reshape(w.shape)
    flat, single_root, start = _prepared(w, single_root)
    scaled, _ = _scaled(flat if start is None else _with_first(flat, start), single_root)
    x = _by_range(scaled, single_root, (_by_inverse, _eliminated_marginals, _marginals_from_best))
    return (x if start is None else _with_first(x, start)).to(w.dtype).reshape(w.shape)


def _all_compiled(w: torch.Tensor) -> bool:
    """Whether compiled elimination is faster for all elements, or (with derivatives, by products of large matrices)
    only for those that do not suit LAPACK."""
    differentiates = torch.is_grad_enabled() and w.requires_grad
    return native.serves(w) and w.shape[-1] <= (_COMPILED_TWICE if differentiates else _COMPILED)


def places(edge_index: torch.Tensor, n: int) -> torch.Tensor:
    """Of undirected edges ``(2, edges)`` in the flat ``(n, n)`` matrix, ``(2 edges,)``: one way, then the other."""
    tails, heads = edge_index
    return torch.cat([tails * n + heads, heads * n + tails])


def undirected(u: torch.Tensor, both: torch.Tensor, n: int, absent: float = ABSENT) -> torch.Tensor:
    """Log-weights ``(*batch, n, n)`` from those of undirected edges ``(*batch, edges)``, at their ``places``."""
    dense = u.new_full((*u.shape[:-1], n * n), absent)
    return dense.index_copy(-1, both, torch.cat([u, u], -1)).unflatten(-1, (n, n))


def _prepared(w: torch.Tensor, single_root: bool) -> tuple[torch.Tensor, bool, torch.Tensor | None]:
    """Weights of a flat batch in float64, whether it matters that the root is single, and which vertex should be 1."""
    n = w.shape[-1]
    ignored = torch.eye(n, dtype=torch.bool, device=w.device)
    ignored[:, 0] = True
    flat = w.double().reshape(w.shape[:-2].numel(), n, n).masked_fill(ignored, ABSENT)
    single_root = single_root and n > 2
    return flat, single_root, _heaviest_start(flat) if single_root else None


_Algorithm = Callable[[torch.Tensor, bool], torch.Tensor]


def _by_range(
    w: torch.Tensor, single_root: bool, algorithms: tuple[_Algorithm, _Algorithm, _Algorithm]
) -> torch.Tensor:
    """Each element by the fastest of three algorithms that is right for it: near, in between, far.

    Compiled, the second is right for all, and to do all by it is faster than to tell them apart.
    """
    if native.serves(w):
        return algorithms[0 if bool(_near(w.detach(), single_root).all()) else 1](w, single_root)
    near, far = _ranges(w.detach(), single_root)
    parts, places = [], []
    for elements, algorithm in zip((near, ~near & ~far, far), algorithms, strict=True):
        if bool(elements.all()):
            return algorithm(w, single_root)
        if bool(elements.any()):
            places.append(torch.nonzero(elements).flatten())
            parts.append(algorithm(w[places[-1]], single_root))
    return torch.cat(parts)[torch.cat(places).argsort()]


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


def _near(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    """Where scaled weights suit LAPACK, ``(batch,)`` bool."""
    reach = w[:, int(single_root), int(single_root) + 1 :]
    return (reach.amin(1) > -_NEAR) & (w[:, 0].amax(1) < _NEAR)


def _ranges(w: torch.Tensor, single_root: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Where scaled weights suit LAPACK, and where not even elimination, ``(batch,)`` bool.

    During elimination, the mass that enters v is at least the product of weights along any path from the first vertex.
    """
    inner = w[:, 1:, 1:] if single_root else w
    reach = inner[:, 0, 1:]
    most = w[:, 0].amax(1)
    near = _near(w, single_root)
    for _ in range(inner.shape[1] - 2):
        further = torch.maximum(reach, (reach[:, :, None] + inner[:, 1:, 1:]).amax(1))
        if bool(near.all()) or torch.equal(further, reach):
            break
        reach = further
    return near, (reach.amin(1) < -_RANGE) | (most > _OVERFLOW)


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


def _determinant(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    return torch.linalg.slogdet(_laplacian(w.exp(), single_root))[1]


def _by_inverse(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    weights = w.exp()
    return _by_weight(torch.linalg.inv(_laplacian(weights, single_root)), single_root) * weights


def _eliminated(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    return compiled_sum(w, single_root) if native.serves(w) else eliminated_weights(w, single_root)


def _eliminated_marginals(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    return compiled_marginals(w, single_root) if native.serves(w) else eliminated_marginals(w, single_root)


def _eliminated_from_best(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    return eliminated(_with_first(w, _best_start(w)) if single_root else w, single_root)


def _marginals_from_best(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    return gradient(lambda v: _eliminated_from_best(v, single_root), w)


def _heaviest_start(w: torch.Tensor) -> torch.Tensor | None:
    """A vertex whose edge from the root is heavy beside its others, ``(batch,)``; None where 1 will do."""
    edges = w.detach()[:, 0, 1:] - w.detach()[:, 1:, 1:].amax(1)
    heaviest, start = edges.max(1)
    return start + 1 if bool((heaviest - edges[:, 0] > _NEAR / 2).any()) else None


def _best_start(w: torch.Tensor) -> torch.Tensor:
    """The vertex that follows the root in the best tree, so that it reaches all others, ``(batch,)``."""
    parent = best_tree(torch.where(w > ABSENT / 2, w, -torch.inf), single_root=True)
    return (parent[:, 1:] == 0).int().argmax(1) + 1


def _with_first(w: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Weights with vertices 1 and ``start``, ``(batch,)``, exchanged."""
    order = torch.arange(w.shape[-1], device=w.device).repeat(len(w), 1)
    order = order.scatter(1, start[:, None], 1)
    order[:, 1] = start
    return w.gather(1, order[:, :, None].expand_as(w)).gather(2, order[:, None].expand_as(w))
