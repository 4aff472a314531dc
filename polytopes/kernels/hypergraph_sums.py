"""Sums, maxima and samples over the derivations of a directed acyclic hypergraph: the recursion behind parsers.

A B-arc has a head, up to two tails, and an item or none; a derivation of a vertex is an arc into it with a derivation
of each of its tails. Along the vertices in topological order, in one of two semirings ((log-sum-exp, +), (max, +)):

    value(head) = sum over arcs into it of value(tail 1) + value(tail 2) + score(item)

With p = exp(value(tail 1) + value(tail 2) + score - value(head)), an arc's share of its head's sum, derivatives of the
log-sum are linear recursions (outside values, as parsers call them)

    lambda(tail) = g(tail) + sum over arcs with this tail of p lambda(head)      (first, and its own transpose for more)

as those over paths are (``dag_sums``), of which this is the like. No derivation may use a vertex twice: it then takes
one arc into each of its vertices, which samples draw, and the hull of unit flow (``hypergraph_hull``) is integral.

Over 300 lines on purpose: every sweep stands beside its twin and its derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from polytopes.kernels.hypergraph_order import Arcs, Steps
from polytopes.kernels.log_weights import ABSENT
from polytopes.kernels.swept import Swept, take
from sst_cvx import native
from sst_cvx.autodiff import Function, is_differentiated
from sst_cvx.once import computed_once

_PART = 2**17  # terms of sums at once, which stay in a cache


class Hypergraph(Swept):
    """A directed acyclic hypergraph whose last vertex is the root, compiled for sweeps over its vertices.

    Args:
        heads, first, second, item: ``(arcs,)`` integers; ``NONE`` (-1) for a tail or an item that is not there. Tails
            are less than heads; every vertex is a head, and every one but the last a tail.
        items: their number. Those on no arc are in no derivation.

    Attributes:
        arcs: sorted by their heads.

    Raises:
        ValueError: vertices that are not of this kind.
    """

    def __init__(self, heads: np.ndarray, first: np.ndarray, second: np.ndarray, item: np.ndarray, items: int):
        self.arcs = Arcs.of(heads, first, second, item, items)
        self.vertices, self.items = self.arcs.vertices, items
        carriers = np.flatnonzero(self.arcs.item < items)
        self._tables = tuple(
            torch.from_numpy(a)
            for a in (
                *(np.append(a, self.vertices) for a in (self.arcs.heads, self.arcs.first, self.arcs.second)),
                np.append(self.arcs.item, items + 1),
                carriers,
                self.arcs.heads[carriers],
                self.arcs.item[carriers],
            )
        )
        self._register()

    @computed_once
    def _steps(self) -> Steps:
        """What sweeps of tensors need."""
        return Steps.of(self.arcs)

    @computed_once
    def _arrays(self) -> tuple[np.ndarray, ...]:
        """What compiled sweeps need: start, first and second tails, items; half as wide, for their caches."""
        arcs = self.arcs
        return tuple(a.astype(np.int32) for a in (arcs.start, arcs.first, arcs.second, arcs.item))

    @property
    def _index(self) -> torch.Tensor:
        return self._tables[0]

    def _tables_on(self, device: torch.device) -> dict[str, Any]:
        return {"_tables": tuple(table.to(device) for table in self._tables), "_steps": self._steps.to(device)}

    def log_sum(self, scores: torch.Tensor) -> torch.Tensor:
        """log of the sum over derivations of exp of their scores: ``(*batch, items)`` to ``(*batch,)``; any derivative.

        Values are float64 inside; the answer, shares and derivatives have the dtype of the scores.
        """
        graph, padded = self._prepared(scores)
        if torch.compiler.is_dynamo_compiling():
            values = graph._traced_values(padded)[0]
        elif not is_differentiated(scores) and native.serves(padded):
            values = graph._compiled_values(padded, padded.new_empty(0, 0, dtype=torch.float64))
        else:
            values = _Values.apply(padded, graph)[0]
        return values[self.vertices - 1].to(scores.dtype).reshape(scores.shape[:-1])

    def marginals(self, scores: torch.Tensor) -> torch.Tensor:
        """The gradient of ``log_sum``, shape of the scores; any derivative, and no autograd inside."""
        graph, padded = self._prepared(scores)
        traced = torch.compiler.is_dynamo_compiling()
        share = (graph._traced_values(padded) if traced else _Values.apply(padded, graph))[1]
        root = share.new_zeros(self.vertices + 1, share.shape[1])
        root[self.vertices - 1] = 1.0
        outside = graph._traced_linear(share, root) if traced else _Linear.apply(share, root, graph, True)
        return graph._of_items(share, outside)[: self.items].T.reshape(scores.shape)

    def best(self, scores: torch.Tensor) -> torch.Tensor:
        """How often a derivation of largest score has each item, ``(*batch, items)`` to the same shape: 0/1 where none
        has an item twice."""
        graph, padded = self._prepared(scores.detach())
        if native.serves(padded):
            return graph._compiled_best(padded).reshape(scores.shape).to(scores.dtype)
        values = graph._values(padded, best=True)
        x = graph._trace(values, padded, lambda terms, _: terms.argmax(0, keepdim=True))
        return x.T.reshape(scores.shape)

    def sample(self, scores: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """A derivation drawn with probability proportional to exp of its score, like ``best``; exact."""
        graph, padded = self._prepared(scores.detach())
        padded = padded.double()
        shape = (self.vertices, padded.shape[1])
        uniform = torch.rand(shape, dtype=torch.float64, device=padded.device, generator=generator)
        uniform = uniform * (1 - 2**-52)  # so that this part of a sum is less than it
        if native.serves(padded):
            return graph._compiled_sample(padded, uniform).reshape(scores.shape).to(scores.dtype)
        values = graph._values(padded, best=False)

        def draw(terms: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
            total = _shares(terms).cumsum(0)
            return (total > uniform[heads] * total[-1]).to(torch.uint8).argmax(0, keepdim=True)

        return graph._trace(values, padded, draw).T.reshape(scores.shape).to(scores.dtype)

    def count(self) -> int:
        """Number of derivations, to the precision of float64."""
        return round(float(self.log_sum(torch.zeros(self.items, dtype=torch.float64)).exp()))

    def derivations(self) -> torch.Tensor:
        """How often each derivation has each item, ``(derivations, items)``, float64."""
        found = [np.bincount(self.arcs.item[list(arcs)], minlength=self.items + 1) for arcs in self.arcs.derivations()]
        return torch.from_numpy(np.stack(found)[:, : self.items]).double()

    def _prepared(self, scores: torch.Tensor) -> tuple[Hypergraph, torch.Tensor]:
        """This hypergraph on the scores' device; the scores ``(items + 2, batch)``, padded by that of arcs without an
        item, and of what is no arc."""
        flat = scores.reshape(scores.shape[:-1].numel(), self.items).T
        ends = flat.new_zeros(2, 1) if torch.compiler.is_compiling() else flat.new_zeros(2, flat.shape[1])
        ends = ends + flat.new_tensor([[0.0], [ABSENT]])
        return self.on(scores.device), torch.cat([flat, ends.expand(2, flat.shape[1])])

    def _values(self, padded: torch.Tensor, best: bool, share: torch.Tensor | None = None) -> torch.Tensor:
        """Values of all vertices, and 0 for none, ``(vertices + 1, batch)``, float64."""
        values = padded.new_zeros(self.vertices + 1, padded.shape[1], dtype=torch.float64)
        for heads, arcs, first, second, items in self._steps.down:
            terms = _terms(values, padded, first, second, items)
            value = terms.amax(0) if best else _log_sum(terms)
            values.index_copy_(0, heads, value)
            if share is not None:
                share.index_copy_(0, arcs.flatten(), _shares(terms).to(share.dtype).flatten(0, 1))
        if share is not None:
            share[-1] = 0.0
        return values

    def _compiled_values(self, padded: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """``_values``, and shares into rows of any content if there are such, by compiled kernels."""
        from polytopes.kernels.native import hypergraph

        start, first, second, item = self._arrays
        scores, batch = padded.detach().double(), padded.shape[1]
        wide = share if share.dtype == torch.float64 else torch.empty_like(share, dtype=torch.float64)
        values, total = scores.new_zeros(self.vertices + 1, batch), scores.new_ones(self.vertices + 1, batch)
        widest = int(np.diff(start).max())
        part = scores.new_empty(min(self.arcs.count, max(widest, _PART // max(batch, 1))), batch)
        inputs, ways, low = native.array(scores), np.ones(self.vertices + 1), 0
        while low < self.vertices:
            high = hypergraph.missed(low, start, first, second, item, inputs, values.numpy(), ways, part.numpy())
            part[: int(start[high] - start[low])].exp_()
            hypergraph.shared(low, high, start, first, second, total.numpy(), part.numpy(), wide.numpy())
            values[low:high] += total[low:high].log_()
            total[low:high] = 1.0
            low = high
        wide[-1:] = 0.0
        if wide is not share:
            share.copy_(wide)
        return values

    def _compiled_best(self, padded: torch.Tensor) -> torch.Tensor:
        """``best`` of padded scores, ``(batch, items)``."""
        from polytopes.kernels.native import hypergraph

        scores = native.array(padded[: self.items + 1].T.double())
        x = padded.new_zeros(len(scores), self.items, dtype=torch.float64)
        values, entered, waiting = np.zeros(self.vertices + 1), self._scratch(), self._scratch()
        hypergraph.best(*self._arrays, scores, values, entered, waiting, x.numpy())
        return x

    def _compiled_sample(self, padded: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        from polytopes.kernels.native import hypergraph

        share = padded.new_empty(self.arcs.count + 1, padded.shape[1])
        self._compiled_values(padded, share)
        x = padded.new_zeros(padded.shape[1], self.items, dtype=torch.float64)
        hypergraph.draw(*self._arrays, share.numpy(), uniform.numpy(), self._scratch(), x.numpy())
        return x

    def _scratch(self) -> np.ndarray:
        return np.empty(self.vertices + 1, dtype=np.int64)

    def _traced_values(self, padded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-sums and shares as ``_Values``, for a compiler that differentiates by itself: nothing in place."""
        values = padded.new_zeros(self.vertices + 1, padded.shape[1], dtype=torch.float64)
        share = padded.new_zeros(self.arcs.count + 1, padded.shape[1])
        for heads, arcs, first, second, items in self._steps.down:
            terms = _terms(values, padded, first, second, items)
            values = values.index_copy(0, heads, terms.logsumexp(0))
            share = share.index_copy(0, arcs.flatten(), _shares(terms).to(share.dtype).flatten(0, 1))
        return values, torch.nn.functional.pad(share[:-1], (0, 0, 0, 1))

    def _traced_linear(self, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """``_Linear``, up, for a compiler."""
        for tails, arcs, heads in self._steps.up:
            x = x.index_add(0, tails, (take(weight, arcs) * take(x, heads)).sum(0))
        return x

    def _of_items(self, share: torch.Tensor, outside: torch.Tensor) -> torch.Tensor:
        """Sums over the arcs of each item of their share times what is outside their head, ``(items + 2, batch)``."""
        carriers, heads, items = self._tables[4:]
        x = share.new_zeros(self.items + 2, share.shape[1])
        return x.index_add(0, items, share.index_select(0, carriers) * outside.index_select(0, heads))

    def _trace(
        self, values: torch.Tensor, padded: torch.Tensor, choose: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """From the root down, by the arc that ``choose`` takes among terms ``(width, count, batch)`` of heads."""
        x, reached = torch.zeros_like(padded), values.new_zeros(values.shape, dtype=padded.dtype)
        reached[self.vertices - 1] = 1.0
        for heads, _, first, second, items in reversed(self._steps.down):
            index = choose(_terms(values, padded, first, second, items), heads)
            here = reached.index_select(0, heads)[None]
            taken = here.new_zeros(*first.shape, here.shape[-1]).scatter(0, index, here).flatten(0, 1)
            for tails in (first, second):
                reached.index_add_(0, tails.flatten(), taken)
            x.index_add_(0, items.flatten(), taken)
        return x[: self.items]


def _terms(
    values: torch.Tensor, padded: torch.Tensor, first: torch.Tensor, second: torch.Tensor, items: torch.Tensor
) -> torch.Tensor:
    return take(values, first) + take(values, second) + take(padded, items)


def _shares(terms: torch.Tensor) -> torch.Tensor:
    """Of sum 1 to the last digit, as what is rounded in a large value is not in them."""
    return torch.ones_like(terms) if len(terms) == 1 else terms.softmax(0)


def _log_sum(terms: torch.Tensor) -> torch.Tensor:
    return terms[0].clone() if len(terms) == 1 else terms.logsumexp(0)


class _Values(Function, one_by_one=True):
    """Log-sums at all vertices, float64, and the share of every arc in its head's sum."""

    @staticmethod
    def forward(padded: torch.Tensor, graph: Hypergraph) -> tuple[torch.Tensor, torch.Tensor]:
        share = padded.new_empty(graph.arcs.count + 1, padded.shape[1])
        if native.serves(padded):
            return graph._compiled_values(padded, share), share
        return graph._values(padded, best=False, share=share), share

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        _, ctx.graph = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1])
        ctx.save_for_forward(output[1])

    @staticmethod
    def backward(ctx: Any, of_values: Any, of_share: Any) -> tuple:  # type: ignore[override]
        graph, (share,) = ctx.graph, ctx.saved_tensors
        given = share.new_zeros(graph.vertices + 1, share.shape[1]) if of_values is None else of_values
        source = given.to(share.dtype)
        if of_share is None:
            return graph._of_items(share, _Linear.apply(share, source, graph, True)), None
        # d share = share (d value(tail 1) + d value(tail 2) + d score - d value(head))
        source, x = _entries(graph, share, of_share, source)
        return x + graph._of_items(share, _Linear.apply(share, source, graph, True)), None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        graph, (share,) = ctx.graph, ctx.saved_tensors
        heads, first, second, item = graph._tables[:4]
        score = take(tangent.to(share.dtype), item)
        source = share.new_zeros(graph.vertices + 1, share.shape[1]).index_add(0, heads, share * score)
        values = _Linear.apply(share, source, graph, False)
        change = take(values, first) + take(values, second) + score - take(values, heads)
        return values.double(), share * change

    @staticmethod
    def vmap(info: Any, in_dims: tuple, padded: torch.Tensor, graph: Hypergraph) -> tuple:
        flat = padded.movedim(in_dims[0], 1)
        values, share = _Values.apply(flat.flatten(1), graph)
        return (values.unflatten(1, flat.shape[1:]), share.unflatten(1, flat.shape[1:])), (1, 1)


