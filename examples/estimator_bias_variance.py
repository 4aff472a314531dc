"""Bias and variance of the gradient estimators, against the exact gradient, on sets small enough to enumerate.

The quantity is d/dtheta E[loss(X(theta + Gumbel noise))] for the loss (<a, x> - c)^2. X is greedy in the perturbed
utilities (bases of a matroid: k-subsets, spanning trees), so P(X = x) is a Plackett-Luce race among the items that can
still be chosen (paper, appendix), and sums over the orders in which x may come about are exact.

    python examples/estimator_bias_variance.py    # 10 to 60 s; a table on the screen, a picture by --out
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root, wherever this is run from
from examples import command_line  # first: Ctrl-C ends quietly from here on

# isort: split
import argparse

import matplotlib
import torch
from tqdm import tqdm

import polytopes
import sst_cvx as sst

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator

TEMPERATURES = (0.1, 0.3, 1.0, 3.0)
SAMPLES = 4  # of every estimate
STRUCTURES = {"2 of 5 items": polytopes.KSubset(5, 2), "trees on 4 vertices": polytopes.SpanningTree(4)}


def basis_probabilities(vertices: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """P(X = x) for Gumbel utilities with locations theta ``(n,)`` and the bases ``(count, n)`` of a matroid."""
    bases = [frozenset(torch.nonzero(v).flatten().tolist()) for v in vertices]
    reach: dict[frozenset[int], torch.Tensor] = {frozenset(): torch.ones((), dtype=theta.dtype)}
    for size in range(len(bases[0])):
        for chosen in [s for s in reach if len(s) == size]:
            able = sorted(set().union(*(b for b in bases if chosen <= b)) - chosen)
            for item, share in zip(able, theta[able].softmax(0), strict=True):
                grown = chosen | {item}
                reach[grown] = reach.get(grown, torch.zeros_like(share)) + reach[chosen] * share
    return torch.stack([reach[b] for b in bases])


class Problem:
    """One structure with fixed utilities and loss, and its exact gradient."""

    def __init__(self, structure: sst.Structure, seed: int):
        generator = torch.Generator().manual_seed(seed)
        n = structure.event_shape[0]
        self.structure = structure
        self.theta = torch.randn(n, dtype=torch.float64, generator=generator)
        self._a = torch.randn(n, dtype=torch.float64, generator=generator)
        theta = self.theta.clone().requires_grad_()
        vertices = structure.vertices()
        expected = (basis_probabilities(vertices, theta) * self.loss(vertices)).sum()
        (self.exact,) = torch.autograd.grad(expected, theta)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        return ((x * self._a).sum(-1) - 1.0) ** 2

    def measure(self, estimator, temperature: float, repeats: int) -> tuple[float, float, float]:
        """Relative bias, its standard error, and relative standard deviation of one estimate."""
        theta = self.theta.expand(repeats, -1).clone().requires_grad_()
        soft = sst.SoftArgmax(self.structure, sst.ExponentialFamilyEntropy())
        gumbel = torch.distributions.Gumbel(theta, torch.ones_like(theta))
        estimator(self.loss, sst.StochasticSoftmax(soft, gumbel, temperature), samples=SAMPLES).sum().backward()
        assert theta.grad is not None
        error, size = theta.grad - self.exact, self.exact.norm()
        spread = error.var(0).sum().sqrt()
        return float(error.mean(0).norm() / size), float(spread / repeats**0.5 / size), float(spread / size)


def estimators(temperature: float) -> dict:
    """Name to estimator and whether the temperature (or step) changes it."""
    return {
        "relaxed": (sst.Relaxed(), True),
        "straight-through": (sst.StraightThrough(), True),
        "I-MLE (step = t)": (sst.ImplicitMLE(step=temperature), True),
        "perturbed optimizer": (sst.PerturbedOptimizer(), False),
        "score function": (sst.ScoreFunction(), False),
        "score function, leave one out": (sst.ScoreFunction("leave_one_out"), False),
        "score function, batch": (sst.ScoreFunction("batch"), False),
    }


def run(repeats: int, temperatures: tuple[float, ...]) -> list[tuple[str, str, float, float, float, float]]:
    """Rows (structure, estimator, temperature, bias, standard error, standard deviation)."""
    rows = []
    work = [(name, t) for name in STRUCTURES for t in temperatures]
    for name, t in tqdm(work, desc="estimators", disable=None):
        problem = Problem(STRUCTURES[name], seed=0)
        for label, (estimator, varies) in estimators(t).items():
            if varies or t == temperatures[0]:
                torch.manual_seed(1)
                rows.append((name, label, t if varies else float("nan"), *problem.measure(estimator, t, repeats)))
    return rows


def show(rows: list) -> str:
    lines = ["| set | estimator | t | bias / gradient | standard deviation / gradient |", "|---|---|---|---|---|"]
    for name, label, t, bias, error, spread in rows:
        shown = "" if t != t else f"{t:g}"
        lines.append(f"| {name} | {label} | {shown} | {bias:.3f} ± {error:.3f} | {spread:.2f} |")
    return "\n".join(lines)


def plot(rows: list, path: Path) -> None:
    figure, axes = plt.subplots(2, len(STRUCTURES), figsize=(11, 7), sharex=True, sharey="row", layout="constrained")
    labels = list(estimators(1.0))
    for column, name in enumerate(STRUCTURES):
        for label in labels:
            own = sorted((t, bias, spread) for n, e, t, bias, _, spread in rows if n == name and e == label)
            color = f"C{labels.index(label)}"
            for axis, figures in zip(axes[:, column], zip(*[(b, s) for _, b, s in own], strict=True), strict=True):
                if len(own) > 1:
                    axis.loglog([t for t, _, _ in own], figures, "o-", color=color, label=label)
                else:
                    axis.axhline(figures[0], color=color, linestyle="--", label=label)
        axes[0, column].set_title(name)
        axes[1, column].set_xlabel("temperature (I-MLE: step)")
    temperatures = sorted({t for _, _, t, *_ in rows if t == t})
    for axis in axes.flat:
        axis.set_xticks(temperatures, [f"{t:g}" for t in temperatures])
        axis.set_xticks([], minor=True)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
    axes[0, 0].set_ylabel("|bias| / |gradient|")
    axes[1, 0].set_ylabel("standard deviation / |gradient|")
    axes[0, -1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.suptitle(f"Estimates from {SAMPLES} samples; dashed: no temperature")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> list:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    count = command_line.whole(2, 1_000_000)  # a variance needs two
    parser.add_argument("--repeats", type=count, help="independent estimates (default 20,000; 2,000 if quick)")
    parser.add_argument("--quick", action="store_true", help="fewer estimates, two temperatures")
    command_line.add_output(parser, Path(__file__).parent / "output" / "estimator_bias_variance.png")
    options = parser.parse_args(arguments)
    temperatures = (0.3, 1.0) if options.quick else TEMPERATURES
    rows = run(options.repeats or (2000 if options.quick else 20_000), temperatures)
    print(show(rows))
    plot(rows, options.output)
    print(f"\nPicture: {options.output}")
    return rows


if __name__ == "__main__":
    main()
