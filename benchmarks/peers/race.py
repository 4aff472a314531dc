"""A row of the table: who answers, how long each takes (CPU time of the process, interleaved), how far off each is."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.marginal_peers import Way as TensorWay
from benchmarks.measure import interleaved

#: Largest error of peers "of the same accuracy". Ours promise 1e-6 (gradients 1e-5), so this is generous to peers.
ACCURATE = 1e-5


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to the answer, in the layout that it takes by nature: only ``forward`` and ``both`` are timed.

    Attributes:
        name: of the package, and of its function or setting where there are several.
        forward: inputs to answer. Not differentiated.
        both: (inputs, cotangent) to the gradient by the inputs; None where the peer has none.
        lay_out: utilities, and cotangents, ``(batch, *event_shape)`` to that layout; linear.
        read: answers, and gradients, back from it: the transpose of ``lay_out``.
        largest: batch that is not hopeless.
    """

    name: str
    forward: Callable[[Any], Any]
    both: Callable[[Any, Any], Any] | None = None
    lay_out: Callable[[torch.Tensor], Any] = lambda u: u
    read: Callable[[Any], torch.Tensor] = lambda x: x
    largest: int = 10**9


def by_torch(name: str, function: Callable[[torch.Tensor], torch.Tensor], **options: Any) -> Way:
    """A differentiable function of tensors; its gradient by autograd."""

    def forward(u: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return function(u)

    def both(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        leaf = u.detach().requires_grad_()
        (g,) = torch.autograd.grad(function(leaf), leaf, v)
        return g

    return Way(name, forward, both, **options)


def of_marginals(name: str, way: TensorWay) -> Way:
    """From ``benchmarks.marginal_peers``."""
    return by_torch(name, way.compute, lay_out=way.lay_out, read=way.read)


def by_rows(name: str, function: Callable[[Any], Any], **options: Any) -> Way:
    """A function of one numpy array, element by element, conversion from and to tensors included; no gradient."""

    def forward(u: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.from_numpy(function(row)) for row in u.numpy()])

    return Way(name, forward, **options)


def by_jax(name: str, function: Callable[[Any], Any], **options: Any) -> Way:
    """A function of one jax array, mapped over the batch and compiled; arrays stay in jax."""
    import jax

    forward = jax.jit(jax.vmap(function))

    def pulled_back(u: Any, v: Any) -> Any:
        return jax.vjp(jax.vmap(function), u)[1](v)[0]

    both = jax.jit(pulled_back)
    return Way(
        name,
        lambda u: forward(u).block_until_ready(),
        lambda u, v: both(u, v).block_until_ready(),
        lay_out=lambda u: jax.numpy.asarray(u.numpy()),
        read=_from_jax,
        **options,
    )


def _from_jax(x: Any) -> torch.Tensor:
    import numpy as np

    return torch.from_numpy(np.array(x))


@dataclasses.dataclass(frozen=True)
class Contest:
    """Who meets: ours and the peers at the same work.

    Attributes:
        utilities: batch to utilities ``(batch, *event_shape)``, float64.
        ours, peers: ways.
        truth: utilities of some first elements to their answers; without one, ours are the measure.
        checked: how many first elements are held against the truth.
        score: (utilities, answer) to numbers that must agree instead of answers, where these have ties.
        missing: packages that are not installed, or why a peer is left out.
        another_map: peers compute something else of the same size, as a measure of time only.
        bound: of ours over theirs, that which is aimed at.
    """

    utilities: Callable[[int], torch.Tensor]
    ours: Way
    peers: list[Way]
    truth: Callable[[torch.Tensor], torch.Tensor] | None = None
    checked: int = 32
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    missing: tuple[str, ...] = ()
    another_map: bool = False
    bound: float = 1.2


@dataclasses.dataclass(frozen=True)
class Row:
    """A piece of work by name, for batches up to ``largest``; ``make`` builds it when its turn comes."""

    name: str
    make: Callable[[], Contest]
    largest: int = 256


@dataclasses.dataclass(frozen=True)
class Measured:
    """Seconds of a call and error of one way at one batch (None: others are measured by it), or why there are none."""

    name: str
    seconds: float
    error: float | None
    failed: str = ""


@dataclasses.dataclass(frozen=True)
class Result:
    """A line of the table. ``off``: peers whose values were wrong, so that right gradients do not count either."""

    row: str
    batch: int
    backward: bool
    ours: Measured
    peers: list[Measured]
    off: frozenset[str] = frozenset()

    @property
    def accurate(self) -> list[Measured]:
        """Peers of the same accuracy: off by at most ``ACCURATE``, or ten times as much as ours."""
        allowed = max(ACCURATE, 10 * (self.ours.error or 0.0))
        return [m for m in self.peers if not m.failed and (m.error is None or m.error <= allowed)]

    @property
    def rival(self) -> Measured | None:
        """The fastest peer of the same accuracy."""
        equals = [m for m in self.accurate if m.name not in self.off]
        return min(equals, key=lambda m: m.seconds, default=None)

    @property
    def ratio(self) -> float | None:
        """Ours over the best peer's time."""
        return None if self.rival is None or self.ours.failed else self.ours.seconds / self.rival.seconds


class TooLong(Exception):
    """A limit of CPU time was reached."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises ``TooLong`` in the body after so much CPU time of the process, at the next step of Python; main thread.

    By a timer of real time that looks at the CPU time: after one of CPU time (``ITIMER_PROF``) the kernel counts the
    process's CPU time in ticks of milliseconds.
    """
    start, step = time.process_time(), min(seconds, 0.2)

    def look(*_: object) -> None:
        if time.process_time() - start > seconds:
            raise TooLong(f"over {seconds:g} s")

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, step, step)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def available(*packages: str) -> tuple[str, ...]:
    """Those that are not there, as words for ``Contest.missing``."""
    return tuple(f"{p} is not installed" for p in packages if not has(p))