class _Linear(Function, one_by_one=True):
    """x_v = source_v + sum over arcs into v of weight times x at both tails (``up``: over arcs that have v as a tail,
    of weight times x at the head); 0 at the last row, of no vertex, whatever the source is there."""

    @staticmethod
    def forward(weight: torch.Tensor, source: torch.Tensor, graph: Hypergraph, up: bool) -> torch.Tensor:
        x = source.clone(memory_format=torch.contiguous_format)
        if native.serves(x) and native.serves(weight):
            from polytopes.kernels.native import hypergraph

            hypergraph.linear(up, *graph._arrays[:3], native.array(weight), x.numpy())
            return x
        x[-1] = 0.0
        if up:
            for tails, arcs, heads in graph._steps.up:
                x.index_add_(0, tails, (take(weight, arcs) * take(x, heads)).sum(0))
        else:
            for heads, arcs, first, second, _ in graph._steps.down:
                x.index_add_(0, heads, (take(weight, arcs) * (take(x, first) + take(x, second))).sum(0))
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
        of_tails, of_heads = (adjoint, x) if up else (x, adjoint)
        return _meeting(graph, of_tails, of_heads), adjoint, None, None

    @staticmethod
    def jvp(ctx: Any, of_weight: torch.Tensor | None, of_source: torch.Tensor | None, *_: Any) -> torch.Tensor:
        graph, up, (weight, x) = ctx.graph, ctx.up, ctx.saved_tensors
        heads, first, second = graph._tables[:3]
        source = torch.zeros_like(x) if of_source is None else of_source
        if of_weight is not None and up:
            part = of_weight * take(x, heads)
            source = source.index_add(0, first, part).index_add(0, second, part)
        elif of_weight is not None:
            source = source.index_add(0, heads, of_weight * (take(x, first) + take(x, second)))
        return _Linear.apply(weight, source, graph, up)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, weight: torch.Tensor, source: torch.Tensor, graph: Hypergraph, up: bool
    ) -> tuple:
        size = info.batch_size
        both = [
            x.movedim(d, 1) if d is not None else x[:, None].expand(-1, size, *x.shape[1:])
            for x, d in zip((weight, source), in_dims[:2], strict=True)
        ]
        x = _Linear.apply(*(part.flatten(1) for part in both), graph, up)
        return x.unflatten(1, both[1].shape[1:]), 1


