"""What each command does with a structure: its rows, as a table or as JSON; the exit status."""

from __future__ import annotations

import importlib.metadata
import json
import math
import statistics
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sst_cvx import native
from sst_cvx.checks import check as certify
from sst_cvx.console import targets
from sst_cvx.errors import SolveError
from sst_cvx.once import later
from sst_cvx.paths import PATHS
from sst_cvx.regularizers import Regularizer
from sst_cvx.soft_argmax import SoftArgmax
from sst_cvx.structure.base import Structure

cp = later("cvxpy")
_LONGEST = 5.0  # seconds in which a way is timed, and then not again


def check(options: Namespace) -> int:
    structure = targets.structure(options.target)
    given = targets.parameters(options.parameter, structure)
    chosen = targets.regularizers(options.regularizer) if options.regularizer else None
    report = certify(
        structure, chosen, temperatures=options.temperature, seed=options.seed, verbose=not options.json, **given
    )
    if options.json:
        rows = [
            {
                "check": r.name,
                "figure": _number(r.figure),
                "bound": _number(r.bound),
                "verdict": r.verdict,
                "remark": r.remark,
            }
            for r in report.results
        ]
        _print_json({"structure": report.title, "ok": report.ok, "checks": rows})
    return 0 if report.ok else 1


def describe(options: Namespace) -> int:
    structure = targets.structure(options.target)
    given = targets.parameters(options.parameter, structure)
    rows = []
    for regularizer in targets.regularizers(options.regularizer):
        try:
            soft = SoftArgmax(structure, regularizer)
        except (ValueError, SolveError) as error:
            rows.append({"regularizer": repr(regularizer), "path": "none", "why": targets.words(error), "ms": None})
            continue
        times = _times({"": lambda u, soft=soft: soft(u, 1.0, **given)}, _utilities(structure, 32))
        rows.append({"regularizer": repr(regularizer), "path": soft.path, "why": soft._why, "ms": times[""]})
    note = "ms: forward and backward at batch 32, medians on this machine"
    if not options.json:
        rows, reasons = _numbered(rows)
        note = "\n".join([note, *reasons])
    return _show(repr(structure), rows, options.json, note)