def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def normal(*shape: int, scale: float = 1.0) -> Callable[[int], torch.Tensor]:
    """Normal utilities by batch, the same in every run."""

    def utilities(batch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(batch)
        return scale * torch.randn(batch, *shape, dtype=torch.float64, generator=generator)

    return utilities


def race(
    row: str, contest: Contest, batch: int, budget: float, limit: float, slow: set[str] | None = None
) -> list[Result]:
    """Lines forward, and forward plus backward where ours has a gradient.

    Args:
        budget: CPU seconds for the timings of a line, shared by its ways.
        limit: CPU seconds that a first call, compilation included, may take.
        slow: names of peers that took longer at less work, which are left out; those that do now join them.
    """
    u = contest.utilities(batch)
    v = torch.randn(u.shape, dtype=u.dtype, generator=torch.Generator().manual_seed(1 + batch))
    few = min(batch, contest.checked)
    x = None if contest.truth is None else contest.truth(u[:few])
    found: list[Result] = []
    slow = set() if slow is None else slow
    for backward in (False, True) if contest.ours.both else (False,):
        ways = [w for w in (contest.ours, *contest.peers) if w.largest >= batch and (w.both or not backward)]
        ways = [w for w in ways if w.name not in slow]
        calls, answers, failed = _prepared(ways, u, v, backward, limit)
        slow |= {name for name, why in failed.items() if why.startswith(TooLong.__name__) and name != contest.ours.name}
        spent = _seconds(calls, budget)
        measure = answers.get(contest.ours.name) if backward or x is None else x
        measured = []
        for way in ways:
            if way.name in failed:
                measured.append(Measured(way.name, float("inf"), None, failed[way.name]))
            elif measure is None or measure is answers[way.name] or (contest.another_map and way is not contest.ours):
                measured.append(Measured(way.name, spent[way.name], None))
            else:
                pair = [part[:few] for part in (answers[way.name], measure)]
                if contest.score and not backward:
                    pair = [contest.score(u[:few], part) for part in pair]
                measured.append(Measured(way.name, spent[way.name], float((pair[0] - pair[1]).abs().max())))
        off = {m.name for m in found[0].peers} - {m.name for m in found[0].accurate} if found else ()
        found.append(Result(row, batch, backward, measured[0], measured[1:], frozenset(off)))
    return found


def _prepared(ways: list[Way], u: torch.Tensor, v: torch.Tensor, backward: bool, limit: float) -> Any:
    """Calls by name, what they answered first, and why others did not."""
    calls: dict[str, Callable[[], object]] = {}
    answers: dict[str, torch.Tensor] = {}
    failed: dict[str, str] = {}
    for way in ways:
        try:
            with limited(limit):
                laid = way.lay_out(u)
                if backward:
                    assert way.both is not None
                    call = functools.partial(way.both, laid, way.lay_out(v))
                else:
                    call = functools.partial(way.forward, laid)
                answers[way.name] = way.read(call())
            calls[way.name] = call
        except Exception as error:
            failed[way.name] = f"{type(error).__name__}: {str(error)[:60]}"
    return calls, answers, failed


def _seconds(calls: dict[str, Callable[[], object]], budget: float) -> dict[str, float]:
    """Median CPU seconds of a call; short ones are repeated within a turn, those beyond the budget not called again."""
    found, repeats = {}, {}
    for name, call in calls.items():
        start = time.process_time()
        call()
        found[name] = time.process_time() - start
        if found[name] < budget:
            repeats[name] = max(1, min(200, int(2e-3 / max(1e-6, found[name]))))
    turns = {name: functools.partial(_repeated, calls[name], repeats[name]) for name in repeats}
    samples = interleaved(turns, budget, clock=time.process_time) if turns else {}
    return found | {name: statistics.median(seen) / repeats[name] for name, seen in samples.items()}


def _repeated(call: Callable[[], object], times: int) -> None:
    for _ in range(times):
        call()
