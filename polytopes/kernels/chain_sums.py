"""Sums, maxima and samples over label sequences with scores of transitions: forward-backward and Viterbi.

Scores u are ``(batch, steps, labels, labels)``, from the label at a position (a) to that at the next (b). With log-sums
A_0 = 0, A_i+1[b] = log sum_a exp(A_i[a] + u_i[a, b]), the share p_i[a, b] = exp(A_i[a] + u_i[a, b] - A_i+1[b]) of a
label's sum that comes from each label before it, and the last labels' shares q of exp A, marginals are x_i[a, b] =
p_i[a, b] f_i+1[b], with f_steps = q and f_i[a] = sum_b x_i[a, b]. Derivatives are linear recursions in p, without
exponentials:

    dA_i+1[b] = sum_a p_i[a, b] (dA_i[a] + du_i[a, b]),   dp = p (dA_i[a] + du - dA_i+1[b]).

Rows may have fewer steps, ``ends``, after which there is nothing: zeros. On the CPU the sweeps are compiled
(``native/chain.py``); here one step at a time, over the whole batch, nothing in place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad

from polytopes.kernels.log_weights import ABSENT, draw_one
from sst_cvx import native
from sst_cvx.autodiff import Function, is_differentiated

Sums = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def log_sums(u: torch.Tensor, allowed: torch.Tensor | None = None, ends: torch.Tensor | None = None) -> torch.Tensor:
    """log of the sum over sequences of exp of their scores, ``(batch,)``, float64; any derivative.

    Args:
        u: scores. allowed: bool of their shape, or None: False where a transition is forbidden, whose score must be
            finite all the same. ends: ``(batch,)``, the number of steps of each row, at least 1, or None: all.

    Where nothing is left, the answer is below ABSENT / 2.
    """
    if torch.compiler.is_dynamo_compiling():
        return _forward(u, allowed, ends)[0]
    if native.serves(u) and not is_differentiated(u):
        return _compiled(u, allowed, ends, share=False, marginals=False)[0]
    return _Sums.apply(u, allowed, ends)[0]


def marginals(
    u: torch.Tensor, allowed: torch.Tensor | None = None, ends: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """``log_sums`` and their gradient, shape and dtype of the scores; any derivative. What is forbidden, and all where
    nothing is left, is exactly 0, with derivatives of exactly 0."""
    if torch.compiler.is_dynamo_compiling():
        value, share, last = _forward(u, allowed, ends)
        return value, _backward(share, last, ends)
    if native.serves(u) and not is_differentiated(u):
        return _compiled(u, allowed, ends, share=False, marginals=True)[:2]
    return _Sums.apply(u, allowed, ends)[:2]


def lengths(allowed: torch.Tensor) -> torch.Tensor:
    """After how many steps a mask ``(batch, steps, labels, labels)`` allows nothing, ``(batch,)``; all steps, where it
    allows nothing at all."""
    if native.serves(allowed):
        from polytopes.kernels.native import chain

        ends = allowed.new_empty(len(allowed), dtype=torch.long)
        chain.lengths(native.array(allowed), ends.numpy())
        return ends
    order = torch.arange(1, allowed.shape[1] + 1, device=allowed.device)
    ends = torch.where(allowed.flatten(2).any(2), order, 0).amax(1)
    return torch.where(ends > 0, ends, allowed.shape[1])


def best(u: torch.Tensor, allowed: torch.Tensor | None = None, ends: torch.Tensor | None = None) -> torch.Tensor:
    """A sequence of largest score, 0/1 of the shape of the scores; the first of equal labels, from the end. All zeros
    where nothing is left. Arguments as ``log_sums``."""
    if native.serves(u):
        from polytopes.kernels.native import chain

        x = torch.zeros_like(u, memory_format=torch.contiguous_format)
        chain.best(*map(native.array, (u, _mask(u, allowed), _ends(u, ends), x)))
        return x
    scores = u if allowed is None else torch.where(allowed, u, ABSENT)
    value, entered = u.new_zeros(len(u), u.shape[2], dtype=torch.float64), []
    for i, row in enumerate(scores.unbind(1)):
        terms = value[:, :, None] + row
        entered.append(terms.argmax(1))
        value = terms.amax(1) if ends is None else torch.where((ends > i)[:, None], terms.amax(1), value)
    last = value.argmax(1, keepdim=True)

    def before(i: int, label: torch.Tensor) -> torch.Tensor:
        return entered[i].gather(1, label)

    if ends is None:
        x = _traced(u, last, before)
    else:  # beyond the end, the last label stays
        x = _traced(u, last, lambda i, label: torch.where((ends > i)[:, None], before(i, label), label))
        x = torch.where((torch.arange(u.shape[1], device=u.device) < ends[:, None])[:, :, None, None], x, 0.0)
    return x if allowed is None else torch.where((value.amax(1) < ABSENT / 2)[:, None, None, None], 0.0, x)


def sample(u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Sequences drawn with probability proportional to exp of their scores, as ``best``: from the last label back."""
    if native.serves(u):
        from polytopes.kernels.native import chain

        _, _, share, last = _compiled(u, None, None, share=True, marginals=False)
        uniform = torch.rand(len(u), u.shape[1] + 1, dtype=torch.float64, device=u.device, generator=generator)
        x = torch.zeros_like(u, memory_format=torch.contiguous_format)
        chain.drawn(native.array(share), native.array(last), uniform.numpy(), native.array(x))
        return x
    _, share, last = _forward(u, None, None)

    def before(i: int, label: torch.Tensor) -> torch.Tensor:
        column = label[:, :, None].expand(-1, u.shape[2], 1)
        return draw_one(share[:, i].gather(2, column)[:, :, 0].log(), generator)

    return _traced(u, draw_one(last.log(), generator), before)


