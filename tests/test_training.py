"""What all experiments share: settings and their options, runs that go on, searches, tables; on a line to be fitted."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("tqdm")

from examples import launch, runs, search, settings, tables, training
from examples.settings import Settings, setting


@dataclass(frozen=True)
class Line(Settings):
    steps: int = setting(6, least=1)
    batch: int = setting(8, 1, 100)
    slope: float = setting(2.0)
    kind: str = setting("plain", choices=("plain", "noisy"))
    path: str = setting("", elsewhere=True)
    learning_rate: float = settings.positive(0.1)
    validate_every: int = setting(2, least=1)


class Fit(training.Run):
    settings_type, presets = Line, {"small": Line(), "long": Line(steps=1000)}
    objective, larger, searched = "error", False, {"learning_rate": (1e-3, 1.0), "kind": ["plain", "noisy"]}
    save_every = 0.0

    @classmethod
    def check(cls, settings, device, **options):
        if settings.path == "nowhere":
            raise FileNotFoundError("nowhere: no data")

    def build(self):
        return torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))

    def advance(self):
        x = self.share(torch.randn(self.settings.batch, 1))
        return self.update((self.model(x) - self.settings.slope * x - torch.rand(len(x), 1)).square().mean())

    def validate(self, model):
        x = torch.linspace(-1, 1, 9)[:, None]
        with torch.no_grad():
            model.eval()
            error = float((model(x) - self.settings.slope * x - 0.5).square().mean())
            model.train()
        return {"error": error}

    test = validate


EVERYTHING = Line(decay="cosine", average=0.9, patience=100, seed=3)


# -- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("steps", 0, "steps must be at least 1, got 0"),
        ("batch", 101, "batch must be from 1 to 100, got 101"),
        ("learning_rate", 0.0, "learning_rate must be a finite number above 0"),
        ("learning_rate", math.nan, "learning_rate must be"),
        ("slope", math.inf, "slope must be finite"),
        ("kind", "other", "kind must be one of plain, noisy, got 'other'"),
        ("decay", "linear", "decay must be one of"),
        ("average", 1.0, "average must be from"),
        ("seed", -1, "seed must be from"),
    ],
)
def test_ranges_hold_in_python_and_on_the_command_line(name, value, words, capsys):
    with pytest.raises(ValueError, match=words):
        replace(Line(), **{name: value})
    parser = launch.parser(Fit, "words")
    with pytest.raises(SystemExit):
        parser.parse_args(["--folder", ".", f"--{name.replace('_', '-')}", str(value)])
    said = capsys.readouterr().err
    assert f"--{name.replace('_', '-')}" in said
    assert str(value) in said


def test_options_replace_those_of_the_preset(tmp_path):
    parser = launch.parser(Fit, "words")
    options = parser.parse_args(["--folder", str(tmp_path), "--preset", "long", "--slope", "-1.5", "--kind", "noisy"])
    assert settings.chosen(parser, options, Fit.presets) == Line(steps=1000, slope=-1.5, kind="noisy")
    for wrong in (["--steps", "1.5"], ["--steps", "many"]):
        with pytest.raises(SystemExit):
            parser.parse_args(["--folder", str(tmp_path), *wrong])


# -- runs ---------------------------------------------------------------------------------------------------------


def lines(folder: Path) -> list[dict]:
    return runs.read_lines(folder / "metrics.jsonl")


@pytest.mark.parametrize("chosen", [Line(), EVERYTHING, Line(patience=2, learning_rate=1e-9)])
def test_a_stopped_run_is_the_same_run(chosen, tmp_path, monkeypatch):
    whole = Fit(chosen, tmp_path / "whole").go(quiet=True)
    advance = Fit.advance

    def killed(self):
        if self.done == 3:
            raise KeyboardInterrupt
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "advance", killed)
        patch.setattr(Fit, "save_every", 1e9)
        run = Fit(chosen, tmp_path / "parts")
        next(steps := run.steps(quiet=True))
        run._save()
        with pytest.raises(KeyboardInterrupt, match=r"parts holds step 1 of 6: the same command goes on"):
            list(steps)
    parts = Fit(chosen, tmp_path / "parts").go(quiet=True)
    assert parts == whole
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    assert {f.name for f in (tmp_path / "parts").iterdir()} == {"best.pt", "metrics.jsonl", "result.json"}
    assert Fit(chosen, tmp_path / "parts").go() == whole  # once more: nothing to do
    best = Fit.best_of(tmp_path / "parts")
    assert best.settings == chosen
    assert best.validate(best.model)["error"] == pytest.approx(whole["valid error"], abs=1e-12)


def test_time_is_up_and_nothing_is_lost(tmp_path, capsys):
    options = ["--folder", str(tmp_path / "run")]
    assert launch.main(Fit, "words", [*options, "--minutes", "1e-9"]) == {}
    assert "Nothing is saved yet." in capsys.readouterr().out
    run = Fit(Line(), tmp_path / "run")
    next(run.steps())
    run._save()
    again = Fit(Line(), tmp_path / "run")
    assert again.done == 1
    assert launch.main(Fit, "words", options)["steps"] == 6


def test_decay_patience_and_average(tmp_path):
    run = Fit(replace(EVERYTHING, steps=4), tmp_path / "decay")
    rates = [run.optimizer.param_groups[0]["lr"] for _ in run.steps(quiet=True)]
    assert rates == pytest.approx([0.1, 0.1 * (1 + math.cos(math.pi / 4)) / 2, 0.05, 0.1 * (1 - math.sqrt(0.5)) / 2])
    assert run.evaluated is not run.model
    stopped = Fit(Line(patience=2, steps=50, learning_rate=1e-9), tmp_path / "patience").go(quiet=True)
    assert lines(tmp_path / "patience")[-1]["step"] == stopped["best step"] + 2 < 50

    first, kept = Fit(replace(EVERYTHING, steps=3), tmp_path / "average"), []
    for _ in first.steps(quiet=True):
        kept.append(first.model[0].weight.detach().clone())
    average = kept[0]
    for weight in kept[1:]:
        average = 0.9 * average + 0.1 * weight
    assert torch.allclose(Fit.best_of(tmp_path / "average").model[0].weight, average) or first.best_at < 3
    assert torch.allclose(first.evaluated[0].weight, average)


def test_other_runs_are_refused(tmp_path):
    run = Fit(Line(), tmp_path)
    next(run.steps(quiet=True))
    run._save()
    Fit(Line(path="elsewhere"), tmp_path)  # data may lie elsewhere
    with pytest.raises(runs.RunError, match=r"last.pt is of other settings \(slope: 2.0 there, 3.0 here\).*--folder"):
        Fit(Line(slope=3.0), tmp_path)
    Fit(Line(), tmp_path).go(quiet=True)
    with pytest.raises(runs.RunError, match=r"result.json is of other settings \(steps: 6 there, 8 here\)"):
        Fit(Line(steps=8), tmp_path)
    with pytest.raises(FileNotFoundError, match="train one first"):
        Fit.best_of(tmp_path / "nowhere")


def test_what_diverges_says_so_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    run = Fit(Line(), tmp_path)
    next(steps := run.steps(quiet=True))
    run._save()
    before = runs.load(tmp_path / "last.pt")["state"]
    monkeypatch.setattr(Fit, "advance", lambda self: self.update(self.model(torch.full((8, 1), math.nan)).mean()))
    with pytest.raises(runs.Diverged, match="smaller --learning-rate"):
        next(steps)
    monkeypatch.setattr(Fit, "advance", lambda self: torch.tensor(math.nan))  # seen at the next validation
    with pytest.raises(runs.Diverged):
        list(Fit(Line(), tmp_path).steps(quiet=True))
    assert runs.load(tmp_path / "last.pt")["state"] == before


def test_runs_side_by_side_are_those_alone(tmp_path, capsys):
    options = ["--folder", str(tmp_path / "both"), "--together", "2", "--quiet"]
    launch.main(Fit, "words", options)
    for seed in (0, 1):
        alone = Fit(Line(seed=seed), tmp_path / str(seed)).go(quiet=True)
        assert runs.read_json(tmp_path / "both" / f"seed-{seed}" / "result.json") == alone
    with pytest.raises(SystemExit):
        launch.main(Fit, "words", [*options, "--trials", "2"])
    with pytest.raises(SystemExit):
        launch.main(Fit, "words", ["--folder", str(tmp_path / "x"), "--path", "nowhere"])
    assert "nowhere: no data" in capsys.readouterr().err


PROCESSES = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import torch
from test_training import Fit, Line, launch
launch.main(Fit, "words", ["--folder", {folder!r}, "--quiet"])
"""


