"""``python -m benchmarks``: the table, on screen and with ``--output`` as Markdown."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import pathlib
import platform
import sys

import torch

from benchmarks.cases import Case, all_cases
from benchmarks.contenders import ours, peers, plain_cvxpylayers
from benchmarks.measure import call, errors, times, utilities

TEMPERATURES = (1.0, 0.3, 0.1)
HEADER = (
    "case",
    "batch",
    "by",
    "forward ms",
    "+ backward ms",
    "plain / this",
    *(f"errors, t={t:g}" for t in TEMPERATURES),
)


def rows(case: Case, batches: list[int], seconds: float) -> list[tuple[str, ...]]:
    """Rows of one case: each contender at each batch; errors beside the first batch."""
    contenders = ours(case.structure, case.regularizer, with_layer=case.generic)
    if case.generic:
        contenders["plain cvxpylayers"] = plain_cvxpylayers(case.structure, case.regularizer)
    contenders |= peers(case.structure, case.regularizer)
    found = []
    for batch in batches:
        measured = times(case, contenders, batch, seconds)
        plain = measured.get("plain cvxpylayers")
        for name, contender in contenders.items():
            seen = measured[name]
            cells = (
                [seen, "", ""] if isinstance(seen, str) else [f"{1e3 * s:.2f}" for s in seen] + [_ratio(plain, seen)]
            )
            accuracy = (
                [_accuracy(case, name, contender, contenders, t) for t in TEMPERATURES] if batch == batches[0] else []
            )
            found.append((case.name, str(batch), name, *cells, *(accuracy or [""] * len(TEMPERATURES))))
    return found


def _ratio(plain: object, seen: tuple[float, float]) -> str:
    return f"{plain[1] / seen[1]:.3g}" if isinstance(plain, tuple) else "-"


def _accuracy(case: Case, name: str, contender: object, contenders: dict, t: float) -> str:
    measured = errors(case, contender, t)  # type: ignore[arg-type]
    if measured == "no truth" and "layer" in contenders:  # no closed form: the difference from our layer
        return _difference(case, contender, contenders["layer"], t) if name != "layer" else "(reference)"
    return measured if isinstance(measured, str) else f"{measured[0]:.0e} / {measured[1]:.0e}"


def _difference(case: Case, contender: object, reference: object, t: float) -> str:
    u, v = utilities(case.structure, 16)
    try:
        x, y = (call(c, u, v, t, backward=False) for c in (contender, reference))  # type: ignore[arg-type]
        g, h = (call(c, u, v, t, backward=True) for c in (contender, reference))  # type: ignore[arg-type]
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:60]}"
    return f"{float((x - y).abs().max()):.0e} / {t * float((g - h).abs().max()):.0e}"


PACKAGES = (
    *("torch", "cvxpy", "cvxpylayers", "diffcp", "clarabel", "moreau"),
    *("entmax", "POT", "torch-struct", "networkx", "scipy"),
)


def environment(packages: tuple[str, ...] = PACKAGES, how: str = "one torch thread") -> str:
    """Machine and versions, one line."""
    versions = []
    for name in packages:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    python = f"Python {platform.python_version()}"
    return f"{datetime.date.today()}, {machine}, {how}; {python}, {', '.join(versions)}"


def markdown(table: list[tuple[str, ...]]) -> str:
    """A Markdown table; its first row is the heading."""
    rows = ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in table]
    return "\n".join([rows[0], "|" + "---|" * len(table[0]), *rows[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name contains this, e.g. 'KSubset(n=20'")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 1, 256])
    parser.add_argument("--seconds", type=float, default=6.0, help="for the timings of one case at one batch size")
    parser.add_argument("--output", type=pathlib.Path, help="write the table as Markdown")
    parser.add_argument("--quick", action="store_true", help="batch 32 and a second each")
    args = parser.parse_args()
    torch.set_num_threads(1)
    batches, seconds = ([32], 1.0) if args.quick else (args.batches, args.seconds)

    print(environment())
    print(
        "Medians of interleaved runs at t = 0.5, float64. Errors: value / gradient times t, largest of 16 problems.\n"
    )
    print("  ".join(HEADER))
    table = []
    for case in [c for c in all_cases() if args.only in c.name]:
        for row in rows(case, batches, seconds):
            print(
                "  ".join(
                    f"{cell:<{width}}" for cell, width in zip(row, (36, 5, 24, 10, 13, 12, 15, 15, 15), strict=True)
                ),
                flush=True,
            )
            table.append(row)
    if args.output:
        command = "python -m benchmarks " + " ".join(sys.argv[1:])
        args.output.write_text(f"`{command}`\n\n{environment()}\n\n{markdown([HEADER, *table])}\n")
        print(f"\nwritten to {args.output}")


if __name__ == "__main__":
    main()
