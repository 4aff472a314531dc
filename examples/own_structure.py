"""Three sets that the library does not have, each declared by its hull, certified, and trained with.

    team        5 roles to fill by different people who can play them: bases of a transversal matroid
    reviewers   two reviewers a paper, each reviewer up to a limit: b-matchings of a bipartite graph
    schedule    jobs that do not overlap: stable sets of an interval graph, a perfect graph, by clique inequalities

The task is the same for each: learn from an expert's choices. Every option has a few features; the expert scores them
by hidden weights, with some noise, and takes the best allowed choice. We see features and choices, and learn weights by
gradient descent through the relaxed choice:  minimise |soft(features @ weights) - choice|^2.

The baseline is a logistic regression that predicts, option by option, whether the expert takes it, and then decides by
the same hard argmax. It cannot know that an option was left out because another one stood in its way: the expert likes
long jobs, but a long job blocks many others and is seldom taken. That is what declaring the set is for.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root, wherever this is run from
from examples import command_line  # first: Ctrl-C ends quietly from here on

# isort: split
import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import cvxpy as cp
import matplotlib
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import sst_cvx as sst

NOISE = 0.3  # standard deviation of the expert's noise, beside scores of standard deviation 2 or so
TEST = 1000  # held-out decisions


@dataclass(frozen=True)
class Problem:
    """A declared set, a relaxation, and what the expert is paid for."""

    structure: sst.Structure
    regularizer: sst.Regularizer
    trait: np.ndarray  # of each option, the same in all decisions
    appeal: float  # the expert's weight of the trait; the other features are drawn anew for each decision


def team(rng: np.random.Generator) -> Problem:
    """x_i = 1: person i is in the team. Auxiliary y: who plays which role, at most one each.

    Bipartite matchings have an integral hull, and x is its linear image: these are the bases of the matroid.
    The trait is scarcity, the share of a role's candidates that a person is, mean over their roles: the scarce ask for
    more, and are taken all the same where nobody else can do it.
    """
    people, roles = 16, 5
    able = rng.random((people, roles)) < 0.1
    able[np.arange(people), rng.choice(roles, size=people, p=[0.04, 0.08, 0.18, 0.3, 0.4])] = True
    able[np.arange(roles), np.arange(roles)] = True  # so that some team exists
    scarcity = (able / able.sum(0)).sum(1) / able.sum(1)
    x, y = cp.Variable(people), cp.Variable((people, roles))
    hull = [y >= 0, y[~able] == 0, cp.sum(y, axis=0) == 1, cp.sum(y, axis=1) == x, x <= 1]
    return Problem(sst.Structure(x, hull), sst.Euclidean(), _standard(scarcity), appeal=-1.0)


def reviewers(rng: np.random.Generator) -> Problem:
    """x_e = 1: the e-th pair of a paper and a reviewer is used. Degrees of a bipartite graph: totally unimodular.

    The trait is the reviewer's experience: the experienced are wanted, and take only one paper.
    """
    papers, most = 6, np.array([1, 1, 1, 3, 4, 4])
    pairs = np.argwhere(rng.random((papers, len(most))) < 0.85)  # the others have a conflict of interest
    paper, reviewer = (np.equal.outer(np.arange(len(most)), ends).astype(float) for ends in pairs.T)
    x = cp.Variable(len(pairs))
    hull = [x >= 0, x <= 1, paper @ x == 2, reviewer @ x <= most]
    return Problem(sst.Structure(x, hull), sst.CategoricalEntropy(), _standard(most[pairs[:, 1]] == 1), appeal=1.0)


def schedule(rng: np.random.Generator) -> Problem:
    """x_i = 1: job i is done. No two at once: at most one of those that are running when a job begins.

    Every clique of an interval graph shares such a moment, and in a perfect graph the cliques suffice (Chvatal 1975).
    The trait is the length of a job: the longer pay more.
    """
    jobs = 16
    begin, length = rng.uniform(0, 10, jobs), rng.uniform(0.5, 5, jobs)
    running = (begin <= begin[:, None]) & (begin[:, None] < begin + length)  # (moment, job)
    x = cp.Variable(jobs)
    return Problem(sst.Structure(x, [x >= 0, running @ x <= 1]), sst.BinaryEntropy(), _standard(length), appeal=1.0)


@dataclass(frozen=True)
class Outcome:
    """Of one set: by logistic regression, through the set, and by the expert's weights."""

    agreement: tuple[float, float, float]
    worth: tuple[float, float, float]  # of the trait, relative to the other features


JUDGED = ("logistic regression, same rule", "through the set", "the expert's own weights")
PROBLEMS: dict[str, Callable[[np.random.Generator], Problem]] = {
    "team": team,
    "reviewers": reviewers,
    "schedule": schedule,
}


def _standard(trait: np.ndarray) -> np.ndarray:
    return (trait - trait.mean()) / trait.std()


@dataclass(frozen=True)
class Decisions:
    """Features ``(count, options, 5)``, the last of them the trait, and choices ``(count, options)``."""

    features: torch.Tensor
    choices: torch.Tensor


def watch(problem: Problem, weights: torch.Tensor, count: int, generator: torch.Generator) -> Decisions:
    """The expert's decisions in ``count`` fresh situations."""
    (options,) = problem.structure.event_shape
    fresh = torch.randn(count, options, len(weights) - 1, generator=generator)
    trait = torch.as_tensor(problem.trait, dtype=fresh.dtype).expand(count, options)
    features = torch.cat([fresh, trait[..., None]], -1)
    scores = features @ weights + NOISE * torch.randn(count, options, generator=generator)
    return Decisions(features, problem.structure.argmax(scores))


