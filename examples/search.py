"""The paper's protocol: random search of settings, the trial that is best in validation counts, by its test metrics.

Every row of a table is given the same candidates; each trial has its own seed. Optuna's storage says which are done,
so that several processes may share a search, and a stopped one goes on. Standard errors are bootstrapped over the
selection.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from examples import runs
from examples.settings import Settings

if TYPE_CHECKING:
    import optuna

_S = TypeVar("_S", bound=Settings)


def candidates(first: _S, ranges: Mapping[str, Any], count: int) -> list[_S]:
    """Settings of the trials: as given, then random ones, with seeds from the given one on.

    Args:
        ranges: by setting, (low, high) for log-uniform values of two digits, or a list of choices.
    """
    found, generator = [first], torch.Generator().manual_seed(0)
    for number in range(1, count):
        shares = torch.rand(len(ranges), generator=generator, dtype=torch.float64).tolist()
        tried = {name: _value(values, share) for (name, values), share in zip(ranges.items(), shares, strict=True)}
        found.append(replace(first, seed=first.seed + number, **tried))
    return found


def _value(values: Any, share: float) -> Any:
    if isinstance(values, list):
        return values[int(share * len(values))]
    low, high = (math.log(end) for end in values)
    return float(f"{math.exp(low + share * (high - low)):.2g}")


def search(
    train: Callable[[_S, Path], dict[str, Any]],
    trials: list[_S],
    root: Path,
    storage: str | None = None,
    larger: bool = True,
) -> list[Path]:
    """Folders of the trials, ``root/0``, ``root/1``, ..., trained where they are not finished.

    Args:
        train: settings and a folder to what its ``result.json`` will hold.
        storage: Optuna's, by which processes share the trials; default: a file in ``root``. Under torchrun there
            is none: all processes train each trial together.

    Raises:
        RunError: a finished trial is of other settings, the storage cannot be opened, or trials are left to others.
    """
    folders = [root / str(number) for number in range(len(trials))]
    for folder, settings in zip(folders, trials, strict=True):
        runs.is_finished(settings, folder)
    with runs.resumable(lambda: f"{root} holds {_count(folders)} of {len(trials)} trials: the same command goes on."):
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            for settings, folder in zip(trials, folders, strict=True):
                train(settings, folder)
        elif _count(folders) < len(trials):
            _by_optuna(train, trials, folders, storage or f"sqlite:///{root / 'search.db'}", larger)
    if _count(folders) < len(trials):
        rest = ", ".join(folder.name for folder in folders if not (folder / "result.json").exists())
        words = "if none runs, delete the storage (search.db); finished trials are kept"
        raise runs.RunError(f"trials {rest} in {root} were begun by other processes: {words}.")
    return folders


def _count(folders: list[Path]) -> int:
    return sum((folder / "result.json").exists() for folder in folders)


def _by_optuna(train: Callable, trials: list[Any], folders: list[Path], storage: str, larger: bool) -> None:
    """What no other process has begun. A killed one's trial counts as begun."""
    import optuna

    state = optuna.trial.TrialState
    study = _open(storage, folders[0].parent.name, larger)
    known = study.get_trials(states=(state.WAITING, state.RUNNING, state.COMPLETE))  # not those that Ctrl-C ended
    taken = {trial.system_attrs.get("fixed_params", {}).get("trial") for trial in known}
    for number in set(range(len(trials))) - taken:
        study.enqueue_trial({"trial": number})

    def objective(trial: optuna.Trial) -> float:
        number = trial.suggest_int("trial", 0, 10**6)
        for name in ("learning_rate", "temperature", "seed"):
            trial.set_user_attr(name, getattr(trials[number], name, None))
        result = train(trials[number], folders[number])
        if not any(t.state == state.WAITING for t in study.get_trials(deepcopy=False)):
            study.stop()
        return next(value for name, value in result.items() if name.startswith("valid "))

    if any(t.state == state.WAITING for t in study.get_trials(deepcopy=False)):
        study.optimize(objective)


def _open(storage: str, name: str, larger: bool) -> optuna.Study:
    """The Optuna study of this name, new or as it stands."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what ends a trial is raised, too
    try:
        direction = "maximize" if larger else "minimize"
        return optuna.create_study(study_name=name, storage=storage, load_if_exists=True, direction=direction)
    except Exception as error:  # SQLAlchemy's, or of a missing database driver
        reason = str(error).splitlines()[0]
        raise runs.RunError(f"--storage {storage} cannot be opened ({reason}): try sqlite:///search.db.") from None


def select(
    folders: list[Path], objective: str, larger: bool = True, draws: int = 1000
) -> tuple[Path, dict[str, tuple[float, float]]]:
    """The trial that validation selects; its test metrics with their standard errors, bootstrapped over the selection.

    Args:
        objective: of ``result.json``, by which is selected; test metrics are what stands after it.
    """
    rows = [runs.read_json(folder / "result.json") for folder in folders]
    names = list(rows[0])
    metrics = [n for n in names[names.index(objective) + 1 :] if isinstance(rows[0][n], int | float)]
    valid = torch.tensor([row[objective] for row in rows], dtype=torch.float64) * (1 if larger else -1)
    test = torch.tensor([[row[name] for name in metrics] for row in rows], dtype=torch.float64)
    again = torch.randint(len(folders), (draws, len(folders)), generator=torch.Generator().manual_seed(0))
    selected = again.gather(1, valid[again].argmax(1, keepdim=True))[:, 0]
    best, errors = int(valid.argmax()), test[selected].std(0)
    return folders[best], {m: (float(test[best, i]), float(errors[i])) for i, m in enumerate(metrics)}