@pytest.mark.slow
def test_processes_average_their_gradients(tmp_path):
    """Two processes of equal weights, each with half of the batch: one set of files, and they improve."""
    script = tmp_path / "script.py"
    script.write_text(PROCESSES.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "run")))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script)]
    root = {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=os.environ | root)
    assert done.returncode == 0, done.stderr[-2000:]
    found = lines(tmp_path / "run")
    assert [line["step"] for line in found] == [2, 4, 6]
    assert found[-1]["loss"] < found[0]["loss"]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 6


# -- search and tables --------------------------------------------------------------------------------------------


def test_candidates_are_the_same_for_every_row():
    first = search.candidates(Line(seed=5), Fit.searched, 9)
    assert first[0] == Line(seed=5)
    assert [c.seed for c in first] == list(range(5, 14))
    assert all(1e-3 <= c.learning_rate <= 1.0 for c in first)
    assert {c.kind for c in first} == {"plain", "noisy"}
    other = search.candidates(Line(seed=5, slope=-1.0), Fit.searched, 12)
    assert [replace(c, slope=2.0) for c in other[:9]] == first


def test_a_search_goes_on_and_selects_by_validation(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    options, go, count = ["--folder", str(tmp_path / "search"), "--quiet", "--kind", "plain"], Fit.go, []

    def killed(self, *more):
        if len(count) == 2:
            raise KeyboardInterrupt
        count.append(self.settings.seed)
        return go(self, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "go", killed)
        with pytest.raises(KeyboardInterrupt, match="holds 2 of 4 trials"):
            launch.main(Fit, "words", [*options, "--trials", "4"])
    chosen = launch.main(Fit, "words", [*options, "--trials", "4"])
    rows = [runs.read_json(tmp_path / "search" / str(i) / "result.json") for i in range(4)]
    assert chosen == min(rows, key=lambda row: row["valid error"])
    assert {row["kind"] for row in rows} == {"plain"}  # given, so not searched
    assert len({row["learning_rate"] for row in rows}) == 4
    printed = capsys.readouterr().out
    assert f"selected {rows.index(chosen)}: error {chosen['error']:.4g} ± " in printed
    _, metrics = search.select([tmp_path / "search" / "0"], "valid error", larger=False)
    assert metrics == {"error": (rows[0]["error"], 0.0)}
    launch.main(Fit, "words", [*options, "--trials", "6"])  # two more
    (tmp_path / "search" / "5" / "result.json").unlink()
    with pytest.raises(runs.RunError, match=r"trials 5 in .* delete the storage"):  # as after a kill
        launch.main(Fit, "words", [*options, "--trials", "6"])
    (tmp_path / "search" / "search.db").unlink()
    launch.main(Fit, "words", [*options, "--trials", "6"])
    assert (tmp_path / "search" / "5" / "result.json").exists()
    with pytest.raises(runs.RunError, match="cannot be opened"):
        launch.main(Fit, "words", [*options, "--trials", "7", "--storage", "nothing://x"])


def test_tables_train_what_is_missing(tmp_path, capsys):
    rows = {"plain": {}, "steep": {"slope": 5.0}}
    target = tmp_path / "RESULTS.md"
    target.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")

    def markdown(found):
        return tables.lines(["row", "error"], ([k, tables.cell([r["error"] for r in v])] for k, v in found.items()))

    def table(*options):
        tables.main(Fit, "words", rows, markdown, str(tmp_path / "all"), list(options))
        return capsys.readouterr().out

    assert "plain" not in table("--minutes", "0")
    assert "| plain |" in table("--rows", "plain", "--seeds", "0", "1")
    assert not (tmp_path / "all" / "steep-0").exists()
    table("--write", str(target))
    text = target.read_text()
    assert text.startswith(f"before\n{tables.BEGIN}\n\n| row | error |\n| --- | --- |\n| plain |")
    assert text.endswith(f"{tables.END}\nafter\n")
    with pytest.raises(runs.RunError, match="slope"):
        table("--slope", "1")
    (tmp_path / "none.md").write_text("no place")
    with pytest.raises(SystemExit):
        table("--write", str(tmp_path / "none.md"))