def _entries(
    graph: Hypergraph, share: torch.Tensor, of_share: torch.Tensor, source: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cotangents of values, those of shares among them, and what shares alone make of those of scores."""
    heads, first, second, item = graph._tables[:4]
    x = share.new_zeros(graph.items + 2, share.shape[1])
    if _by_loops(share, of_share):
        from polytopes.kernels.native import hypergraph

        source = source.clone(memory_format=torch.contiguous_format)
        hypergraph.entries(*graph._arrays, native.array(share), native.array(of_share), source.numpy(), x.numpy())
        return source, x
    entry = share * of_share
    source = source.index_add(0, first, entry).index_add(0, second, entry).index_add(0, heads, -entry)
    return source, x.index_add(0, item, entry)


def _meeting(graph: Hypergraph, of_tails: torch.Tensor, of_heads: torch.Tensor) -> torch.Tensor:
    """For every arc what is at its tails, together, times what is at its head."""
    heads, first, second = graph._tables[:3]
    if _by_loops(of_tails, of_heads):
        from polytopes.kernels.native import hypergraph

        found = of_heads.new_empty(graph.arcs.count + 1, of_heads.shape[1])
        hypergraph.meeting(*graph._arrays[:3], native.array(of_tails), native.array(of_heads), found.numpy())
        return found
    return (take(of_tails, first) + take(of_tails, second)) * take(of_heads, heads)


def _by_loops(*tensors: torch.Tensor) -> bool:
    """Whether loops serve for a derivative that is not differentiated again."""
    return all(native.serves(x) and not is_differentiated(x) for x in tensors)
