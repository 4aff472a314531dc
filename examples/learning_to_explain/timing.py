"""CPU time of a training step, and of its relaxation alone, forward and backward; medians.

python -m examples.learning_to_explain.timing --preset druglib --path druglib.tsv
"""

from __future__ import annotations

from examples import command_line

# isort: split
import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from examples import settings, tables
from examples.learning_to_explain import relaxations
from examples.learning_to_explain.train import PRESETS, Run, Settings


def row(s: Settings, steps: int) -> list[str]:
    """Of a table: the relaxation, milliseconds of a step and of the relaxation, the latter's share."""
    run = Run(s, Path(), resume=False)
    run.done = s.warm  # past the steps without a relaxation
    part = run.data.train
    rows = part.draw(s.batch)
    columns = part.width(rows)
    chooser = relaxations.make(s.relaxation, columns, s.k)
    utilities = torch.randn(s.batch, 2 * columns - 1 if chooser.pairs else columns, requires_grad=True)

    def alone() -> None:
        chooser.soft(utilities, part.lengths[rows], s.temperature).square().sum().backward()

    whole, share = (_median_ms(function, steps) for function in (run.advance, alone))
    return [s.relaxation, f"{whole:.0f}", f"{share:.1f}", f"{share / whole:.0%}"]


def _median_ms(function: Callable[[], object], steps: int) -> float:
    times = []
    for _ in range(steps + 2):
        start = time.process_time()
        function()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times[2:])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    settings.add_options(parser, Settings, PRESETS, without=("relaxation",))
    parser.add_argument("--measured", type=command_line.whole(1), default=40, help="steps (default %(default)s)")
    options = parser.parse_args(arguments)
    base = settings.chosen(parser, options, PRESETS)
    try:
        Run.check(base, "cpu")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    measured = [row(replace(base, relaxation=name), options.measured) for name in relaxations.NAMES]
    print(tables.lines(["relaxation", "step, ms", "relaxation, ms", "share"], measured))


if __name__ == "__main__":
    main()
