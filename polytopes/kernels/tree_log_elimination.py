"""The elimination of ``tree_elimination.py`` in the log domain: right at any scale, by one program for a whole batch.

Vertices are eliminated from the last to the first. With S_v the mass that enters v and p = w_iv / S_v,

    w_ij <- w_ij + p_i w_vj,        log Z = sum_v log S_v.

So an edge (i, j) of a tree of what is left is a detour, i -> v -> j, with probability d_ij = p_i w_vj / w_ij. In the
opposite order, v by v, with D = M d for the marginals M of what was left,

    M_ij <- M_ij - D_ij,      M_vj = sum_i D_ij,      M_iv = sum_j D_ij + p_i (1 - sum D):

only shares in [0, 1]. With a single root, S_v and p leave the root's row out, as in ``tree_elimination.py``, and
vertex 1, which stays to the last, must reach all others.

Functions with these recursions, differentiated by hand, for their derivatives spare launches, and most of a compiler's
graph. Nothing is read on the host. Log-weights must be finite (``ABSENT`` where there is no edge).
"""

from __future__ import annotations

from typing import Any

import torch

from sst_cvx.autodiff import Function

_FAR = 100.0  # difference of logs beyond which the smaller one does not count
_BELOW = -1e300  # less than any log-share


def log_domain_sum(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    """log of the sum over trees, ``(*batch, n, n)`` float64 to ``(*batch,)``; differentiable three times."""
    w, _ = _from_widest_start(w, single_root)
    return _log_sum(w, int(single_root)) if _in_traced_transform() else _LogSum.apply(w, single_root)


def log_domain_marginals(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    """Its gradient, ``(*batch, n, n)``."""
    w, start = _from_widest_start(w, single_root)
    x = _marginals(w, int(single_root)) if _in_traced_transform() else _Marginals.apply(w, single_root)
    return x if start is None else exchanged(x, start)


def widest_start(w: torch.Tensor) -> torch.Tensor:
    """A vertex that may follow the root, for which the least edge that it takes to every other is largest.

    By the recursion of Floyd and Warshall; ``(*batch, n, n)`` to ``(*batch,)``. It passes absent edges, and those
    that a mask has lowered, only if no tree does without them.
    """
    n = w.shape[-1]
    itself = torch.eye(n - 1, dtype=torch.bool, device=w.device)
    width = torch.where(itself, torch.inf, w.detach()[..., 1:, 1:])
    for v in range(n - 1):
        width = torch.maximum(width, torch.minimum(width[..., :, v, None], width[..., v, None, :]))
    return torch.minimum(w.detach()[..., 0, 1:], width.amin(-1)).argmax(-1) + 1


def exchanged(w: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Weights with vertices 1 and ``start``, ``(*batch,)``, exchanged."""
    own = torch.arange(w.shape[-1], device=w.device)
    order = torch.where(own == 1, start[..., None], torch.where(own == start[..., None], 1, own))
    return w.gather(-2, order[..., :, None].expand_as(w)).gather(-1, order[..., None, :].expand_as(w))


def log_domain_sample(w: torch.Tensor, single_root: bool, generator: torch.Generator | None) -> torch.Tensor:
    """Parents ``(*batch, n)`` in a random tree, exact; 0 is its own.

    Whether an edge of the tree of what was left is a detour is drawn by d. Detours end at the children of v. Where
    they begin does not count: over all ways to begin them that leave a tree, the products of p sum to the p of the
    vertices that are not below these children, and from those the parent of v is drawn by p.
    """
    w, start = _from_widest_start(w, single_root)
    last, n = int(single_root), w.shape[-1]
    chance = torch.rand(w.shape, dtype=w.dtype, device=w.device, generator=generator)
    noise = torch.empty_like(w).exponential_(generator=generator).log()
    parent = torch.zeros_like(w[..., : last + 1, 0], dtype=torch.long)
    for v, (p, d) in enumerate(reversed(_shares(w, last, logs=True)), start=last + 1):
        detour = chance[..., v, :v] < d.gather(-2, parent[..., None, :])[..., 0, :]
        children = detour & (torch.arange(v, device=w.device) > 0)
        score = torch.where(_with_descendants(children, parent), -torch.inf, p - noise[..., v, :v])
        if last:
            score = torch.cat([torch.full_like(score[..., :1], _BELOW), score[..., 1:]], -1)
        own = score.argmax(-1, keepdim=True)
        parent = torch.cat([torch.where(children, v, parent), own], -1)
    if start is None:
        return parent
    own = torch.arange(n, device=w.device)
    order = torch.where(own == 1, start[..., None], torch.where(own == start[..., None], 1, own))
    return order.gather(-1, parent.gather(-1, order))


def _with_descendants(chosen: torch.Tensor, parent: torch.Tensor) -> torch.Tensor:
    """Vertices of a tree that are chosen or below a chosen one, by pointer doubling."""
    steps = 1
    while steps < parent.shape[-1]:
        chosen = chosen | chosen.gather(-1, parent)
        parent, steps = parent.gather(-1, parent), 2 * steps
    return chosen


def _from_widest_start(w: torch.Tensor, single_root: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    if not single_root:
        return w, None
    start = widest_start(w)
    return exchanged(w, start), start


def _in_traced_transform() -> bool:
    """Whether a compiler traces a transform of ``torch.func``, where it takes no functions with derivatives."""
    return torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def _log_add(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """log(e^a + e^b). Autograd's second derivative of it overflows where a and b are far apart, so that in plain
    tensor code, which may be differentiated any number of times, they are not."""
    if _in_traced_transform():
        a, b = torch.maximum(a, b - _FAR), torch.maximum(b, a - _FAR)
    return torch.logaddexp(a, b)


def _mass(into: torch.Tensor, last: int) -> torch.Tensor:
    return into[..., last:].logsumexp(-1, keepdim=True)


def _log_shares(into: torch.Tensor, last: int) -> torch.Tensor:
    """log p, ``(*batch, v)``."""
    return into - _mass(into, last) if last else into.log_softmax(-1)


def _shares_of_mass(log_p: torch.Tensor, last: int) -> torch.Tensor:
    """p, which sums to 1: 0 for a single root, whose share in a mass without it might overflow."""
    return torch.nn.functional.pad(log_p[..., last:].exp(), (last, 0)) if last else log_p.exp()


def _shares(w: torch.Tensor, last: int, logs: bool = False) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """p (or its log), ``(*batch, v)``, and d, ``(*batch, v, v)``, for every vertex v from the last on."""
    found = []
    for v in range(w.shape[-1] - 1, last, -1):
        p = _log_shares(w[..., :v, v], last)
        detour, rest = p[..., :, None] + w[..., v, None, :v], w[..., :v, :v]
        w = _log_add(rest, detour)
        found.append((p if logs else _shares_of_mass(p, last), (detour - w).exp()))
    return found


def _log_sum(w: torch.Tensor, last: int) -> torch.Tensor:
    masses = []
    for v in range(w.shape[-1] - 1, last, -1):
        masses.append(_mass(w[..., :v, v], last))
        p = w[..., :v, v] - masses[-1]
        w = _log_add(w[..., :v, :v], p[..., :, None] + w[..., v, None, :v])
    return torch.cat([*masses, w[..., 0, 1:]] if last else masses, -1).sum(-1)


def _marginals(w: torch.Tensor, last: int) -> torch.Tensor:
    m = _edge_of_root(w, last)
    for p, d in reversed(_shares(w, last)):
        detour = m * d
        into, out = detour.sum(-1), detour.sum(-2)
        alone = p * (1 - into.sum(-1, keepdim=True))
        m = _with_vertex(m - detour, into + alone, out)
    return m


def marginals_along(w: torch.Tensor, t: torch.Tensor, last: int) -> torch.Tensor:
    """Derivative of the marginals when log-weights move along t: both recursions, differentiated by hand."""
    found = []
    for v in range(w.shape[-1] - 1, last, -1):
        log_p, dp = _log_shares(w[..., :v, v], last), t[..., :v, v]
        p = _shares_of_mass(log_p, last)
        dp = dp - (p * dp).sum(-1, keepdim=True)
        detour, rest = log_p[..., :, None] + w[..., v, None, :v], w[..., :v, :v]
        d, more = (detour - rest).sigmoid(), dp[..., :, None] + t[..., v, None, :v] - t[..., :v, :v]
        change = d * more
        w, t = _log_add(rest, detour), t[..., :v, :v] + change
        found.append((p, p * dp, d, change * (1 - d)))
    m = _edge_of_root(w, last)
    dm = torch.zeros_like(m)
    for p, dp, d, dd in reversed(found):
        detour, moved = m * d, dm * d + m * dd
        into, out, dinto, dout = detour.sum(-1), detour.sum(-2), moved.sum(-1), moved.sum(-2)
        left = 1 - into.sum(-1, keepdim=True)
        dalone = dp * left - p * dinto.sum(-1, keepdim=True)
        m = _with_vertex(m - detour, into + p * left, out)
        dm = _with_vertex(dm - moved, dinto + dalone, dout)
    return dm


def _edge_of_root(w: torch.Tensor, last: int) -> torch.Tensor:
    """Marginals of what is left at the end: the root, and the vertex that follows a single one."""
    none = torch.zeros_like(w[..., : last + 1, : last + 1])
    if not last:
        return none
    top = torch.cat([none[..., :1, :1], torch.ones_like(none[..., :1, :1])], -1)
    return torch.cat([top, none[..., 1:, :]], -2)


def _with_vertex(m: torch.Tensor, into: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Marginals with one more vertex, of edges into it and out of it, ``(*batch, v)`` each."""
    bordered = torch.cat([m, into[..., None]], -1)
    return torch.cat([bordered, torch.nn.functional.pad(out, (0, 1))[..., None, :]], -2)


class _LogSum(Function):
    @staticmethod
    def forward(w: torch.Tensor, single_root: bool) -> torch.Tensor:
        return _log_sum(w, int(single_root))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.single_root = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return gradient[..., None, None] * _Marginals.apply(ctx.saved_tensors[0], ctx.single_root), None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, _: Any) -> torch.Tensor:  # type: ignore[override]
        return (_Marginals.apply(ctx.saved_tensors[0], ctx.single_root) * tangent).sum((-2, -1))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, w: torch.Tensor, single_root: bool) -> tuple[torch.Tensor, int]:
        return _LogSum.apply(w.movedim(in_dims[0], 0), single_root), 0


class _Marginals(Function):
    """Their Jacobian is a Hessian: along a cotangent, it is what it is along a tangent."""

    @staticmethod
    def forward(w: torch.Tensor, single_root: bool) -> torch.Tensor:
        return _marginals(w, int(single_root))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.single_root = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return marginals_along(ctx.saved_tensors[0], gradient, int(ctx.single_root)), None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, _: Any) -> torch.Tensor:  # type: ignore[override]
        return marginals_along(ctx.saved_tensors[0], tangent, int(ctx.single_root))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, w: torch.Tensor, single_root: bool) -> tuple[torch.Tensor, int]:
        return _Marginals.apply(w.movedim(in_dims[0], 0), single_root), 0
