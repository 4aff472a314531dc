"""Which 5 of 30 measurements suffice to diagnose breast cancer? A stochastic softmax trick chooses them.

A linear classifier sees its input through a mask, a subset of k measurements. Subsets have no gradient, so training
uses relaxed ones: soft(logits + Gumbel noise, temperature), a random point of the hull of all k-subsets, differentiable
in the logits. Classifier and logits learn together by gradient descent; the answer is the hard subset argmax(logits).

Then the same under a rule that no library has ready, declared in two lines of CVXPY (see ``one_per_quantity``).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root, wherever this is run from
from examples import command_line  # first: Ctrl-C ends quietly from here on

# isort: split
import argparse
import time
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_breast_cancer
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

import polytopes
import sst_cvx as sst

NAMES = load_breast_cancer().feature_names
QUANTITIES = 10  # the 30 columns are the means of 10 quantities, then their standard errors, then their worst values
RELAXATIONS = {
    "Euclidean": sst.Euclidean(),
    "Tsallis 1.5": sst.TsallisEntropy(1.5),
    "categorical entropy": sst.CategoricalEntropy(),
    "binary entropy": sst.BinaryEntropy(),
    "exponential family": sst.ExponentialFamilyEntropy(),
}


Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x and y to train on, x and y to test on


@dataclass
class Result:
    """What one method chose in each split, and how well a fresh classifier does with that choice."""

    method: str
    chosen: np.ndarray  # (splits, 30), bool
    train_loss: np.ndarray
    test_loss: np.ndarray
    accuracy: np.ndarray  # on the test part
    as_trained: str  # mean test accuracy of the method's own classifier, if it has one
    answered_by: str


def judge(method: str, chosen: np.ndarray, data: list[Split], as_trained: str = "", answered_by: str = "") -> Result:
    """Refit the same logistic regression for every method on its measurements, and test it."""
    scores = []
    for c, (x, y, x_test, y_test) in zip(chosen, data, strict=True):
        x, x_test = x[:, c], x_test[:, c]
        model = LogisticRegression().fit(x, y)
        losses = log_loss(y, model.predict_proba(x)), log_loss(y_test, model.predict_proba(x_test))
        scores.append((*losses, model.score(x_test, y_test)))
    return Result(method, chosen, *np.array(scores).T, as_trained, answered_by)


def load(splits: int, seed: int) -> list[Split]:
    """Three quarters to train, one quarter to test, standardised by the training part."""
    (x, y), data = load_breast_cancer(return_X_y=True), []
    for train, test in StratifiedShuffleSplit(splits, test_size=0.25, random_state=seed).split(x, y):
        scaler = StandardScaler().fit(x[train])
        data.append((scaler.transform(x[train]), y[train], scaler.transform(x[test]), y[test]))
    return data


def one_per_quantity(k: int) -> sst.Structure:
    """A structure of our own: k measurements, at most one of mean, standard error and worst of each quantity."""
    x = cp.Variable(3 * QUANTITIES)
    return sst.Structure(x, [x >= 0, x[:10] + x[10:20] + x[20:] <= 1, cp.sum(x) == k])


def relaxed_sample(soft: sst.SoftArgmax, logits: torch.Tensor, temperature: float, samples: int) -> torch.Tensor:
    """The stochastic softmax trick: ``(samples, *logits.shape)`` random points of the hull, with a gradient."""
    gumbel = -torch.empty(samples, *logits.shape).exponential_().log()
    return soft(logits + gumbel, temperature=temperature)


def learn(method: str, soft: sst.SoftArgmax, data: list[Split], steps: int, samples: int, seed: int) -> Result:
    """Train logits and classifier together, in all splits at once: the splits are one more batch dimension."""
    x, y, x_test, y_test = (torch.tensor(np.stack(part)).float() for part in zip(*data, strict=True))
    splits, patients, measurements = x.shape
    logits, weights = (torch.zeros(splits, measurements, requires_grad=True) for _ in range(2))
    bias = torch.zeros(splits, 1, requires_grad=True)
    optimizer = torch.optim.Adam([logits, weights, bias], lr=0.1)
    torch.manual_seed(seed)
    start = time.perf_counter()
    for step in tqdm(range(steps), desc=f"{method:<22}", mininterval=0.5, ncols=100, disable=None):
        temperature = 2.0 * 0.1 ** (step / steps)  # annealed; set by training losses, never by the test part
        mask = relaxed_sample(soft, logits, temperature, samples)
        scores = torch.einsum("msd,snd->msn", mask * weights, x) + bias  # mask samples, splits, patients
        losses = binary_cross_entropy_with_logits(scores, y.expand_as(scores), reduction="none").mean((0, 2))
        penalty = (mask * weights).square().sum(-1).mean(0) / (2 * patients)  # as in LogisticRegression, C = 1
        optimizer.zero_grad()
        (losses + penalty).sum().backward()
        optimizer.step()
    answered_by = f"{soft.path}, {time.perf_counter() - start:.1f} s"
    with torch.no_grad():  # from here on the mask is hard
        hard = soft.structure.argmax(logits)
        scores = torch.einsum("sd,snd->sn", hard * weights, x_test) + bias
    as_trained = 100 * ((scores > 0) == y_test).float().mean()
    return judge(method, hard.numpy() > 0.5, data, f"{as_trained:.1f}", answered_by)


def choose_univariate(data: list[Split], k: int) -> Result:
    """The k measurements that separate the classes best one by one."""
    chosen = [SelectKBest(f_classif, k=k).fit(x, y).get_support() for x, y, _, _ in data]
    return judge("F test", np.array(chosen), data)


def choose_by_lasso(data: list[Split], k: int) -> Result:
    """L1 logistic regression with the weakest penalty that leaves at most k measurements."""
    chosen, correct = [], []
    for x, y, x_test, y_test in tqdm(data, desc=f"{'L1 regression':<22}", mininterval=0.5, ncols=100, disable=None):
        for C in np.geomspace(2, 1e-3, 300):
            model = LogisticRegression(l1_ratio=1.0, solver="liblinear", C=C, random_state=0).fit(x, y)
            if np.count_nonzero(model.coef_) <= k:
                break
        chosen.append(model.coef_[0] != 0)
        correct.append(model.score(x_test, y_test))
    return judge("L1 regression", np.array(chosen), data, f"{100 * np.mean(correct):.1f}")


def race(soft: sst.SoftArgmax, problems: int) -> str:
    """Forward and backward of the same batch, by the path that answers and by the conic layer."""
    u = torch.randn(problems, *soft.structure.event_shape, requires_grad=True)
    seconds = []
    for contender in (soft, soft.reference()):
        contender(u[:1]).square().sum().backward()
        start = time.perf_counter()
        contender(u).square().sum().backward()
        seconds.append(time.perf_counter() - start)
    ours, layer = (1e3 * s for s in seconds)
    times = f"{ours:.0f} ms by path {soft.path!r}, {layer:.0f} ms by the conic layer: {layer / ours:.0f} times as long"
    return f"Under our own rule a batch of {problems} takes {times}."


def gain(result: Result, baseline: Result) -> tuple[float, float]:
    """Mean difference in test accuracy, in points, and two standard errors."""
    difference = 100 * (result.accuracy - baseline.accuracy)
    # Splits overlap: their variance is inflated by test / train size (Nadeau and Bengio 2003).
    return float(difference.mean()), 2 * float(difference.var(ddof=1) * (1 / len(difference) + 1 / 3)) ** 0.5


def quantities(result: Result) -> float:
    """How many of the ten quantities the chosen measurements belong to, on average."""
    return float(result.chosen.reshape(-1, 3, QUANTITIES).any(1).sum(1).mean())


def show_tables(console: Console, results: list[Result]) -> None:
    """How well each method's choice does; then what it chose. The last result is the ceiling: no choice."""
    splits = len(results[0].chosen)
    scores = Table(title=f"Means over {splits} random splits (± standard deviation; gain ± two standard errors)")
    for heading in ("method", "train loss", "test loss", "test accuracy %", "gain over F test", "before refitting %"):
        scores.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for r in results:
        losses = f"{r.train_loss.mean():.4f}", f"{r.test_loss.mean():.4f}"
        accuracy = f"{100 * r.accuracy.mean():.1f} ± {100 * r.accuracy.std(ddof=1):.1f}"
        scores.add_row(r.method, *losses, accuracy, "{:+.1f} ± {:.1f}".format(*gain(r, results[0])), r.as_trained)

    choices = Table("method", "answered by", "quantities", "measurements", title=f"Most chosen, of {splits} splits")
    for r in results[:-1]:
        counts, size = r.chosen.sum(0), r.chosen.sum(1).max()
        words = ", ".join(f"{NAMES[i]} {counts[i]}" for i in np.argsort(-counts, kind="stable")[:size])
        choices.add_row(r.method, r.answered_by, f"{quantities(r):.1f}", words)
    console.print(scores, choices)


