"""``python -m benchmarks.interior_point``: the interior-point path against plain cvxpylayers and Moreau, on ten hulls.

Three tables: time (forward plus backward, medians of interleaved runs), accuracy, and growth with size and batch.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

import sst_cvx as sst
from benchmarks.__main__ import environment, markdown
from benchmarks.contenders import Contender, plain_cvxpylayers
from benchmarks.measure import call, interleaved, utilities
from sst_cvx.errors import Elements
from tests.hulls import LARGE, birkhoff, k_subset, pairs, trees_by_martin

REGULARIZERS: dict[str, sst.SeparableRegularizer] = {
    "Euclidean": sst.Euclidean(),
    "categorical": sst.CategoricalEntropy(),
    "binary": sst.BinaryEntropy(),
}
TEMPERATURES = (1.0, 0.1, 0.01)
BATCHES = (1, 32, 256)


def seconds(contender: Contender, u: torch.Tensor, v: torch.Tensor, t: float) -> float:
    """One forward and backward."""
    start = time.perf_counter()
    call(contender, u, v, t, backward=True)
    return time.perf_counter() - start


def race(
    contenders: dict[str, Contender], u: torch.Tensor, v: torch.Tensor, t: float, budget: float
) -> dict[str, float]:
    """Median seconds; interleaved until the budget is spent. Infinite for one that raises."""
    calls = {name: functools.partial(seconds, contender, u, v, t) for name, contender in contenders.items()}
    return {name: statistics.median(found) for name, found in interleaved(calls, budget).items()}


def time_table(only: str, batches: list[int], budget: float) -> list[tuple[str, ...]]:
    """Rows: hull, f, batch, t, ms of our path, and how many times as long the others take."""
    table = [("hull", "f", "batch", "t", "interior point ms", "plain / this", "Moreau / this", "went to the layer")]
    work = [(h, f, b) for h in LARGE if only in h for f in REGULARIZERS for b in batches]
    for hull, name, batch in tqdm(work, desc="time", ncols=100):
        structure, f = LARGE[hull](), REGULARIZERS[name]
        soft = sst.SoftArgmax(structure, f, path="interior_point")
        contenders: dict[str, Contender] = {"ours": soft, "plain": plain_cvxpylayers(structure, f)}
        if batch == 32:
            contenders["Moreau"] = sst.SoftArgmax(structure, f, path="layer", solver="MOREAU")
        for t in TEMPERATURES:
            u, v = utilities(structure, batch)
            given_up = unsolved(soft, u, t)
            for contender in contenders.values():
                try:
                    seconds(contender, u[:1], v[:1], t)
                except Exception:
                    continue
            found = race(contenders, u, v, t, budget)
            ratios = [f"{found[c] / found['ours']:.3g}" if c in found else "" for c in ("plain", "Moreau")]
            ratios = ["raised" if ratio == "inf" else ratio for ratio in ratios]
            table.append((hull, name, str(batch), f"{t:g}", f"{1e3 * found['ours']:.1f}", *ratios, str(given_up)))
    return table


def unsolved(soft: sst.SoftArgmax, u: torch.Tensor, t: float) -> int:
    """Elements that the interior-point solver hands to the layer."""
    flat = u.reshape(len(u), -1)
    polytope, elements = soft._path._polytope, Elements(torch.Size([len(u)]))  # pyright: ignore
    _, right = polytope(flat, torch.full((len(u),), t, dtype=u.dtype), {}, elements)
    return int((~right).sum())


def accuracy_table(only: str, batch: int = 32) -> list[tuple[str, ...]]:
    """Optimality gap over t, and gradients against Richardson's central differences off kinks, times t."""
    table = [("hull", "f", "t", "gap / t", "gradient", "at kinks", "went to the layer")]
    for hull, name in tqdm([(h, f) for h in LARGE if only in h for f in REGULARIZERS], desc="accuracy", ncols=100):
        structure, f = LARGE[hull](), REGULARIZERS[name]
        soft = sst.SoftArgmax(structure, f, path="interior_point")
        for t in TEMPERATURES:
            u, v, d = utilities(structure, batch, 3)
            leaf = u.clone().requires_grad_()
            x = soft(leaf, t)
            (g,) = torch.autograd.grad((x * v).sum(), leaf)
            along = (g * d).flatten(1).sum(1)
            coarse, fine = (differences(soft, u, d, v, t, h * t) for h in (1e-4, 5e-5))
            slope = (4 * fine - coarse) / 3
            kink = t * (fine - coarse).abs() > 1e-6 * (1 + t * slope.abs())
            error = torch.where(kink, 0.0, t * (slope - along).abs()).max()
            # f' of an entropy has no digits where x is within rounding of the domain's edge, so neither has the gap.
            inside = t >= 0.1 or name == "Euclidean"
            gap = f"{float((soft.gap(u, x, t) / t).median()):.0e}" if inside else "-"
            cells = (gap, f"{float(error):.0e}", str(int(kink.sum())), str(unsolved(soft, u, t)))
            table.append((hull, name, f"{t:g}", *cells))
    return table


