"""Sums, maxima and samples over the paths of a directed acyclic graph: the recursion behind every dynamic program here.

One pass over the vertices in topological order, a whole level at a time and over the whole batch, in one of two
semirings: (log-sum-exp, +) for log-partitions, (max, +) for the best path. With p_e = exp(value(tail) + score -
value(head)), the share of a vertex's sum that enters by edge e, derivatives of the log-sum are linear recursions

    lambda_tail = g_tail + sum over outgoing edges of p_e lambda_head        (first, and its own transpose for more)

so that marginals and their derivatives cost one or two sweeps of multiplications, without exponentials. On the CPU the
sweeps are compiled (``native/dag.py``).

Over 300 lines on purpose: every sweep stands beside its twin and its derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from polytopes.kernels.dag_order import Nodes, Sweep, closure, incoming, levels, sweep, topological
from polytopes.kernels.log_weights import ABSENT, draw_one
from polytopes.kernels.swept import Swept, take
from sst_cvx import native
from sst_cvx.autodiff import Function, is_differentiated
from sst_cvx.host import stops_early
from sst_cvx.once import computed_once


@dataclass(frozen=True)
class _Steps:
    """Sweeps from the source on and from the target back; edges into each vertex; the most edges of any path."""

    down: Sweep
    up: Sweep
    incoming: torch.Tensor
    longest: int

    @staticmethod
    def of(tails: np.ndarray, heads: np.ndarray, vertices: int) -> _Steps:
        """Of edges with ends, dead ones at ``vertices``."""
        live = tails < vertices
        order = levels(tails[live], heads[live], vertices)
        down, up = sweep(tails, heads, order, vertices), sweep(heads, tails, order[::-1], vertices)
        return _Steps(down, up, torch.from_numpy(incoming(heads, vertices)), len(order) - 1)

    def to(self, device: torch.device) -> _Steps:
        return _Steps(self.down.to(device), self.up.to(device), self.incoming.to(device), self.longest)


_PART = 2**17  # terms of sums at once, which stay in a cache


class PathGraph(Swept):
    """A directed acyclic graph with a source and a target, compiled for sweeps over its vertices.

    Args:
        tails, heads: ``(edges,)`` integers; vertices are numbered from 0.
        source, target: different vertices.

    Attributes:
        live: ``(edges,)`` bool: the edges on some path from source to target. The others play no part.
        reachable: whether there is such a path.

    Raises:
        ValueError: a directed cycle.
    """

    def __init__(self, tails: np.ndarray, heads: np.ndarray, source: int, target: int):
        vertices = int(max(tails.max(), heads.max())) + 1
        self.source, self.target, self.vertices, self.edges = source, target, vertices, len(tails)
        place = topological(tails, heads, vertices)
        on = closure(tails, heads, source, vertices) & closure(heads, tails, target, vertices)
        self.reachable = bool(on[target])
        self.live = on[tails] & on[heads]
        self._nodes = Nodes.of(tails, heads, self.live, place)
        dead = np.append(~self.live, True)
        self._dead = torch.from_numpy(np.flatnonzero(dead))
        self._tails, self._heads = (
            torch.from_numpy(np.where(dead, vertices, np.append(ends, vertices))) for ends in (tails, heads)
        )
        self._register()

    @computed_once
    def _steps(self) -> _Steps:
        """What sweeps of tensors need."""
        return _Steps.of(self._tails.numpy(), self._heads.numpy(), self.vertices)

    @property
    def _index(self) -> torch.Tensor:
        return self._tails

    def _tables_on(self, device: torch.device) -> dict[str, Any]:
        return {name: getattr(self, name).to(device) for name in ("_dead", "_tails", "_heads", "_steps")}

    def log_sum(self, scores: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """log of the sum over paths of exp of their scores: ``(*batch, edges)`` to ``(*batch,)``; any derivative.

        Values are float64 inside; the answer, shares and derivatives, which are well conditioned, have the given dtype
        (by default that of the scores).
        """
        dtype = dtype or scores.dtype
        traced = torch.compiler.is_dynamo_compiling()
        if not traced and not is_differentiated(scores) and native.serves(scores):
            return self._compiled_log_sum(scores).to(dtype)
        graph, padded = self._prepared(scores)
        values, _ = graph._traced_values(padded, dtype) if traced else _Values.apply(padded, graph, dtype)
        return values[self.target].to(dtype).reshape(scores.shape[:-1])

    def marginals(self, scores: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The gradient of ``log_sum``, shape of the scores; any derivative, and no autograd inside."""
        dtype = dtype or scores.dtype
        graph, padded = self._prepared(scores)
        traced = torch.compiler.is_dynamo_compiling()
        _, share = graph._traced_values(padded, dtype) if traced else _Values.apply(padded, graph, dtype)
        end = share.new_zeros(self.vertices + 1, share.shape[1])
        end[self.target] = 1.0
        flow = graph._traced_linear(share, end) if traced else _Linear.apply(share, end, graph, True)
        x = share * take(flow, graph._heads)
        return x[:-1].T.reshape(scores.shape).to(dtype)

    def best(self, scores: torch.Tensor) -> torch.Tensor:
        """A path of largest score as a 0/1 array, ``(*batch, edges)`` to the same shape."""
        graph, padded = self._prepared(scores.detach())
        if native.serves(padded):
            return graph._compiled_best(padded).T.reshape(scores.shape)
        x = graph._trace(graph._values(padded, best=True), padded, lambda entries: entries.argmax(0, keepdim=True))
        return x.T.reshape(scores.shape)

    def sample(self, scores: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """A path drawn with probability proportional to exp of its score, as 0/1 array like ``best``; exact."""
        graph, padded = self._prepared(scores.detach())

        def draw(entries: torch.Tensor) -> torch.Tensor:
            return draw_one((entries - entries.amax(0)).T, generator).T

        return graph._trace(graph._values(padded, best=False), padded, draw).T.reshape(scores.shape)

    def imbalance(self, x: torch.Tensor) -> torch.Tensor:
        """Largest excess of what leaves a vertex over what enters it, beyond its supply and relative to 1 + that: of x
        ``(batch, edges)``, ``(batch,)``."""
        graph = self.on(x.device)
        padded = torch.nn.functional.pad(x, (0, 1))
        flow = x.new_zeros(*x.shape[:-1], self.vertices + 1)
        flow = flow.index_add(-1, graph._tails, padded).index_add(-1, graph._heads, -padded)[..., :-1]
        ends = torch.arange(self.vertices, device=x.device)
        supply = (ends == self.source).to(x.dtype) - (ends == self.target).to(x.dtype)
        dead = torch.nn.functional.pad(x, (0, 1)).index_select(-1, graph._dead)
        return torch.maximum(((flow - supply).abs() / (1 + supply.abs())).amax(-1), dead.abs().amax(-1))

    def count(self) -> int:
        """Number of paths, to the precision of float64."""
        return round(float(self.log_sum(torch.zeros(self.edges, dtype=torch.float64)).exp()))

    def paths(self) -> torch.Tensor:
        """All paths as 0/1 rows ``(paths, edges)``, float64."""
        tails = self._tails.tolist()
        found: dict[int, list[tuple[int, ...]]] = {self.source: [()]}
        for vertices, edges, _ in self._steps.down.groups:
            for vertex, entering in zip(vertices.tolist(), edges.T.tolist(), strict=True):
                found[vertex] = [(*way, e) for e in entering if e < self.edges for way in found[tails[e]]]
        rows = torch.zeros(len(found[self.target]), self.edges, dtype=torch.float64)
        for row, path in zip(rows, found[self.target], strict=True):
            row[list(path)] = 1.0
        return rows

    def _prepared(self, scores: torch.Tensor) -> tuple[PathGraph, torch.Tensor]:
        """This graph on the scores' device; the scores ``(edges + 1, batch)``, padded by an edge that is no way. Those
        of dead edges are never read."""
        flat = scores.reshape(scores.shape[:-1].numel(), self.edges).T
        return self.on(scores.device), torch.nn.functional.pad(flat, (0, 0, 0, 1), value=ABSENT)

    def _values(self, padded: torch.Tensor, best: bool, share: torch.Tensor | None = None) -> torch.Tensor:
        """Values of all vertices and of the padding, ``(vertices + 1, batch)``, float64, from the source on."""
        values = padded.new_full((self.vertices + 1, padded.shape[1]), ABSENT, dtype=torch.float64)
        values[self.source] = 0.0
        for vertices, edges, tails in self._steps.down.groups:
            terms = take(values, tails).add_(take(padded, edges))
            value = terms.amax(0) if best else _log_sum(terms)
            values.index_copy_(0, vertices, value)
            if share is not None:
                parts = terms.sub_(value).exp_().to(share.dtype)
                share.index_copy_(0, edges.flatten(), parts.flatten(0, 1))
        if share is not None:
            share[-1] = 0.0
        return values

    def _compiled_log_sum(self, scores: torch.Tensor) -> torch.Tensor:
        """``log_sum`` in float64, without what its derivatives need."""
        from polytopes.kernels.native import dag

        rows = native.array(scores.reshape(scores.shape[:-1].numel(), self.edges).double())
        values, terms, found = np.zeros(self.vertices), np.empty(self._nodes.widest), np.empty(len(rows))
        dag.log_sums(*self._nodes.arrays, self.target, rows, values, terms, found)
        return torch.from_numpy(found).reshape(scores.shape[:-1])

    def _compiled_values(self, padded: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """Log-sums, and shares into zeros, by compiled kernels."""
        from polytopes.kernels.native import dag

        order, start, edges, tails = self._nodes.arrays
        scores, batch = padded.detach().double(), padded.shape[1]
        wide = share if share.dtype == torch.float64 else torch.zeros_like(share, dtype=torch.float64)
        values = scores.new_full((self.vertices + 1, batch), ABSENT)
        values[self.source] = 0.0
        part = scores.new_empty(min(len(edges), max(self._nodes.widest, _PART // max(batch, 1))), batch)
        numbers, ways, total = native.array(values), np.ones(self.vertices), np.ones((self.vertices, batch))
        inputs, low = native.array(scores), 0
        while low < len(order):
            high = dag.missed(low, order, start, edges, tails, inputs, numbers, ways, part.numpy())
            part[: start[high] - start[low]].exp_()
            dag.shared(low, high, order, start, edges, tails, numbers, ways, total, part.numpy(), wide.numpy())
            low = high
        if wide is not share:
            share.copy_(wide)
        return values

    def _compiled_best(self, padded: torch.Tensor) -> torch.Tensor:
        """``best`` of padded scores, ``(edges, batch)``."""
        from polytopes.kernels.native import dag

        scores, x = native.array(padded.double()), torch.zeros_like(padded, dtype=torch.float64)
        values = np.zeros((self.vertices, padded.shape[1]))
        entered = np.empty(values.shape, dtype=np.int64)
        dag.best(*self._nodes.arrays, self.source, self.target, scores, values, entered, x.numpy())
        return x[:-1].to(padded.dtype)

    def _traced_values(self, padded: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-sums and shares as ``_Values``, for a compiler that differentiates by itself: nothing in place."""
        values = padded.new_full((self.vertices + 1, padded.shape[1]), ABSENT, dtype=torch.float64)
        values[self.source] = 0.0
        share = torch.zeros_like(padded, dtype=dtype)
        for vertices, edges, tails in self._steps.down.groups:
            terms = take(values, tails) + take(padded, edges)
            value = terms.logsumexp(0)
            values = values.index_copy(0, vertices, value)
            share = share.index_copy(0, edges.flatten(), (terms - value).exp().to(dtype).flatten(0, 1))
        return values, torch.nn.functional.pad(share[:-1], (0, 0, 0, 1))

    def _traced_linear(self, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """``_Linear``, up, for a compiler."""
        for vertices, edges, others in self._steps.up.groups:
            x = x.index_add(0, vertices, (take(weight, edges) * take(x, others)).sum(0))
        return x

    def _trace(
        self, values: torch.Tensor, padded: torch.Tensor, choose: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """From the target back, by the incoming edge that ``choose`` takes among values of tails plus scores."""
        x = torch.zeros_like(padded)
        here = torch.full((1, padded.shape[1]), self.target, device=padded.device)
        asked = stops_early(padded)
        for _ in range(self._steps.longest):
            edges = self._steps.incoming[:, here[0]]
            tails = self._tails[edges]
            edge = edges.gather(0, choose(values.gather(0, tails) + padded.gather(0, edges)))
            x.scatter_(0, edge, 1.0)
            here = torch.where(edge == self.edges, here, self._tails[edge])  # padding: at the source already
            if asked and not bool((here != self.source).any()):
                break
        return x[:-1]


def _log_sum(terms: torch.Tensor) -> torch.Tensor:
    if len(terms) == 1:
        return terms[0].clone()
    if len(terms) == 2:
        return torch.logaddexp(terms[0], terms[1])
    return terms.logsumexp(0)


class _Values(Function, one_by_one=True):
    """Log-sums at all vertices, float64, and the share of every edge in its head's sum."""

    @staticmethod
    def forward(padded: torch.Tensor, graph: PathGraph, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        share = torch.zeros_like(padded, dtype=dtype)
        if native.serves(padded):
            return graph._compiled_values(padded, share), share
        return graph._values(padded, best=False, share=share), share

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        padded, ctx.graph, _ = inputs
        ctx.dtype = padded.dtype
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1])
        ctx.save_for_forward(output[1])

    @staticmethod
    def backward(ctx: Any, of_values: Any, of_share: Any) -> tuple:  # type: ignore[override]
        graph, (share,) = ctx.graph, ctx.saved_tensors
        given = share.new_zeros(graph.vertices + 1, share.shape[1]) if of_values is None else of_values
        source = given.to(share.dtype)
        if of_share is None:
            x = share * take(_Linear.apply(share, source, graph, True), graph._heads)
            return x.to(ctx.dtype), None, None
        entry = share * of_share  # d share = share (d value(tail) + d score - d value(head))
        source = source.index_add(0, graph._tails, entry).index_add(0, graph._heads, -entry)
        x = share * take(_Linear.apply(share, source, graph, True), graph._heads) + entry
        return x.to(ctx.dtype), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        graph, (share,) = ctx.graph, ctx.saved_tensors
        score = tangent.to(share.dtype)
        source = share.new_zeros(graph.vertices + 1, share.shape[1]).index_add(0, graph._heads, share * score)
        values = _Linear.apply(share, source, graph, False)
        return values.double(), share * (take(values, graph._tails) + score - take(values, graph._heads))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, padded: torch.Tensor, graph: PathGraph, dtype: torch.dtype) -> tuple:
        flat = padded.movedim(in_dims[0], 1)
        values, share = _Values.apply(flat.flatten(1), graph, dtype)
        return (values.unflatten(1, flat.shape[1:]), share.unflatten(1, flat.shape[1:])), (1, 1)


class _Linear(Function, one_by_one=True):
    """x_v = source_v + sum over edges into v (``up``: out of v) of weight times x at the other end."""

    @staticmethod
    def forward(weight: torch.Tensor, source: torch.Tensor, graph: PathGraph, up: bool) -> torch.Tensor:
        x = source.clone(memory_format=torch.contiguous_format)
        if native.serves(x) and native.serves(weight):
            from polytopes.kernels.native import dag

            dag.linear(up, *graph._nodes.arrays, native.array(weight), x.numpy())
            return x
        for vertices, edges, others in (graph._steps.up if up else graph._steps.down).groups:
            x.index_add_(0, vertices, (take(weight, edges).mul_(take(x, others))).sum(0))
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        weight, _, ctx.graph, ctx.up = inputs
        ctx.save_for_backward(weight, output)
        ctx.save_for_forward(weight, output)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:  # type: ignore[override]
        graph, up, (weight, x) = ctx.graph, ctx.up, ctx.saved_tensors
        adjoint = _Linear.apply(weight, grad, graph, not up)
        to, other = (graph._tails, graph._heads) if up else (graph._heads, graph._tails)
        return take(adjoint, to) * take(x, other), adjoint, None, None

    @staticmethod
    def jvp(ctx: Any, of_weight: torch.Tensor | None, of_source: torch.Tensor | None, *_: Any) -> torch.Tensor:
        graph, up, (weight, x) = ctx.graph, ctx.up, ctx.saved_tensors
        source = torch.zeros_like(x) if of_source is None else of_source
        if of_weight is not None:
            to, other = (graph._tails, graph._heads) if up else (graph._heads, graph._tails)
            source = source.index_add(0, to, of_weight * take(x, other))
        return _Linear.apply(weight, source, graph, up)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, weight: torch.Tensor, source: torch.Tensor, graph: PathGraph, up: bool
    ) -> tuple:
        size = info.batch_size
        both = [
            x.movedim(d, 1) if d is not None else x[:, None].expand(-1, size, *x.shape[1:])
            for x, d in zip((weight, source), in_dims[:2], strict=True)
        ]
        x = _Linear.apply(*(part.flatten(1) for part in both), graph, up)
        return x.unflatten(1, both[1].shape[1:]), 1