def findings(results: list[Result], k: int) -> str:
    """The result in words; a difference counts if it exceeds two standard errors."""
    univariate, lasso, *relaxations, own, everything = results

    def against(r: Result, baseline: Result) -> str:
        points, error = gain(r, baseline)
        size = "more than noise" if abs(points) > error else "within noise"
        return f"{points:+.1f} ± {error:.1f} points against {baseline.method} ({size})"

    best = min(relaxations, key=lambda r: r.train_loss.mean())  # not by the test part
    better = sum(r.train_loss.mean() < lasso.train_loss.mean() for r in relaxations)
    return f"""
{k} measurements give {best.accuracy.mean():.1%} test accuracy ({best.method}), all 30 {everything.accuracy.mean():.1%}.
- {better} of {len(relaxations)} relaxations reach a lower training loss than {lasso.method}; {best.method} the lowest.
  Its test loss is {best.test_loss.mean():.4f}, that of {lasso.method} {lasso.test_loss.mean():.4f}. Its accuracy is
  {against(best, univariate)},
  and {against(best, lasso)}.
- The {k} are of {quantities(univariate):.1f} quantities by F test, of {quantities(best):.1f} by {best.method}.
  By our own rule they are of {quantities(own):.1f}, and the accuracy is
  {against(own, univariate)},
  and {against(own, best)}."""


