"""``python -m benchmarks.peers``: ours beside every peer that is installed, and who wins.

Medians of CPU time of the process, one thread, interleaved, float64, t = 1 unless said. A peer is of the same accuracy
if its largest error is at most 1e-6 (gradients: 1e-5, or ten times ours).
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator

# Before the packages are loaded: their pools of threads would be counted as their CPU time.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmarks.__main__ import markdown  # noqa: E402
from benchmarks.peers import chains, cold, hulls, matchings, rankings, thresholds, trees  # noqa: E402
from benchmarks.peers.race import Contest, Measured, Result, Row, limited, race  # noqa: E402
from benchmarks.peers.versions import environment  # noqa: E402

MODULES = (thresholds, rankings, matchings, trees, chains, hulls)
HEADER = ("work", "batch", "pass", "ours ms", "error", "best peer", "ms", "error", "ours / peer", "wins", "others")


def verdict(result: Result, contest: Contest) -> str:
    """Who wins; and whether within the bound where the peer does."""
    if result.ours.failed:
        return "failed"
    if result.ratio is None:
        return "ours (no peer)"
    if result.ratio < 1:
        return "ours"
    return f"within {contest.bound:g}" if result.ratio <= contest.bound else "PEER"


def cells(result: Result, contest: Contest) -> tuple[str, ...]:
    """A line of the table."""
    rival = result.rival
    others = "; ".join(
        f"{m.name}: {m.failed}" if m.failed else f"{m.name} {_ms(m)} ({_error(m)})"
        for m in result.peers
        if m is not rival
    )
    best = ("-", "", "", "") if rival is None else (rival.name, _ms(rival), _error(rival), f"{result.ratio:.2f}")
    ours = (result.ours.failed, "") if result.ours.failed else (_ms(result.ours), _error(result.ours))
    way = "+ backward" if result.backward else "forward"
    return (result.row, str(result.batch), way, *ours, *best, verdict(result, contest), others)


def _ms(measured: Measured) -> str:
    return f"{1e3 * measured.seconds:.3g}"


def _error(measured: Measured) -> str:
    return "measure" if measured.error is None else f"{measured.error:.0e}"


def summary(verdicts: list[str]) -> str:
    """Lines ahead, within the bound, and missed."""
    ahead = sum(v.startswith("ours") for v in verdicts)
    near, missed = sum(v.startswith("within") for v in verdicts), sum(v in ("PEER", "failed") for v in verdicts)
    share = f" ({ahead / len(verdicts):.0%})" if verdicts else ""
    return f"{len(verdicts)} lines: ahead in {ahead}{share}, within the bound in {near}, missed in {missed}."


def lines_of(row: Row, batches: list[int], budget: float, limit: float) -> tuple[list, list[str], tuple[str, ...]]:
    """Lines of the table, verdicts, and what is missing, of one piece of work."""
    try:
        with limited(limit):
            contest = row.make()
    except Exception as error:
        line = (row.name, "", "build", f"{type(error).__name__}: {error}", *[""] * 5, "failed", "")
        return [line], ["failed"], ()
    slow: set[str] = set()
    results = [r for batch in sorted(batches) for r in race(row.name, contest, batch, budget, limit, slow)]
    return [cells(r, contest) for r in results], [verdict(r, contest) for r in results], contest.missing


def progress(rows: list[Row], costs: list[cold.Cost]) -> Iterator[Row | cold.Cost]:
    """All the work in turn, with a bar where someone looks."""
    with tqdm([*rows, *costs], ncols=100, disable=not sys.stderr.isatty()) as bar:
        for work in bar:
            bar.set_description(work.name[:40])
            yield work


def condensed(lines: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """A line for each piece of work: its best peers, and at each batch ours / peer, forward and with backward."""
    batches = sorted({line[1] for line in lines if line[1]}, key=int)
    table = [("ours / best peer", "best peers", *(f"batch {b}" for b in batches))]
    for work in dict.fromkeys(line[0] for line in lines):
        here = [line for line in lines if line[0] == work]
        names = dict.fromkeys(line[5] for line in here if line[8])
        ratios = [" / ".join(line[8] or "-" for line in here if line[1] == b) for b in batches]
        table.append((work, ", ".join(names) or "-", *ratios))
    return table


def report(lines: list, verdicts: list[str], missing: set[str], spent: list) -> list[str]:
    """Paragraphs of Markdown."""
    parts = [markdown(condensed(lines)), markdown([HEADER, *lines])] if lines else []
    parts += [summary(verdicts)] if verdicts else []
    parts += ["Left out: " + "; ".join(sorted(missing)) + "."] if missing else []
    return parts + ([markdown([cold.HEADER, *spent])] if spent else [])


def show(console: Console, header: tuple[str, ...], lines: list[tuple[str, ...]]) -> None:
    """Print by rich."""
    table = Table(*header)
    for line in lines:
        style = "red" if "PEER" in line or "failed" in line or "missed" in line else None
        table.add_row(*line, style=style)
    console.print(table)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="work whose name contains this, e.g. 'softmax'; costs: 'cost'")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--seconds", type=float, default=1.5, help="CPU time for the timings of a line")
    parser.add_argument("--limit", type=float, default=60.0, help="CPU seconds after which a build or first call stops")
    parser.add_argument("--quick", action="store_true", help="batch 32 and 0.3 seconds a line")
    parser.add_argument("--markdown", type=pathlib.Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--list", action="store_true", help="print the names of the work and stop")
    args = parser.parse_args(arguments)
    rows = [row for module in MODULES for row in module.rows() if args.only in row.name]
    costs = [cost for cost in cold.costs() if args.only in f"cost: {cost.name}"]
    if args.list:
        print(*(row.name for row in rows), *(f"cost: {cost.name}" for cost in costs), sep="\n")
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    batches, seconds = ([32], 0.3) if args.quick else (args.batches, args.seconds)
    console = Console(width=None if sys.stdout.isatty() else 240)
    head = [f"`python -m benchmarks.peers {' '.join(sys.argv[1:])}`".replace(" `", "`"), environment()]
    console.print(head[-1])

    lines: list[tuple[str, ...]] = []
    verdicts: list[str] = []
    missing: set[str] = set()
    spent: list[tuple[str, ...]] = []
    for work in progress(rows, costs):
        if isinstance(work, Row):
            found = lines_of(work, [b for b in batches if b <= work.largest], seconds, args.limit)
            lines, verdicts, missing = lines + found[0], verdicts + found[1], missing | set(found[2])
        else:
            spent.append(work.line(args.limit))
        if args.markdown:  # after every piece of work: an interrupted run is not lost
            args.markdown.write_text("\n\n".join([*head, *report(lines, verdicts, missing, spent)]) + "\n")
    for header, table in ((HEADER, lines), (cold.HEADER, spent)):
        if table:
            show(console, header, table)
    console.print(*report([], verdicts, missing, []), sep="\n")


if __name__ == "__main__":
    main()
