"""Many runs for a table: what is missing is trained, for as long as allowed; means over seeds as Markdown."""

from __future__ import annotations

import math
import statistics
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from examples import command_line, runs, settings
from examples.settings import Settings
from examples.training import Run

BEGIN, END = "<!-- figures: written by table.py -->", "<!-- end of figures -->"
Results = dict[str, list[dict[str, Any]]]  # by row, of every seed


def train_missing(cls: type[Run], root: Path, wanted: Mapping[str, Settings], minutes: float) -> None:
    """Train runs without a result, in the given order, until the time is up; a run that has begun is ended.

    Args:
        wanted: settings by the names of their folders in ``root``.

    Raises:
        RunError: a result of other settings is there.
    """
    end, missing = time.monotonic() + 60 * minutes, {}
    for name, chosen in wanted.items():
        if not runs.is_finished(chosen, root / name):
            missing[name] = chosen
    done = len(wanted) - len(missing)
    with runs.resumable(lambda: f"{root} holds {done} of {len(wanted)} runs: the same command goes on."):
        for name, chosen in tqdm(missing.items(), desc="runs", disable=None):
            if time.monotonic() > end:
                break
            tqdm.write(name)
            cls(chosen, root / name).go()
            done += 1


def results(root: Path, wanted: Iterable[str]) -> Results:
    """What is there of runs that are called "row-seed", by row."""
    found: Results = defaultdict(list)
    for name in wanted:
        file = root / name / "result.json"
        if file.exists():
            found[name.rsplit("-", 1)[0]].append(runs.read_json(file))
    return found


# -- Markdown -----------------------------------------------------------------------------------------------------


def cell(values: Sequence[float], digits: int = 1) -> str:
    """Mean and standard deviation, the latter where there are several."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def place(file: Path) -> tuple[str, str]:
    """What stands before and after the place for tables.

    Raises:
        ValueError: the file has no such place.
        OSError: there is no such file.
    """
    before, begin, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{file} has no place for the tables: a line {BEGIN!r} and one {END!r}.")
    return before + begin, end + after


def insert(text: str, file: Path) -> None:
    """Put tables in the place that a file marks; errors as ``place``."""
    before, after = place(file)
    file.write_text(f"{before}\n\n{text}\n\n{after}", encoding="utf-8")


# -- the command line ---------------------------------------------------------------------------------------------


def main(
    cls: type[Run],
    words: str | None,
    rows: Mapping[str, Mapping[str, Any]],
    markdown: Callable[[Results], str],
    folder: str,
    arguments: list[str] | None = None,
) -> None:
    """Train all rows by all seeds, a seed of every row before the next one, and print their tables.

    Args:
        words: for --help.
        rows: settings by name, the most wanted first.
        markdown: the tables.
        folder: where the runs are, by default.
    """
    parser = ArgumentParser(description=words, formatter_class=RawDescriptionHelpFormatter)
    settings.add_options(parser, cls.settings_type, cls.presets, without=("seed",))
    parser.add_argument(
        "--folder", type=command_line.folder, default=folder, help="default: %(default)s; goes on there"
    )
    parser.add_argument("--minutes", type=command_line.real(least=0), default=math.inf, help="begin no run after these")
    parser.add_argument("--seeds", type=command_line.seed, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=list(rows), default=list(rows))
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables where this file marks their place")
    options = parser.parse_args(arguments)
    base = settings.chosen(parser, options, cls.presets)
    wanted = {
        f"{row}-{seed}": replace(base, seed=seed, **rows[row])
        for seed in dict.fromkeys(options.seeds)
        for row in dict.fromkeys(options.rows)
    }
    try:
        for one in wanted.values():
            cls.check(one, "cpu")
        if options.write:
            place(options.write)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    train_missing(cls, options.folder, wanted, options.minutes)
    text = markdown(results(options.folder, wanted))
    (options.folder / "table.md").write_text(text + "\n", encoding="utf-8")
    if options.write:
        insert(text, options.write)
    print(text)
