"""Best trees directed away from a root, and edges that trees need beside a mask; batched, on any device."""

from __future__ import annotations

import torch

from sst_cvx import native
from sst_cvx.host import stops_early


def best_tree(w: torch.Tensor, single_root: bool = False) -> torch.Tensor:
    """Parents of every vertex in a spanning tree of largest weight directed away from vertex 0 (Chu-Liu; Edmonds).

    In rounds, few as a rule and at most n - 1 (all of which are run where the host must not be asked): every component
    takes its best entering edge, and all cycles of all batch elements are contracted at once. An edge into a component
    that was a cycle is worth what it is better than the edge it replaces; each vertex keeps the sum of these,
    ``replaced``. Then back through the rounds, opening the cycles.

    Args:
        w: ``(batch, n, n)``, -inf where there is no edge; every vertex within reach of the root.
        single_root: only trees with exactly one edge out of the root.

    Returns:
        ``(batch, n)`` integers; the root's own is 0.
    """
    if native.serves(w):
        return _compiled_parents(w, single_root)
    n, w = w.shape[-1], _prepared(w, single_root)
    own, may_stop = torch.arange(n, device=w.device).expand(len(w), -1), stops_early(w)
    component, replaced, rounds = own, w.new_zeros(len(w), n), []
    for left in range(max(n - 2, 0), -1, -1):  # at the end, at most the root and one other component
        w.masked_fill_(component[:, :, None] == component[:, None, :], -torch.inf)
        best, tail = w.max(1)
        gain, head = _best_of_each(best - replaced, component)
        tail = tail.gather(1, head)
        if not left:
            break
        parent = torch.where((component == own) & (own > 0), component.gather(1, tail), 0)
        name, on_cycle = _cycles(parent)
        if may_stop and not bool(on_cycle.any()):
            break
        rounds.append((component, name, on_cycle, head, tail))
        replaced = replaced + torch.where(on_cycle, gain, 0.0).gather(1, component)
        component = name.gather(1, component)
    for component, name, on_cycle, inner_head, inner_tail in reversed(rounds):
        # The edge that enters a cycle replaces the cycle's own at the component where it enters; the others stay.
        head, tail = head.gather(1, name), tail.gather(1, name)
        stays = on_cycle & (component.gather(1, head) != own)
        head, tail = torch.where(stays, inner_head, head), torch.where(stays, inner_tail, tail)
    return torch.where(own > 0, tail, 0)


def _compiled_parents(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    from polytopes.kernels.native.best_tree import parents

    found = torch.empty(w.shape[:2], dtype=torch.long, device=w.device)
    parents(native.array(w.double()), single_root, native.array(found))
    return found


def compiled_spanning_trees(u: torch.Tensor, ends: torch.Tensor, n: int) -> torch.Tensor:
    """Maximum spanning trees, 0/1 like utilities ``(batch, edges)``, for which ``native.serves``."""
    from polytopes.kernels.native.best_tree import prim

    x, (tails, heads) = u.new_empty(u.shape, dtype=torch.float64), native.array(ends)
    prim(native.array(u.double()), tails, heads, n, native.array(x))
    return x.to(u.dtype)


def compiled_arborescences(u: torch.Tensor, ends: torch.Tensor, n: int, free: bool, single_root: bool) -> torch.Tensor:
    """Maximum spanning arborescences from vertex 0, 0/1 like utilities ``(batch, edges)``, for which ``native.serves``.

    With ``free``, vertex 0 also has an edge of utility 0 to all others.
    """
    from polytopes.kernels.native.best_tree import arborescences

    x, (tails, heads) = u.new_empty(u.shape, dtype=torch.float64), native.array(ends)
    arborescences(native.array(u.double()), tails, heads, n, free, single_root, native.array(x))
    return x.to(u.dtype)


def _prepared(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    """A copy in float64 without edges into the root; for a single root, its edges are worth less than all others."""
    w = w.detach().double().clone()
    w[:, :, 0] = -torch.inf
    w.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    if single_root:
        present = torch.isfinite(w)
        most = w.masked_fill(~present, -torch.inf).flatten(1).amax(1)
        least = w.masked_fill(~present, torch.inf).flatten(1).amin(1)
        span = torch.where(most > least, most - least, 1.0)  # small where utilities are, for the digits of the root's
        w[:, 0] -= w.shape[-1] * span[:, None]
    return w


def _best_of_each(score: torch.Tensor, component: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest score in each component, and a vertex that has it; by the component's name, ``(batch, n)``."""
    own = torch.arange(score.shape[1], device=score.device).expand_as(component)
    most = torch.full_like(score, -torch.inf).scatter_reduce(1, component, score, "amax")
    winner = torch.where(score == most.gather(1, component), own, 0)
    return most, torch.zeros_like(winner).scatter_reduce(1, component, winner, "amax")


def _cycles(parent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """By pointer doubling: names of vertices once each cycle is called by its least vertex; and who is on a cycle.

    The parent of 0, and of all that does not count, is 0.
    """
    own = torch.arange(parent.shape[1], device=parent.device).expand_as(parent)
    jump, least, steps = parent, torch.minimum(own, parent), 1
    while steps < parent.shape[1]:
        least = torch.minimum(least, least.gather(1, jump))
        jump, steps = jump.gather(1, jump), 2 * steps
    on_cycle = torch.zeros_like(parent, dtype=torch.bool).scatter(1, jump, True) & (own > 0)
    return torch.where(on_cycle, least, own), on_cycle


def hanging_edges(
    ends: torch.Tensor, n: int, allowed: torch.Tensor, root: int | None = None, spare_root: bool = False
) -> torch.Tensor:
    """One edge into every vertex that no allowed edge touches, from a vertex in the graph or an earlier isolated one.

    Args:
        ends: tails and heads of directed edges ``(2, edges)``. allowed: bool ``(*batch, edges)``, on their device.
        root: a vertex that is always in the graph; with ``spare_root`` nothing hangs from it if there is another way.

    Returns:
        bool, of the shape of ``allowed``.
    """
    tails, heads = ends
    flat = allowed.reshape(-1, len(tails))
    touched = torch.zeros(len(flat), n, dtype=torch.int, device=flat.device)
    present = touched.index_add(1, tails, flat.int()).index_add(1, heads, flat.int()) > 0
    if root is not None:
        present[:, root] = True
    present[:, 0] |= ~present.any(1)
    # Rank of tails: the graph's own vertices, then isolated ones, then the root if it is to be spared.
    rank = torch.arange(n, device=flat.device) + n * (~present)
    if spare_root and root is not None:
        rank[:, root] = 2 * n
    usable = ~present[:, heads] & (present[:, tails] | (tails < heads))
    score = torch.where(usable, rank[:, tails], 3 * n)
    best = torch.full((len(flat), n), 3 * n, device=flat.device).scatter_reduce(
        1, heads.expand_as(score), score, "amin"
    )
    return (usable & (score == best[:, heads])).reshape(allowed.shape)