def learn(name: str, problem: Problem, seen: Decisions, steps: int) -> tuple[torch.Tensor, str]:
    """Weights by gradient descent through the relaxed choice; and which path answered."""
    soft = sst.SoftArgmax(problem.structure, problem.regularizer)
    weights = torch.zeros(seen.features.shape[-1], requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.1)
    for _ in tqdm(range(steps), desc=f"{name:<10}", mininterval=0.5, ncols=90, disable=None):  # None: on a terminal
        loss = (soft(seen.features @ weights) - seen.choices).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weights.detach(), soft.path


def learn_by_option(seen: Decisions) -> torch.Tensor:
    """Weights of a logistic regression that looks at each option alone. Its intercept does not change who is best."""
    x, y = seen.features.flatten(0, 1).numpy(), seen.choices.flatten().round().numpy()
    return torch.as_tensor(LogisticRegression().fit(x, y).coef_[0], dtype=torch.float32)


def agreement(problem: Problem, weights: torch.Tensor, held_out: Decisions) -> float:
    """Jaccard index, in %, of our hard choices and the expert's, mean over held-out decisions."""
    ours, theirs = problem.structure.argmax(held_out.features @ weights) > 0.5, held_out.choices > 0.5
    both, either = (ours & theirs).sum(-1), (ours | theirs).sum(-1)
    return 100 * float((both / either.clamp(min=1)).mean())


def plot(outcomes: dict[str, Outcome], output: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    places = np.arange(len(outcomes))
    for i, (name, colour) in enumerate(zip(JUDGED, ("0.75", "C0", "0.4"), strict=True)):
        for axis, values in (
            (left, [o.agreement[i] for o in outcomes.values()]),
            (right, [o.worth[i] for o in outcomes.values()]),
        ):
            bars = axis.bar(places + 0.27 * (i - 1), values, 0.25, color=colour, label=name)
            axis.bar_label(bars, fmt="%.0f" if axis is left else "%+.2f", fontsize=8, padding=2)
    left.set(ylim=(50, 100), title="Agreement with the expert in new decisions, %")
    right.set(title="What each takes the trait to be worth (expert: +1 or -1)")
    right.margins(y=0.12)
    right.axhline(0, color="0.5", lw=0.8)
    for axis in (left, right):
        axis.set_xticks(places, list(outcomes))
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(output, dpi=130)


def findings(outcomes: dict[str, Outcome], decisions: int) -> str:
    """What was learned, in words."""
    gains = [o.agreement[1] - o.agreement[0] for o in outcomes.values()]
    short = [o.agreement[2] - o.agreement[1] for o in outcomes.values()]
    wrong = [[name for name, o in outcomes.items() if o.worth[i] * o.worth[2] < 0] for i in (0, 1)]
    return "\n".join(
        [
            f"Both learned from {decisions} decisions, and both decide by the same rule: the hard argmax over the set.",
            f"What differs is whether the rule was known in training. Through the set: {min(gains):+.0f} to "
            f"{max(gains):+.0f} points of agreement, and within {max(short):.0f} of the expert's own weights.",
            f"Wrong sign of the trait: logistic regression in {_sets(wrong[0])}; through the set in {_sets(wrong[1])}.",
            "Option by option, one that is crowded out looks unwanted, and one without rivals wanted.",
        ]
    )


def _sets(names: list[str]) -> str:
    return ", ".join(names) if names else "none"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seed", type=command_line.seed, default=0, help="of the sets, the features and the expert (default 0)"
    )
    parser.add_argument(
        "--decisions", type=command_line.whole(1, 100_000), default=100, help="to learn from (default 100)"
    )
    parser.add_argument("--quick", action="store_true", help="certify with the relaxation in use alone, fewer steps")
    command_line.add_output(parser, Path(__file__).parent / "output" / "own_structure.png")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the tensors are small
    start = time.perf_counter()
    console = Console(width=max(Console().width, 110))
    table = Table("set", "certified", "logistic", "through the set", "expert's weights", "answered by")
    traits = Table("set", "logistic", "through the set", "expert")
    outcomes: dict[str, Outcome] = {}

    for number, (name, declare) in enumerate(PROBLEMS.items()):
        problem = declare(np.random.default_rng([args.seed, number]))
        print(f"{name}: certifying {problem.structure}", flush=True)
        report = sst.check(problem.structure, [problem.regularizer] if args.quick else None, verbose=False)
        report.raise_if_failed()

        generator = torch.Generator().manual_seed(args.seed)
        hidden = torch.tensor([1.0, -1.0, 1.0, -1.0, problem.appeal])
        seen, held_out = (watch(problem, hidden, count, generator) for count in (args.decisions, TEST))
        by_option = learn_by_option(seen)
        ours, path = learn(name, problem, seen, steps=50 if args.quick else 150)
        all_weights = (by_option, ours, hidden)
        # Only directions matter to the argmax: weights relative to the size of the first four.
        outcomes[name] = outcome = Outcome(
            tuple(agreement(problem, w, held_out) for w in all_weights),
            tuple(float(w[-1] / w[:-1].abs().mean()) for w in all_weights),
        )
        table.add_row(name, f"{len(report.results)} checks", *(f"{a:.1f}" for a in outcome.agreement), path)
        traits.add_row(name, *(f"{w:+.2f}" for w in outcome.worth))

    console.print(f"\nAgreement with the expert's choices in {TEST} held-out decisions (mean Jaccard index, %)", table)
    console.print("What each takes the trait to be worth, relative to the other features", traits)
    plot(outcomes, args.output)
    console.print(findings(outcomes, args.decisions), highlight=False, soft_wrap=True)
    print(f"\nPicture: {args.output}\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