def imbalance(x: torch.Tensor, ends: torch.Tensor | None = None) -> torch.Tensor:
    """How far points ``(batch, steps, labels, labels)`` are from nonnegative unit flow, ``(batch,)``, float64."""
    if native.serves(x):
        from polytopes.kernels.native import chain

        found = x.new_empty(len(x), dtype=torch.float64)
        chain.imbalance(native.array(x), native.array(_ends(x, ends)), found.numpy())
        return found
    wide = x.double()
    off = wide[:, 1:].sum(3) - wide[:, :-1].sum(2)
    if ends is not None:
        off = torch.where((torch.arange(1, x.shape[1], device=x.device) < ends[:, None])[:, :, None], off, 0.0)
    off = torch.cat([(wide[:, 0].sum((1, 2)) - 1)[:, None], off.flatten(1)], 1)
    return torch.maximum(off.abs().amax(1), -wide.flatten(1).amin(1)).clamp(min=0.0)


def _mask(x: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
    return x.new_empty((0, 1, 1, 1), dtype=torch.bool) if allowed is None else allowed


def _ends(x: torch.Tensor, ends: torch.Tensor | None) -> torch.Tensor:
    return x.new_full((len(x),), x.shape[1], dtype=torch.long) if ends is None else ends


def _traced(u: torch.Tensor, label: torch.Tensor, before: Any) -> torch.Tensor:
    """The sequence from its last label ``(batch, 1)`` back, by ``before(step, label)``."""
    labels, chosen = u.shape[2], []
    for i in reversed(range(u.shape[1])):
        previous = before(i, label)
        chosen.append(previous * labels + label)
        label = previous
    index = torch.stack(chosen[::-1], 1)
    return torch.zeros_like(u).flatten(2).scatter(2, index, 1.0).reshape(u.shape)


def _forward(
    u: torch.Tensor, allowed: torch.Tensor | None, ends: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-sums ``(batch,)``, shares of transitions and of the last labels; the shares in the scores' dtype."""
    scores = u if allowed is None else torch.where(allowed, u, ABSENT)
    value, share = u.new_zeros(len(u), u.shape[2], dtype=torch.float64), []
    for i, row in enumerate(scores.unbind(1)):
        terms = value[:, :, None] + row
        new = terms.logsumexp(1)
        p = (terms - new[:, None]).exp().to(u.dtype)
        if ends is not None:
            there = (ends > i)[:, None]
            new, p = torch.where(there, new, value), torch.where(there[:, :, None], p, 0.0)
        share.append(p)
        value = new
    total, every = value.logsumexp(1), torch.stack(share, 1)
    last = (value - total[:, None]).exp()
    if allowed is None:
        return total, every, last
    empty = total.detach() < ABSENT / 2
    return total, torch.where(allowed, every, 0.0), torch.where(empty[:, None], 0.0, last)


def _backward(share: torch.Tensor, last: torch.Tensor, ends: torch.Tensor | None) -> torch.Tensor:
    """Marginals from shares."""
    flow, x = last if ends is None else torch.zeros_like(last), []
    for i in reversed(range(share.shape[1])):
        flow = flow if ends is None else torch.where((ends == i + 1)[:, None], last, flow)
        x.append(share[:, i] * flow[:, None])
        flow = x[-1].sum(2)
    return torch.stack(x[::-1], 1).to(share.dtype)


def _compiled(
    u: torch.Tensor, allowed: torch.Tensor | None, ends: torch.Tensor | None, share: bool, marginals: bool
) -> Sums:
    """As ``_Sums``, with only what is asked for; log-sums are -inf where nothing is left."""
    from polytopes.kernels.native import chain

    count, shared = len(u), share or marginals
    value, last = u.new_empty(count, dtype=torch.float64), u.new_empty(count, u.shape[2], dtype=torch.float64)
    p = u.new_empty(count if share else min(count, 1), *u.shape[1:])
    x = u.new_empty(count if marginals else 0, *u.shape[1:])
    given, found = (u, _mask(u, allowed), _ends(u, ends)), (value, last, p, x)
    of_value, of_last, of_p, of_x = map(native.array, found)
    chain.sums(*map(native.array, given), of_value, of_last, shared, of_p, of_x)
    return value, x, p, last


class _Sums(Function, one_by_one=True):
    """Log-sums, marginals, shares of transitions, shares of the last labels: of a dtype with the scores but for the
    first and the last, which are float64."""

    @staticmethod
    def forward(u: torch.Tensor, allowed: torch.Tensor | None, ends: torch.Tensor | None) -> Sums:
        if native.serves(u):
            return _compiled(u, allowed, ends, share=True, marginals=True)
        value, share, last = _forward(u, allowed, ends)
        return value, _backward(share, last, ends), share, last

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Sums) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[1:], inputs[2])
        ctx.save_for_forward(*output[1:], inputs[2])

    @staticmethod
    def backward(ctx: Any, of_value: Any, of_x: Any, of_share: Any, of_last: Any) -> tuple:  # type: ignore[override]
        x, share, last, ends = ctx.saved_tensors
        grad = None if of_value is None else of_value.to(x.dtype)[:, None, None, None] * x
        if of_x is not None:
            grad = _sum(grad, _curvature(share, last, x, ends, of_x))
        if of_share is None and of_last is None:
            return grad, None, None
        p = share.double()
        entry = torch.zeros_like(p) if of_share is None else p * of_share
        source = pad(entry.sum(3), (0, 0, 0, 1)) - pad(entry.sum(2), (0, 0, 1, 0))
        if of_last is not None:
            source = source + _at_end(last * (of_last - (last * of_last).sum(1, keepdim=True)), share, ends)
        entry = entry + p * _Linear.apply(p, source, True)[:, 1:, None]
        return _sum(grad, entry.to(x.dtype)), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: Any) -> Sums:
        x, share, last, ends = ctx.saved_tensors
        rise, of_x = _turned(share, last, x, ends, tangent)
        of_share = share.double() * (rise[:, :-1, :, None] + tangent - rise[:, 1:, None])
        at_end = _end_of(rise, ends)
        mean = (last * at_end).sum(1)
        return mean, of_x, of_share.to(share.dtype), last * (at_end - mean[:, None])

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: torch.Tensor | None) -> tuple:
        flat = [None if part is None else _mapped(part, d, info) for part, d in zip(inputs, in_dims, strict=True)]
        found = _Sums.apply(*flat)
        return tuple(part.unflatten(0, (info.batch_size, -1)) for part in found), (0, 0, 0, 0)


