"""``python -m benchmarks.marginals``: exponential-family marginals beside torch-struct and the plain recursions.

Two tables: accuracy over scales of the utilities, against enumeration or long doubles, and time, as ratios to ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import importlib.util
import pathlib
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import polytopes
import sst_cvx as sst
from benchmarks.__main__ import environment, markdown
from benchmarks.marginal_peers import Way, argmax_ways, marginal_ways
from benchmarks.measure import interleaved
from tests.oracles import counting, enumeration

SCALES = (1.0, 10.0, 100.0, 1000.0)
DTYPES = (torch.float32, torch.float64)
DRAWS = 32
RESULTS = pathlib.Path(__file__).parent / "results"

Truth = Callable[[sst.Structure, torch.Tensor], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """A structure of the library by name, since some are younger than this file."""

    kind: str
    arguments: tuple
    options: dict = dataclasses.field(default_factory=dict)
    truth: Truth | None = None
    batch: int = 0

    @property
    def name(self) -> str:
        inside = [*map(str, self.arguments), *(f"{key}={value}" for key, value in self.options.items())]
        return f"{self.kind}({', '.join(inside)})"

    def build(self) -> sst.Structure:
        return getattr(polytopes, self.kind)(*self.arguments, **self.options)


SINGLE = {"single_root": True}
ACCURACY = (
    Case("SpanningTree", (6,), truth=enumeration),
    Case("SpanningTree", (20,)),
    Case("Arborescence", (6,), truth=enumeration),
    Case("Arborescence", (6,), SINGLE, truth=enumeration),
    Case("Arborescence", (20,)),
    Case("Arborescence", (20,), SINGLE),
    Case("KSubset", (20, 5), truth=enumeration),
    Case("KSubset", (1000, 100), truth=counting),
    Case("CorrelatedKSubset", (12, 4), truth=enumeration),
)
SPEED = (
    *(Case("SpanningTree", (n,), batch=b) for n, b in ((10, 64), (30, 64), (100, 32))),
    *(Case("Arborescence", (n,), batch=b) for n, b in ((10, 64), (30, 64), (100, 32))),
    Case("Arborescence", (30,), SINGLE, batch=64),
    Case("KSubset", (1000, 100), batch=64),
    Case("KSubset", (350, 10), batch=128),
    Case("CorrelatedKSubset", (350, 10), batch=128),
)
ARGMAX = (
    *(Case("SpanningTree", (n,), batch=128) for n in (10, 30, 100)),
    *(Case("Arborescence", (n,), batch=128) for n in (10, 30)),  # of 100, networkx takes minutes
)


def accuracy_table(cases: list[Case], device: str) -> list[tuple[str, ...]]:
    """Rows: structure, dtype, who, and a cell for each scale: largest error / sum / outside."""
    table = [("structure", "dtype", "by", *(f"x{scale:g}" for scale in SCALES))]
    for case in track(cases, "accuracy"):
        structure, generator = case.build(), torch.Generator().manual_seed(0)
        normal = torch.randn(DRAWS, *structure.event_shape, generator=generator)
        cells: dict[tuple[str, torch.dtype], list[str]] = {}
        for scale in SCALES:
            u = scale * normal  # rounded to float32 before the truth is found
            truth = case.truth(structure, u) if case.truth else None
            for dtype in DTYPES:
                for name, way in marginal_ways(structure, variants=True).items():
                    cells.setdefault((name, dtype), []).append(_accuracy(structure, way, u.to(device, dtype), truth))
        for dtype in DTYPES:
            table += [(case.name, _short(dtype), name, *c) for (name, d), c in cells.items() if d == dtype]
    return table


def _accuracy(structure: sst.Structure, way: Way, u: torch.Tensor, truth: np.ndarray | None) -> str:
    """Largest error, largest error of the sum, entries outside [0, 1] by more than 1e-6; and draws without answer."""
    x = torch.cat([_answer(way, row) for row in u.split(1)]).double().cpu()  # alone: one failure takes no other with it
    right = torch.isfinite(x).all(-1)
    if not right.any():
        return "no answer"
    n = structure.n if isinstance(structure, getattr(polytopes, "CorrelatedKSubset", ())) else x.shape[-1]
    total = structure.argmax(u.cpu())[..., :n].sum(-1)
    x, total = x[right], total[right]
    error = "-" if truth is None else f"{float(np.abs(x.numpy() - truth[right.numpy()]).max()):.0e}"
    outside = int(((x < -1e-6) | (x > 1 + 1e-6)).sum())
    cell = f"{error} / {float((x[:, :n].sum(-1) - total).abs().max()):.0e} / {outside}"
    return cell if right.all() else f"{cell}; {int((~right).sum())} of {len(u)} no answer"


def _answer(way: Way, u: torch.Tensor) -> torch.Tensor:
    try:
        with torch.no_grad():
            return way.read(way.compute(way.lay_out(u)))
    except (ArithmeticError, RuntimeError, sst.SolveError):  # a singular matrix, or a guard that refuses
        return torch.full_like(u, torch.nan)


def speed_table(cases: list[Case], budget: float, device: str) -> list[tuple[str, ...]]:
    """Rows: structure, batch, dtype, who, milliseconds forward and with backward, each with its ratio to ours."""
    table = [("structure", "batch", "dtype", "by", "forward ms", "/ ours", "+ backward ms", "/ ours")]
    for case, dtype in track([(c, d) for c in cases for d in DTYPES], "speed"):
        structure = case.build()
        ways = marginal_ways(structure)
        forward = _race(ways, structure, case.batch, dtype, device, budget / 2, backward=False)
        both = _race(ways, structure, case.batch, dtype, device, budget / 2, backward=True)
        for name in ways:
            cells = (*_times(forward, name), *_times(both, name))
            table.append((case.name, str(case.batch), _short(dtype), name, *cells))
    return table


def argmax_table(cases: list[Case], budget: float, device: str) -> list[tuple[str, ...]]:
    """Rows: structure, batch, who, milliseconds and its ratio to ours."""
    table = [("structure", "batch", "by", "ms", "/ ours")]
    for case in track(cases, "argmax"):
        structure = case.build()
        ways = argmax_ways(structure)
        found = _race(ways, structure, case.batch, torch.float64, device, budget, backward=False)
        table += [(case.name, str(case.batch), name, *_times(found, name)) for name in ways]
    return table


def _race(
    ways: dict[str, Way],
    structure: sst.Structure,
    batch: int,
    dtype: torch.dtype,
    device: str,
    budget: float,
    backward: bool,
) -> dict[str, float | str]:
    """Median seconds of interleaved runs, or why there are none."""
    generator = torch.Generator().manual_seed(batch)
    u = torch.randn(batch, *structure.event_shape, generator=generator).to(device, dtype)
    calls: dict[str, Callable[[], object]] = {}
    found: dict[str, float | str] = {}
    for name, way in ways.items():
        laid = way.lay_out(u)
        v = torch.randn(laid.shape, generator=generator).to(device, dtype)
        calls[name] = functools.partial(_run, way, laid, v if backward else None)
        try:
            calls[name]()
        except Exception as error:
            found[name] = f"n/a: {type(error).__name__}: {str(error)[:60]}"
            del calls[name]
    return found | {name: statistics.median(times) for name, times in interleaved(calls, budget).items()}


def _run(way: Way, laid: torch.Tensor, v: torch.Tensor | None) -> None:
    """Forward; and backward of <v, answer>, if v is given. Ends when the device has."""
    if v is None:
        with torch.no_grad():
            way.compute(laid)
    else:
        leaf = laid.detach().requires_grad_()
        torch.autograd.grad((way.compute(leaf) * v).sum(), leaf)
    if laid.is_cuda:
        torch.cuda.synchronize(laid.device)


def _times(found: dict[str, float | str], name: str) -> tuple[str, str]:
    seen, ours = found[name], found["ours"]
    if isinstance(seen, str) or isinstance(ours, str):
        return (seen, "") if isinstance(seen, str) else (f"{1e3 * seen:.2f}", "")
    return f"{1e3 * seen:.2f}", f"{seen / ours:.2g}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def notes(cases: tuple[Case, ...]) -> Iterator[str]:
    """What is left out for want of a structure or a peer."""
    for kind in sorted({case.kind for case in cases if not hasattr(polytopes, case.kind)}):
        yield f"Skipped: `polytopes` has no {kind}."
    for package in ("torch_struct", "networkx"):
        if not importlib.util.find_spec(package):
            yield f"Skipped: {package} is not installed."


def device_name(device: str) -> str:
    """For a file's name: cpu, or the graphics card's own name."""
    kind = torch.device(device).type
    return torch.cuda.get_device_name(device).lower().replace(" ", "-") if kind == "cuda" else kind


def device_line(device: str) -> str:
    return environment() if device == "cpu" else f"{torch.cuda.get_device_name(device)}; {environment()}"


def show(console: Console, title: str, table: list[tuple[str, ...]]) -> str:
    """Print by rich; the same as Markdown."""
    if len(table) == 1:
        return ""
    drawn = Table(*table[0], title=title)
    for row in table[1:]:
        drawn.add_row(*row)
    console.print(drawn)
    return f"## {title}\n\n{markdown(table)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.marginals", description=__doc__)
    parser.add_argument("--only", default="", help="structures whose name contains this, e.g. 'SpanningTree(30'")
    parser.add_argument("--seconds", type=float, default=4.0, help="for the timings of one structure and dtype")
    parser.add_argument("--skip-accuracy", action="store_true")
    parser.add_argument("--skip-speed", action="store_true")
    parser.add_argument("--device", default="cpu", help="where the tensors are, e.g. cuda")
    parser.add_argument("--output", type=pathlib.Path, help="the tables as Markdown; default: results/, by the device")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    console = Console()
    parts = [f"`python -m benchmarks.marginals {' '.join(sys.argv[1:])}`".replace(" `", "`"), device_line(args.device)]
    parts += notes(ACCURACY + SPEED)
    console.print(*parts[1:], sep="\n")

    def chosen(cases: tuple[Case, ...]) -> list[Case]:
        return [case for case in cases if args.only in case.name and hasattr(polytopes, case.kind)]

    if not args.skip_accuracy:
        title = "Accuracy: largest error / largest error of the sum / entries outside [0, 1], over 32 draws"
        parts.append(show(console, title, accuracy_table(chosen(ACCURACY), args.device)))
    if not args.skip_speed:
        parts.append(show(console, "Speed of marginals", speed_table(chosen(SPEED), args.seconds, args.device)))
        parts.append(show(console, "Speed of the hard argmax", argmax_table(chosen(ARGMAX), args.seconds, args.device)))
    output = args.output or RESULTS / f"{datetime.date.today():%Y-%m}-{device_name(args.device)}-marginals.md"
    output.write_text("\n\n".join(part for part in parts if part) + "\n")
    console.print(f"written to {output}")


if __name__ == "__main__":
    main()
