"""``python -m benchmarks.device``: times, host syncs and launches on any device, one table.

Each pair at batches of 32, 4,096 and 100,000, forward, and forward with backward, in float32:

- eager: of a call among others in a row, the default guard's checks included; the device is waited for at their end;
- captured: of a replay of the same call as one CUDA graph (CUDA only);
- syncs: how often a call waits for the device, as CUDA's own debug mode counts (on the CPU: reads by the host);
- operations: launched ones, neither views nor allocations;
- softmax: ``torch.softmax`` over the same utilities; own: the sort (thresholds) or float64 LU (trees) that such an
  algorithm consists of, forward; copy: the utilities copied once, and twice beside forward with backward. All captured
  where there are graphs. Inputs of up to 50 MB stay in the cache of a large card, ours and theirs alike.

Each block of rows has a process of its own, forked before anything touches the device, and a time limit: what fails or
takes too long says so, and the next goes on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pathlib
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch

# Whoever asks at import whether there is a CUDA device (Moreau does) is not to begin with it: it could not be forked.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

import sst_cvx as sst
from benchmarks.device_cases import BATCHES, Case, Map, all_cases
from benchmarks.device_measure import Call, capture, count, milliseconds, wait

HEAD = (
    "| float32, t = 0.5 | batch | | eager ms | captured ms | syncs | operations | softmax ms | own ms | copy ms |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


class Measured:
    """The rows of one case, measured in this process.

    Args:
        seconds: for one figure. longest: of one call; larger batches of slower ones are left out.
    """

    def __init__(self, case: Case, device: torch.device, seconds: float, longest: float):
        self.case, self.device, self.seconds, self.longest = case, device, seconds, longest

    def rows(self, batches: tuple[int, ...]) -> Iterator[str]:
        function, event_shape = self.case.make()
        too_long = ""
        for batch in batches:
            u = _normal(batch, *event_shape).to(self.device)
            for backward in (False, True):
                head = f"| {self.case.name} | {batch:,} | {'and backward' if backward else 'forward'} | "
                if too_long:
                    yield head + f"{too_long} | | | | | | |"
                    continue
                begin = time.perf_counter()
                try:
                    yield head + " | ".join(self._cells(function, u, backward)) + " |"
                except torch.OutOfMemoryError:
                    yield head + "out of memory | | | | | | |"
                    torch.cuda.empty_cache()
                except Exception as error:  # whatever: the table goes on
                    print(f"{self.case.name}, {batch}:", file=sys.stderr)
                    traceback.print_exc()
                    yield head + f"{_said(error)} | | | | | | |"
                spent = time.perf_counter() - begin
            following = next((b for b in batches if b > batch), batch)
            # At worst, time grows with the batch; devices that idle do not show it yet.
            grown = spent * following / batch if self.device.type == "cpu" else spent
            if grown > 8 * (self.longest + self.seconds):
                too_long = f"left out: slow at {batch:,}"

    def _cells(self, function: Map, u: torch.Tensor, backward: bool) -> list[str]:
        call = _call(function, u, backward)
        x = call()
        sst.synchronize()
        if not bool(x.isfinite().all()):
            raise ArithmeticError("an answer is not finite")
        begin = time.perf_counter()
        call()
        wait(self.device)
        once = time.perf_counter() - begin
        if once > 5 * self.longest:
            return [f"{_three(1e3 * once)} (one call)", *[""] * 6]
        if once > self.longest:
            syncs, operations = count(call, self.device)
            return [f"{_three(1e3 * once)} (one call)", "", str(syncs), str(operations), *[""] * 3]
        eager = milliseconds(call, self.device, self.seconds)
        sst.synchronize()
        syncs, operations = count(call, self.device)
        sst.synchronize()
        captured = "" if self.device.type != "cuda" else f"not with {syncs} syncs" if syncs else self._captured(call)
        return [_three(eager), captured, str(syncs), str(operations), *self._references(u, backward)]

    def _captured(self, call: Call) -> str:
        try:
            graph, _ = capture(call)
            return _three(milliseconds(graph.replay, self.device, self.seconds))
        except Exception as error:
            traceback.print_exc()
            return _said(error)

    def _references(self, u: torch.Tensor, backward: bool) -> list[str]:
        """torch.softmax, the sort or solve, a copy."""
        flat, target = u.flatten(1), torch.empty_like(u)
        copies = [_call(lambda v: v.softmax(-1), flat, backward)]
        copies += [_call(self.case.own, flat, False)] if self.case.own else []
        copies += [lambda: [target.copy_(u) for _ in range(1 + backward)]]
        found = []
        for reference in copies:
            if self.device.type == "cuda":
                try:
                    replay: Callable[[], Any] = capture(reference)[0].replay
                except Exception as error:
                    found.append(_said(error))
                    continue
                reference = replay
            found.append(_three(milliseconds(reference, self.device, self.seconds / 2)))
        return found if self.case.own else [found[0], "", found[1]]


def _normal(*shape: int) -> torch.Tensor:
    """Made on the CPU: after a capture that failed, a device's generator may not draw."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _call(function: Map, u: torch.Tensor, backward: bool) -> Call:
    if not backward:
        return torch.no_grad()(lambda: function(u))
    leaf, v = u.clone().requires_grad_(), _normal(*u.shape).to(u)
    return lambda: torch.autograd.grad(function(leaf), leaf, v)[0]


