"""Who computes marginals and best trees: ours, torch-struct, networkx, SciPy, and the plain recursions of textbooks."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import minimum_spanning_tree

import polytopes
import sst_cvx as sst

_FORBIDDEN = -1e30  # finite, so that logaddexp of two of them has a gradient


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to the answer, in the layout that it takes by nature: only ``compute`` is timed.

    ``lay_out`` takes utilities ``(batch, *event_shape)`` to that layout, ``read`` answers back from it.
    """

    compute: Callable[[torch.Tensor], torch.Tensor]
    lay_out: Callable[[torch.Tensor], torch.Tensor] = lambda u: u
    read: Callable[[torch.Tensor], torch.Tensor] = lambda x: x


def marginal_ways(structure: sst.Structure, variants: bool = False) -> dict[str, Way]:
    """Ours first; with ``variants`` also peers at other settings."""
    ways = {"ours": Way(sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy()))}
    if isinstance(structure, _class("SpanningTree", "Arborescence")):
        single_root = getattr(structure, "single_root", False)
        if importlib.util.find_spec("torch_struct"):
            ways["torch-struct"] = _torch_struct(structure, single_root, None)
            if variants:
                ways["torch-struct, eps = 0"] = _torch_struct(structure, single_root, 0.0)
        if not single_root:
            ways["naive matrix-tree"] = by_autograd(lambda u: _log_determinant(structure, u))
    elif isinstance(structure, _class("KSubset")):
        ways["naive recursion"] = by_autograd(lambda u: _count_recursion(u, structure.k))
    elif isinstance(structure, _class("CorrelatedKSubset")):
        ways["naive recursion"] = by_autograd(lambda u: _correlated_recursion(u, structure.n, structure.k))
    return ways


def argmax_ways(structure: sst.Structure) -> dict[str, Way]:
    """Best trees: ours, SciPy (undirected only) and networkx, one by one, conversion from and to torch included."""
    ways = {"ours": Way(structure.argmax)}
    if isinstance(structure, polytopes.SpanningTree):
        ways["SciPy, each"] = Way(lambda u: _scipy_trees(structure, u))
    if importlib.util.find_spec("networkx"):
        ways["networkx, each"] = Way(lambda u: _networkx_trees(structure, u))
    return ways


def _class(*names: str) -> tuple[type, ...]:
    return tuple(getattr(polytopes, name) for name in names if hasattr(polytopes, name))


def by_autograd(log_partition: Callable[[torch.Tensor], torch.Tensor]) -> Way:
    """Marginals as the gradient of log Z; differentiable where the utilities are."""

    def compute(u: torch.Tensor) -> torch.Tensor:
        again = torch.is_grad_enabled() and u.requires_grad
        with torch.enable_grad():
            leaf = u if again else u.detach().requires_grad_()
            return torch.autograd.grad(log_partition(leaf).sum(), leaf, create_graph=again)[0]

    return Way(compute)


def arcs(structure: sst.Structure) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tails, heads and edge numbers of the arcs of a graph with root 0: an undirected edge has two, none enters 0."""
    tails, heads = structure.edge_index
    number = torch.arange(len(tails))
    if isinstance(structure, polytopes.SpanningTree):
        tails, heads, number = torch.cat([tails, heads]), torch.cat([heads, tails]), number.repeat(2)
    keep = heads != 0
    return tails[keep], heads[keep], number[keep]


def _torch_struct(structure: sst.Structure, single_root: bool, eps: float | None) -> Way:
    """Non-projective dependency trees over words 1, ..., n - 1 of which root 0 is none: complete graphs only.

    Scores are (head, child) with root scores on the diagonal. An undirected edge is in the tree either way round.
    The class adds 1e-5 to every weight of the Laplacian and not to the arc's own; only the function takes an ``eps``.
    """
    import torch_struct

    tails, heads, number = arcs(structure)
    rows, columns = torch.where(tails == 0, heads, tails) - 1, heads - 1
    words = int(heads.max())

    def lay_out(u: torch.Tensor) -> torch.Tensor:
        scores = u.new_zeros(len(u), words, words)
        scores[:, rows, columns] = u[:, number.to(u.device)]
        return scores

    def compute(scores: torch.Tensor) -> torch.Tensor:
        if eps is not None:
            return torch_struct.deptree_nonproj(scores, not single_root, eps=eps)
        return torch_struct.NonProjectiveDependencyCRF(scores, multiroot=not single_root).marginals

    def read(x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(len(x), *structure.event_shape).index_add(1, number.to(x.device), x[:, rows, columns])

    return Way(compute, lay_out, read)


def _log_determinant(structure: sst.Structure, u: torch.Tensor) -> torch.Tensor:
    """The matrix-tree theorem as written: exp, Laplacian without the root's row and column, logdet."""
    tails, heads, number = (ends.to(u.device) for ends in arcs(structure))
    n = int(heads.max()) + 1
    weights = u.new_zeros(len(u), n * n).index_copy(1, tails * n + heads, u.exp()[:, number]).reshape(-1, n, n)
    laplacian = torch.diag_embed(weights.sum(-2)) - weights
    return torch.logdet(laplacian[:, 1:, 1:])