def plot(results: list[Result], k: int, output: Path) -> None:
    """How often each method chose each measurement, beside its test accuracy."""
    *shown, everything = results
    figure = Figure(figsize=(15, 6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1), sharey=True)
    shares = [r.chosen.mean(0) for r in shown]
    image = left.pcolormesh(range(30), range(len(shown)), shares, cmap="Blues", vmin=0, vmax=1, edgecolors="0.9")
    left.invert_yaxis()
    figure.colorbar(image, ax=left, label="share of splits", pad=0.01)
    left.set_xticks(range(30), [name.removeprefix("mean ") for name in NAMES[:QUANTITIES]] * 3, rotation=90)
    left.set_yticks(range(len(shown)), [r.method for r in shown])
    for i, statistic in enumerate(("mean", "standard error", "worst")):
        left.axvline(QUANTITIES * i - 0.5, color="black", linewidth=1)
        left.annotate(statistic, (QUANTITIES * i + 4.5, -0.6), ha="center", va="bottom", annotation_clip=False)
    left.set_title(f"Which {k} of 30 measurements each method chose", pad=22)
    for row, r in enumerate(shown):
        jitter = row + 0.12 + 0.2 * np.random.default_rng(0).random(len(r.accuracy))
        right.plot(100 * r.accuracy, jitter, ".", color="0.75", markersize=5)
        right.errorbar(100 * r.accuracy.mean(), row, xerr=100 * r.accuracy.std(ddof=1), fmt="o", color="C0", capsize=4)
    right.axvline(ceiling := 100 * everything.accuracy.mean(), color="C3", linestyle="--", linewidth=1)
    right.annotate("all 30", (ceiling, -0.6), ha="center", va="bottom", color="C3", annotation_clip=False)
    right.set_title(f"Test accuracy with these {k} alone, %", pad=22)
    right.set_xlabel("mean, standard deviation, each split")
    figure.savefig(output, dpi=130)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    # The rule allows one measurement of each quantity.
    kind = command_line.whole(1, QUANTITIES)
    parser.add_argument("--k", type=kind, default=5, help="how many measurements to choose, 1 to 10 (default 5)")
    parser.add_argument(
        "--seed", type=command_line.seed, default=0, help="of the splits and of the Gumbel noise (default 0)"
    )
    parser.add_argument("--quick", action="store_true", help="a tiny run that shows nothing but that it runs")
    command_line.add_output(parser, Path(__file__).parent / "output" / "which_measurements.png")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the tensors are small
    start = time.perf_counter()
    splits, steps = (2, 5) if args.quick else (20, 400)
    data = load(splits, args.seed)
    results = [choose_univariate(data, args.k), choose_by_lasso(data, args.k)]

    for name, regularizer in RELAXATIONS.items():
        soft = sst.SoftArgmax(polytopes.KSubset(30, args.k), regularizer)
        results.append(learn(name, soft, data, steps, samples=8, seed=args.seed))

    # Nobody wrote a fast algorithm for this one: the interior-point path answers.
    own = sst.SoftArgmax(one_per_quantity(args.k), sst.Euclidean())
    results.append(learn("own rule, Euclidean", own, data, steps, samples=8, seed=args.seed))
    results.append(judge("all 30 measurements", np.ones((splits, 30), dtype=bool), data))

    console = Console(width=max(Console().width, 110))
    show_tables(console, results)
    plot(results, args.k, args.output)
    console.print(findings(results, args.k), highlight=False, soft_wrap=True)
    console.print(f"\n{race(own, splits * 8)}", highlight=False, soft_wrap=True)
    print(f"\nPicture: {args.output}\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