def _sum(first: torch.Tensor | None, second: torch.Tensor) -> torch.Tensor:
    return second if first is None else first + second


def _mapped(x: torch.Tensor, dim: int | None, info: Any) -> torch.Tensor:
    """A tensor that ``vmap`` maps over, or not, with the mapped dimension joined to the batch."""
    x = x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.flatten(0, 1)


def _end_of(rise: torch.Tensor, ends: torch.Tensor | None) -> torch.Tensor:
    """Of values ``(batch, steps + 1, labels)``, those at the end of each row."""
    if ends is None:
        return rise[:, -1]
    return rise.gather(1, ends[:, None, None].expand(-1, 1, rise.shape[2]))[:, 0]


def _at_end(row: torch.Tensor, share: torch.Tensor, ends: torch.Tensor | None) -> torch.Tensor:
    """Its transpose: ``(batch, labels)`` at the end of each row, 0 elsewhere."""
    steps = share.shape[1]
    if ends is None:
        return pad(row[:, None], (0, 0, steps, 0))
    return torch.where((torch.arange(steps + 1, device=row.device) == ends[:, None])[:, :, None], row[:, None], 0.0)


def _curvature(
    share: torch.Tensor, last: torch.Tensor, x: torch.Tensor, ends: torch.Tensor | None, g: torch.Tensor
) -> torch.Tensor:
    """The Hessian of log-sums times g, at marginals x; any derivative."""
    differentiated = torch.is_grad_enabled() and (share.requires_grad or g.requires_grad)
    if differentiated or not (native.serves(share) and native.serves(g)):
        return _turned(share, last, x, ends, g)[1]
    from polytopes.kernels.native import chain

    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    chain.curvature(*map(native.array, (_ends(x, ends), share, last, x, g, out)))
    return out