def _numbered(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Reasons, which are sentences, below the table and in it their numbers."""
    numbers: dict[str, int] = {}
    for row in rows:
        if row["why"]:
            numbers.setdefault(row["why"], len(numbers) + 1)
    marked = [row | {"why": f"({numbers[row['why']]})" if row["why"] else ""} for row in rows]
    return marked, [f"({number}) {why}" for why, number in numbers.items()]


def bench(options: Namespace) -> int:
    structure = targets.structure(options.target)
    given = targets.parameters(options.parameter, structure)
    t, rows = options.temperature, []
    for regularizer in targets.regularizers(options.regularizer):
        ways = _ways(structure, regularizer, t, given)
        if not ways:
            continue
        times = _times(ways, _utilities(structure, options.batch))
        plain = times.get("plain cvxpylayers")
        for name, value in times.items():
            ratio = plain / value if plain and value else None
            rows.append({"regularizer": repr(regularizer), "way": name, "ms": value, "speed-up": ratio})
    note = f"forward and backward at batch {options.batch}, t = {t:g}, float64, medians of interleaved runs"
    note += "; speed-up: over plain cvxpylayers"
    return _show(repr(structure), rows, options.json, note)


def info(options: Namespace) -> int:
    names = ("sst-cvx", "torch", "cvxpy", "cvxpylayers", "diffcp", "highspy", "numpy", "scipy", "numba", "moreau")
    found: dict[str, Any] = {name: _version(name) for name in names}
    found["compiled kernels"] = "on" if native.is_on() else "off (pip install 'sst-cvx[native]')"
    found["devices"] = ", ".join(["cpu", *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))])
    found["threads"] = torch.get_num_threads()
    moreau = ["MOREAU"] if found["moreau"] != "not installed" else []
    found["engines of the layer"] = ", ".join(["DIFFCP (Clarabel)", *moreau])
    rows = [{"what": name, "here": value} for name, value in found.items()]
    if options.json:
        _print_json(found)
        return 0
    return _show("sst-cvx", rows, False, "")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


# -- time ---------------------------------------------------------------------------------------------------------


def _utilities(structure: Structure, batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, *structure.event_shape, dtype=torch.float64, generator=generator)


def _ways(structure: Structure, regularizer: Regularizer, t: float, given: dict) -> dict[str, Callable]:
    """Every path that takes the pair, by name, and plain cvxpylayers where there is a program."""
    ways: dict[str, Callable] = {}
    for kind in PATHS:
        try:
            soft = SoftArgmax(structure, regularizer, path=kind.name)
        except (ValueError, TypeError, SolveError):
            continue
        ways[kind.name] = lambda u, soft=soft: soft(u, t, **given)
    if plain := _plain(structure, regularizer, t, given):
        ways["plain cvxpylayers"] = plain
    return ways


def _plain(structure: Structure, regularizer: Regularizer, t: float, given: dict) -> Callable | None:
    """The same problem as a CvxpyLayer with its defaults: what one would write without this library."""
    from cvxpylayers.torch.cvxpylayer import CvxpyLayer

    try:
        f, constraints = regularizer.program(structure)
        u, s = cp.Parameter(structure.event_shape), cp.Parameter(nonneg=True)
        problem = cp.Problem(cp.Minimize(s * f - cp.sum(cp.multiply(u, structure.variable))), constraints)
        layer = CvxpyLayer(problem, parameters=[u, s, *structure.parameters], variables=[structure.variable])
    except (
        ValueError,
        TypeError,
        SolveError,
        AttributeError,
        NotImplementedError,
    ):  # no program, or none that it takes
        return None
    values = [torch.tensor(t, dtype=torch.float64), *(given[p.name()] for p in structure.parameters)]
    return lambda utilities: layer(utilities, *values)[0]


def _times(ways: dict[str, Callable], u: torch.Tensor, seconds: float = 0.5) -> dict[str, float | None]:
    """Milliseconds of each, medians of interleaved runs after one that compiles; None where it failed."""
    taken = {name: [] for name, way in ways.items() if _seconds(way, u) is not None}
    end = time.monotonic() + seconds * len(ways)
    while taken and (not all(taken.values()) or time.monotonic() < end):
        for name in list(taken):
            if sum(taken[name]) < _LONGEST and (value := _seconds(ways[name], u)) is not None:
                taken[name].append(value)
    return {name: 1e3 * statistics.median(taken[name]) if name in taken else None for name in ways}


def _seconds(way: Callable, u: torch.Tensor) -> float | None:
    """Of one forward and backward; None where it fails."""
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            leaf = u.detach().requires_grad_()
            torch.autograd.grad(way(leaf).square().sum(), leaf)
    except Exception:  # whatever a solver raises: it has no time
        return None
    return time.perf_counter() - start


# -- what is shown ------------------------------------------------------------------------------------------------


def _show(title: str, rows: Sequence[dict[str, Any]], as_json: bool, note: str) -> int:
    if as_json:
        _print_json({"title": title, "rows": list(rows), "note": note})
        return 0
    columns = list(rows[0]) if rows else []
    cells = [[_cell(row[name]) for name in columns] for row in rows]
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text  # a string would be read as markup
    except ImportError:
        lines = [columns, *cells]
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
        rows_of_text = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
        print("\n".join([title, *rows_of_text, note]))
        return 0
    table = Table(title=Text(title), title_justify="left")
    for name in columns:
        table.add_column(name, overflow="fold")
    for line in cells:
        table.add_row(*map(Text, line))
    console = Console()
    console.print(table)
    if note:
        console.print(Text(note))
    return 0


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))
