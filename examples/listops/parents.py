"""What vertices hang on in the trees that were found: the share of every kind of parent, by depth, on the test part.

python -m examples.listops.parents runs/listops/arborescence-gumbel-0 runs/listops/arborescence-gaussian-0
"""

from __future__ import annotations

from examples import command_line  # noqa: F401  (first: Ctrl-C ends quietly from here on)

# isort: split
import argparse
from pathlib import Path

import torch

from examples.listops.data import MIN, Part
from examples.listops.train import Run
from examples.tables import lines

KINDS = ("its operator", "an operator around that", "another argument of it", "another operator", "another digit")


def kinds(part: Part) -> torch.Tensor:
    """``(len(KINDS), N, m, m)`` bool, parent by child: every pair of vertices is of one kind; closing brackets, where
    they are vertices, count as digits."""
    truth = part.true_edges
    around, further = truth, truth.float()
    for _ in range(int(part.depths.max())):
        further = truth.float() @ further
        around = around | (further > 0)
    siblings = (truth.mT.float() @ truth.float()) > 0
    operators = ((part.vertex_tokens >= MIN) & (part.vertex_tokens < MIN + 3))[:, :, None].expand_as(truth)
    first = [truth, around & ~truth, siblings & ~around]
    rest = ~(around | siblings)
    return torch.stack([*first, rest & operators, rest & ~operators])


@torch.no_grad()
def shares(run: Run, part: Part, count: int = 500) -> list[float]:
    """In %, of the first so many expressions along hard samples."""
    part = part.take(torch.arange(min(count, len(part))), part.tokens.shape[1], part.vertices.shape[1])
    x = run.model.sample(part, 1.0, hard=True, generator=torch.Generator().manual_seed(0))
    found = (x * kinds(part)).sum((1, 2, 3))
    return (100 * found / found.sum()).tolist()


def markdown(folders: list[Path]) -> str:
    rows = []
    for folder in folders:
        run = Run.best_of(folder)
        if run.settings.edges != "arborescence":
            raise ValueError(f"{folder} has no arborescences.")
        for depth in range(1, run.settings.max_depth + 1):
            rows.append([folder.name, str(depth), *(f"{v:.1f}" for v in shares(run, run.held.of_depth(depth)))])
    return lines(["parents, %", "depth", *KINDS], rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="runs with arborescences")
    try:
        print(markdown(parser.parse_args(arguments).folders))
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