def _turned(
    share: torch.Tensor, last: torch.Tensor, x: torch.Tensor, ends: torch.Tensor | None, g: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """D = dA along g, float64, and the derivative of marginals: x (D_i[a] + g) + p h_i+1[b], where
    h_i[a] = sum_b (x g + p h_i+1[b]) and at the end h = -q <q, D>. What is forbidden has no share, and no g."""
    p, y, g = share.double(), x.double(), torch.where(share == 0, 0.0, g)
    rise = _Linear.apply(p, pad((p * g).sum(2), (0, 0, 1, 0)), False)
    end = _at_end(-last * (last * _end_of(rise, ends)).sum(1, keepdim=True), share, ends)
    fall = _Linear.apply(p, pad((y * g).sum(3), (0, 0, 0, 1)) + end, True)
    return rise, (y * (rise[:, :-1, :, None] + g) + p * fall[:, 1:, None]).to(x.dtype)


class _Linear(Function, one_by_one=True):
    """y_0 = source_0, y_i+1[b] = source_i+1[b] + sum_a weight_i[a, b] y_i[a]; ``up``, from the end: y_i[a] =
    source_i[a] + sum_b weight_i[a, b] y_i+1[b]. Weights ``(batch, steps, labels, labels)``, source ``(batch, steps + 1,
    labels)``, float64."""

    @staticmethod
    def forward(weight: torch.Tensor, source: torch.Tensor, up: bool) -> torch.Tensor:
        if native.serves(weight) and native.serves(source):
            from polytopes.kernels.native import chain

            y = source.clone(memory_format=torch.contiguous_format)
            chain.linear(up, native.array(weight), y.numpy())
            return y
        rows, order = source.unbind(1), range(weight.shape[1])
        y = [rows[-1] if up else rows[0]]
        for i in reversed(order) if up else order:
            turned = weight[:, i] if up else weight[:, i].mT
            y.append(rows[i if up else i + 1] + (turned @ y[-1][:, :, None])[:, :, 0])
        return torch.stack(y[::-1] if up else y, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        weight, _, ctx.up = inputs
        ctx.save_for_backward(weight, output)
        ctx.save_for_forward(weight, output)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:  # type: ignore[override]
        up, (weight, y) = ctx.up, ctx.saved_tensors
        adjoint = _Linear.apply(weight, grad, not up)
        return _outer(*((adjoint, y) if up else (y, adjoint))), adjoint, None

    @staticmethod
    def jvp(ctx: Any, of_weight: torch.Tensor | None, of_source: torch.Tensor | None, *_: Any) -> torch.Tensor:
        up, (weight, y) = ctx.up, ctx.saved_tensors
        source = torch.zeros_like(y) if of_source is None else of_source
        if of_weight is not None and up:
            source = source + pad((of_weight * y[:, 1:, None]).sum(3), (0, 0, 0, 1))
        elif of_weight is not None:
            source = source + pad((of_weight * y[:, :-1, :, None]).sum(2), (0, 0, 1, 0))
        return _Linear.apply(weight, source, up)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, weight: torch.Tensor, source: torch.Tensor, up: bool) -> tuple:
        both = (_mapped(part, d, info) for part, d in zip((weight, source), in_dims[:2], strict=True))
        return _Linear.apply(*both, up).unflatten(0, (info.batch_size, -1)), 0


def _outer(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """before_i[a] after_i+1[b], of every step."""
    return before[:, :-1, :, None] * after[:, 1:, None]
