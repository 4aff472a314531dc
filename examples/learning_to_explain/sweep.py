"""Random search of learning rate and temperature by validation MSE, with Optuna; processes may share its storage."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from examples.learning_to_explain.train import Run, Settings
from examples.runs import RunError, resumable

LEARNING_RATES, TEMPERATURES = (1e-3, 1e-2), (0.1, 3.0)  # log-uniform
PAIR_STARTS = (0.0, 3.0)  # of the correlated relaxation


def sweep(tasks: Sequence[Settings], trials: int, storage: str, root: Path, quiet: bool = False) -> dict[str, float]:
    """The best settings found for runs that differ in their data alone, once the study has so many trials.

    The first trial is the settings as given. A trial's loss is the mean over the tasks of the validation MSE, each in
    shares of the ratings' variance.

    Args:
        tasks: settings, one for every set of data.
        trials: of the whole study, those in ``storage`` included.
        storage: Optuna's, e.g. "sqlite:///sweep.db"; several processes or machines may share it.
        root: trials are trained in ``root/sweep``.

    Raises:
        RunError: the storage cannot be opened.
    """
    import optuna

    first, state = tasks[0], optuna.trial.TrialState
    data = "+".join(f"{s.source}-{s.aspect}-{s.decorrelate}" for s in tasks)
    name = f"{data}-{first.network}-{first.relaxation}-k{first.k}-{first.steps}"
    study = _open(name, storage)

    def objective(trial: optuna.Trial) -> float:
        tried = {
            "learning_rate": trial.suggest_float("learning_rate", *LEARNING_RATES, log=True),
            "temperature": trial.suggest_float("temperature", *TEMPERATURES, log=True),
        }
        if first.relaxation == "correlated":
            tried["pair_start"] = trial.suggest_categorical("pair_start", PAIR_STARTS)
        total = 0.0
        for number, settings in enumerate(tasks):
            folder = root / "sweep" / f"{name}-{os.getpid()}-{trial.number}-{number}"
            run = Run(replace(settings, **tried), folder)
            total += run.go(quiet)["valid_mse"] / (100 * float(run.data.valid.ratings.var()))
        return total / len(tasks)

    given = {"learning_rate": first.learning_rate, "temperature": first.temperature}
    if first.relaxation == "correlated":
        given["pair_start"] = first.pair_start
    alive = study.get_trials(states=(state.WAITING, state.RUNNING, state.COMPLETE))  # not those that Ctrl-C ended
    if not any(trial.system_attrs.get("fixed_params") == given for trial in alive):
        study.enqueue_trial(given)

    def complete() -> int:
        return len(study.get_trials(states=(state.COMPLETE,)))

    if complete() < trials:
        enough = optuna.study.MaxTrialsCallback(trials, states=(state.COMPLETE,))
        with resumable(lambda: f"{storage} holds {complete()} of {trials} trials: the same command goes on."):
            study.optimize(objective, callbacks=[enough])
    return study.best_params


def _open(name: str, storage: str):
    """The Optuna study of this name, new or as it stands."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what ends a trial is raised, too
    sampler = optuna.samplers.RandomSampler()
    try:
        return optuna.create_study(study_name=name, storage=storage, load_if_exists=True, sampler=sampler)
    except Exception as error:  # SQLAlchemy's, or of a missing database driver
        reason = str(error).splitlines()[0]
        raise RunError(f"--storage {storage} cannot be opened ({reason}): try sqlite:///sweep.db.") from None