def _count_recursion(u: torch.Tensor, k: int) -> torch.Tensor:
    """log e_k(exp u), item by item."""
    table = u.new_full((len(u), k + 1), _FORBIDDEN)
    table[:, 0] = 0
    for w in u.split(1, -1):
        table = torch.logaddexp(table, torch.nn.functional.pad(table[:, :-1] + w, (1, 0), value=_FORBIDDEN))
    return table[:, k]


def _correlated_recursion(u: torch.Tensor, n: int, k: int) -> torch.Tensor:
    """log Z of items and neighbouring pairs, item by item, over whether the last one is in and how many are."""
    items, pairs = u[:, :n].split(1, -1), [torch.zeros_like(u[:, :1]), *u[:, n:].split(1, -1)]
    last_in = u.new_full((len(u), k + 1), _FORBIDDEN)
    last_out = torch.nn.functional.pad(last_in[:, 1:], (1, 0), value=0.0)
    for w, pair in zip(items, pairs, strict=True):
        taken = torch.logaddexp(last_out, last_in + pair)[:, :-1] + w
        last_out = torch.logaddexp(last_out, last_in)
        last_in = torch.nn.functional.pad(taken, (1, 0), value=_FORBIDDEN)
    return torch.logaddexp(last_out, last_in)[:, k]


def _scipy_trees(structure: polytopes.SpanningTree, u: torch.Tensor) -> torch.Tensor:
    tails, heads = structure.edge_index.numpy()
    n, weights = structure.n, u.detach().double().cpu().numpy()
    weights = weights.max() + 1 - weights  # SciPy minimises, and takes 0 for no edge
    number = np.zeros((n, n), dtype=np.int64)
    number[tails, heads] = number[heads, tails] = np.arange(len(tails))
    x = np.zeros(u.shape)
    for row, w in zip(x, weights, strict=True):
        tree = minimum_spanning_tree(csr_array((w, (tails, heads)), shape=(n, n))).tocoo()
        row[number[tree.row, tree.col]] = 1
    return torch.as_tensor(x, dtype=u.dtype, device=u.device)


def _networkx_trees(structure: sst.Structure, u: torch.Tensor) -> torch.Tensor:
    import networkx

    directed = not isinstance(structure, polytopes.SpanningTree)
    edges = structure.edge_index.T.tolist()  # none enters the root: every arborescence grows from it
    x = torch.zeros_like(u)
    for row, weights in zip(x, u.tolist(), strict=True):
        graph = networkx.DiGraph() if directed else networkx.Graph()
        numbered = zip(edges, weights, range(len(edges)), strict=True)
        graph.add_edges_from((i, j, {"weight": w, "number": e}) for (i, j), w, e in numbered)
        if directed:
            tree = networkx.maximum_spanning_arborescence(graph, preserve_attrs=True).edges(data=True)
        else:
            tree = networkx.maximum_spanning_edges(graph)
        row[[data["number"] for *_, data in tree]] = 1
    return x