def differences(
    soft: sst.SoftArgmax, u: torch.Tensor, d: torch.Tensor, v: torch.Tensor, t: float, h: float
) -> torch.Tensor:
    """Central difference of <v, X> along d, ``(batch,)``."""
    with torch.no_grad():
        return ((soft(u + h * d, t) - soft(u - h * d, t)) * v).flatten(1).sum(1) / (2 * h)


GROWTH: dict[str, tuple[Callable[[int], sst.Structure], tuple[int, ...]]] = {
    "k-subset (1 row)": (lambda n: k_subset(n, n // 10), (20, 50, 100, 200, 500, 1000)),
    "pairs (n / 2 rows)": (lambda n: pairs(n, n // 10), (20, 40, 80, 160, 320)),
    "Birkhoff (2 sqrt(n) rows)": (lambda n: birkhoff(round(n**0.5)), (25, 100, 225, 400, 900)),
    "Martin's trees (sparse)": (lambda n: trees_by_martin(round((2 * n) ** 0.5) + 1), (6, 15, 28, 45, 66)),
}


def growth(budget: float) -> tuple[list[tuple[str, ...]], Figure]:
    """Milliseconds an element, categorical entropy at t = 0.1, over the event's size and over the batch."""
    table = [("family", "event size", "rows", "batch", "ms a batch", "ms an element")]
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    by_size, by_batch = figure.subplots(1, 2)
    for family, (make, sizes) in tqdm(GROWTH.items(), desc="growth", ncols=100):
        points, batches = [], []
        for size in sizes:
            structure = make(size)
            soft = sst.SoftArgmax(structure, sst.CategoricalEntropy(), path="interior_point")
            for batch in (1, 4, 16, 64, 256) if size == sizes[1] else (32,):
                u, v = utilities(structure, batch)
                seconds(soft, u[:1], v[:1], 0.1)
                spent = race({"ours": soft}, u, v, 0.1, budget)["ours"]
                rows = soft._path._polytope._form.right.size
                cells = (str(structure.event_size), str(rows), str(batch), f"{1e3 * spent:.1f}")
                table.append((family, *cells, f"{1e3 * spent / batch:.3f}"))
                (batches if size == sizes[1] else points).append((structure.event_size, batch, 1e3 * spent / batch))
        by_size.loglog([p[0] for p in points], [p[2] for p in points], "o-", label=family)
        label = f"{family}, event of {batches[0][0]}"
        by_batch.loglog([p[1] for p in batches], [p[2] for p in batches], "o-", label=label)
    by_size.set(xlabel="event size", ylabel="ms an element, forward and backward", title="batch 32")
    by_batch.set(xlabel="batch", title="by batch size")
    for axes in (by_size, by_batch):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return table, figure


def memory() -> str:
    """Peak memory of batch 256 of the largest case beside that of batch 1, of this process."""
    structure = LARGE["trees of 10, Martin"]()
    soft, found = sst.SoftArgmax(structure, sst.CategoricalEntropy(), path="interior_point"), []
    for batch in (1, 256):
        u, v = utilities(structure, batch)
        seconds(soft, u, v, 1.0)
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return f"Peak memory: {found[1]:.0f} MiB with batch 256 of trees of 10 (Martin), {found[0]:.0f} MiB with batch 1."


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interior_point", description=__doc__)
    parser.add_argument("--only", default="", help="hulls whose name contains this")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--seconds", type=float, default=2.0, help="for the timings of one hull, f, t and batch")
    parser.add_argument("--skip-growth", action="store_true")
    parser.add_argument("--output", type=pathlib.Path, help="write Markdown here, and the plot beside it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parts = [f"`python -m benchmarks.interior_point {' '.join(sys.argv[1:])}`", environment()]
    if not args.skip_growth:
        parts.append(memory())  # before anything else has used more
    parts += ["## Time", markdown(time_table(args.only, args.batches, args.seconds))]
    parts += ["## Accuracy", markdown(accuracy_table(args.only))]
    if not args.skip_growth:
        table, figure = growth(args.seconds / 2)
        parts += ["## Growth", markdown(table)]
        if args.output:
            picture = args.output.with_suffix(".png")
            figure.savefig(picture, dpi=130)
            parts.append(f"![growth]({picture.name})")
    text = "\n\n".join(parts) + "\n"
    print(text)
    if args.output:
        args.output.write_text(text)


if __name__ == "__main__":
    main()