def _three(ms: float) -> str:
    """Three digits."""
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}"


def _said(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "").replace("|", "/")
    return f"{type(error).__name__}: {line[:90]}"


def _child(pipe: Connection, name: str, batches: tuple[int, ...], options: argparse.Namespace) -> None:
    """Rows of a case down the pipe, then None."""
    case = next(case for case in all_cases() if case.name == name)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    device = torch.device(options.device)
    try:
        with sst.guard(options.guard):
            for row in Measured(case, device, options.seconds, options.longest).rows(batches):
                pipe.send(row)
    except Exception as error:
        traceback.print_exc()
        pipe.send(f"| {case.name} | | | {_said(error)} | | | | | | |")
    pipe.send(None)


def _describe(pipe: Connection, device: str) -> None:
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    pipe.send(f"{name}, torch {torch.__version__}, one CPU thread")


def _ask(start: str, target: Callable[..., None], *args: Any, limit: float) -> Iterator[str]:
    """What a process sends until None; then it is no more. ``start``: fork or spawn. A limit in seconds.

    Raises:
        TimeoutError: it took longer. ChildProcessError: it died.
    """
    context: Any = multiprocessing.get_context(start)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(theirs, *args), daemon=True)
    process.start()
    theirs.close()
    deadline = time.monotonic() + limit
    try:
        while True:
            if not ours.poll(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"longer than {limit:.0f} s")
            try:
                row = ours.recv()
            except EOFError:
                process.join()
                raise ChildProcessError(f"its process died ({process.exitcode})") from None
            if row is None:
                return
            yield row
    finally:
        process.kill()
        process.join()


def table(options: argparse.Namespace) -> Iterator[str]:
    """Lines, as they are measured."""
    begin = time.monotonic()
    start = "fork"
    try:
        yield next(_ask(start, _describe, options.device, limit=60.0))
    except ChildProcessError:
        start = "spawn"  # seconds more for each case
        yield next(_ask(start, _describe, options.device, limit=60.0))
    yield ""
    yield HEAD
    cases = [case for case in all_cases() if options.only in case.name]
    for place, case in enumerate(cases):
        left = options.total - (time.monotonic() - begin)
        if left < 1:
            yield f"| {case.name} | | | left out: {options.total:.0f} s are over | | | | | | |"
            continue
        try:
            limit = min(options.limit, max(left / 2, left / (len(cases) - place)))
            batches = (32,) if options.quick else tuple(sorted({*BATCHES, *case.batches}))
            yield from _ask(start, _child, case.name, batches, options, limit=limit)
        except (TimeoutError, ChildProcessError) as error:
            yield f"| {case.name} | | | given up: {error} | | | | | | |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.device", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, cpu")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--guard", choices=["raise", "nan"], help="default: by device")
    parser.add_argument("--quick", action="store_true", help="batch 32 only, a tenth of the time")
    parser.add_argument("--seconds", type=float, default=0.15, help="for one figure")
    parser.add_argument("--longest", type=float, default=1.0, help="seconds of one call; slower ones run once")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds for one pair")
    parser.add_argument("--total", type=float, default=220.0, help="seconds for everything")
    parser.add_argument("--output", type=pathlib.Path, help="the table as Markdown, too")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seconds /= 10
    torch.set_num_threads(1)
    with open(options.output or os.devnull, "w") as file:
        for line in table(options):
            print(line, flush=True)
            print(line, file=file, flush=True)


if __name__ == "__main__":
    main()
