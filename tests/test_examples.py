"""Every example runs, refuses options out of range before any work, and ends quietly by Ctrl-C; small presets."""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from argparse import ArgumentTypeError
from dataclasses import dataclass

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("rich")
pytest.importorskip("sklearn")
pytest.importorskip("tqdm")

from examples import command_line, runs

ROOT = pathlib.Path(__file__).parent.parent
FILES = ["own_structure", "which_measurements", "estimator_bias_variance"]
MODULES = [f"graph_layout.{name}" for name in ("train", "table", "plot", "timing")]
MODULES += [f"learning_to_explain.{name}" for name in ("train", "table", "report", "timing", "plot")]
MODULES += [f"{name}.{script}" for name in ("parsing", "listops") for script in ("train", "table", "plot")]
MODULES += ["listops.parents"]


def command(script: str, *options: str) -> list[str]:
    if script in FILES:
        return [sys.executable, str(ROOT / "examples" / f"{script}.py"), *options]
    return [sys.executable, "-m", f"examples.{script}", *options]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}


def run(script: str, *options: str, cwd: pathlib.Path = ROOT) -> str:
    """What an example prints."""
    done = subprocess.run(
        command(script, "--quick", *options),
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(),
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_which_measurements(tmp_path):
    picture = tmp_path / "[5] of 30" / "picture.png"  # brackets are no markup
    printed = run("which_measurements", "--output", str(picture))
    assert "own rule" in printed
    assert f"Picture: {picture}" in printed
    assert picture.stat().st_size > 10_000


@pytest.mark.slow
def test_own_structure(tmp_path):
    """Every set is certified, and knowing it beats a per-option baseline by 5 points on held-out decisions."""
    picture = tmp_path / "picture.png"
    printed = run("own_structure", "--output", str(picture), cwd=tmp_path)
    rows = re.findall(r"(\w+) +\D (\d+) checks \D +([\d.]+) +\D +([\d.]+) ", printed)
    assert "points of agreement" in printed
    assert picture.stat().st_size > 10_000
    assert [name for name, *_ in rows] == ["team", "reviewers", "schedule"]
    for _, checks, baseline, ours in rows:
        assert int(checks) >= 20
        assert float(ours) > float(baseline) + 5


@pytest.mark.slow
def test_estimator_bias_variance(tmp_path):
    """At these temperatures relaxations are the least noisy, and the score function with a baseline unbiased."""
    picture = tmp_path / "picture.png"
    table = run("estimator_bias_variance", "--out", str(picture))
    rows = {
        (s, e, t): float(d) for s, e, t, d in re.findall(r"\| (.+?) \| (.+?) \| (\S*) ?\| .+? \| ([\d.]+) \|", table)
    }
    for name in ("2 of 5 items", "trees on 4 vertices"):
        assert rows[name, "relaxed", "1"] < 0.5 * rows[name, "score function, leave one out", ""]
    assert picture.stat().st_size > 10_000


# -- options ------------------------------------------------------------------------------------------------------


WRONG_SEEDS = ["-1", str(2**32), "nan", "1.5"]
WRONG_RATES = ["0", "-1", "nan", "inf", "fast"]
WRONG = [
    *[("own_structure", "--seed", v) for v in WRONG_SEEDS],
    *[("own_structure", "--decisions", v) for v in ("0", "-3", "nan", "1000000000")],
    *[("estimator_bias_variance", "--repeats", v) for v in ("0", "1", "-5", "1e3", "1000000000")],
    *[("which_measurements", "--seed", v) for v in WRONG_SEEDS],
    *[("which_measurements", "--k", v) for v in ("0", "11", "-1")],
    *[("graph_layout.train", "--seed", v) for v in WRONG_SEEDS],
    *[("graph_layout.train", "--steps", v) for v in ("0", "-1", "nan")],
    *[("graph_layout.train", "--roll-out", v) for v in ("-1", "10")],
    *[("graph_layout.train", o, v) for o in ("--learning-rate", "--temperature") for v in WRONG_RATES],
    *[("graph_layout.train", "--device", v) for v in ("gpu", "meta", "cuda:99", "")],
    *[("graph_layout.train", "--trials", v) for v in ("-1", "nan", "1000000000")],
    *[("graph_layout.table", "--seeds", v) for v in ("-1", "nan")],
    *[("learning_to_explain.train", "--seed", v) for v in WRONG_SEEDS],
    *[("learning_to_explain.train", o, v) for o in ("--learning-rate", "--temperature") for v in WRONG_RATES],
    *[("learning_to_explain.train", "--dropout", v) for v in ("-0.1", "1", "nan")],
    *[("learning_to_explain.train", "--pair-start", v) for v in ("nan", "inf")],
    *[
        ("learning_to_explain.train", o, v)
        for o in ("--dimension", "--hidden", "--batch", "--steps", "--validate-every", "--k", "--max-words")
        for v in ("0", "-1", "nan", "" if o in ("--steps", "--validate-every") else "1000000000")
    ],
    *[("learning_to_explain.train", o, v) for o in ("--freeze", "--decorrelate") for v in ("2", "-1")],
    *[("learning_to_explain.train", o, v) for o in ("--start-temperature", "--warm") for v in ("-1", "nan")],
    *[("learning_to_explain.train", "--trials", v) for v in ("-1", "nan")],
    *[("learning_to_explain.table", "--minutes", v) for v in ("-1", "nan")],
    *[("learning_to_explain.table", "--seeds", v) for v in ("-1", "nan")],
    *[("learning_to_explain.table", "--k", v) for v in ("0", "21", "nan")],
    *[("learning_to_explain.timing", "--measured", v) for v in ("0", "nan")],
    *[("learning_to_explain.report", "--count", v) for v in ("0", "-1", "nan")],
    *[("parsing.train", "--seed", v) for v in WRONG_SEEDS],
    *[("parsing.train", "--learning-rate", v) for v in WRONG_RATES],
    *[("parsing.train", "--epochs", v) for v in ("0", "-1", "nan")],
    *[("parsing.train", "--dropout", v) for v in ("-0.1", "1", "nan")],
    *[("parsing.table", "--seeds", v) for v in ("-1", "nan")],
    *[("parsing.table", "--minutes", v) for v in ("-1", "nan")],
    *[("listops.train", "--seed", v) for v in WRONG_SEEDS],
    *[("listops.train", o, v) for o in ("--learning-rate", "--temperature") for v in WRONG_RATES],
    *[("listops.train", o, v) for o in ("--epochs", "--rounds", "--max-depth") for v in ("0", "-1", "nan")],
    *[("listops.train", "--edges", v) for v in ("ring", "")],
    *[("listops.table", "--seeds", v) for v in ("-1", "nan")],
    *[("listops.table", "--minutes", v) for v in ("-1", "nan")],
    *[("listops.plot", "--expression", v) for v in ("-1", "nan")],
]


@pytest.fixture
def refused(monkeypatch, tmp_path, capsys):
    """What a script says of options that it refuses, before it works."""
    monkeypatch.chdir(tmp_path)

    def words(script: str, *options: str) -> str:
        with pytest.raises(SystemExit) as stop:
            importlib.import_module(f"examples.{script}").main(list(options))
        assert stop.value.code == 2
        printed = capsys.readouterr()
        assert not printed.out
        return printed.err.splitlines()[-1]

    return words


@pytest.mark.parametrize(("script", "option", "value"), WRONG, ids=lambda v: v)
def test_options_out_of_range_are_refused(script, option, value, refused, tmp_path):
    needed = {
        "graph_layout.train": ["--folder", str(tmp_path / "run")],
        "learning_to_explain.train": ["--folder", str(tmp_path / "run")],
        "learning_to_explain.report": [str(tmp_path)],
        "parsing.train": ["--preset", "tiny", "--folder", str(tmp_path / "run")],
        "listops.train": ["--preset", "tiny", "--folder", str(tmp_path / "run")],
        "listops.plot": ["run"],
    }.get(script, [])
    said = refused(script, *needed, option, value)
    assert option in said or option.removeprefix("--").replace("-", "_") in said
    assert value in said


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("which_measurements", ["--output"]),
        ("own_structure", ["--output"]),
        ("estimator_bias_variance", ["--out"]),
        ("graph_layout.plot", ["run", "--out"]),
        ("listops.plot", ["run", "--out"]),
    ],
)
def test_pictures_are_refused_before_the_work(script, options, refused, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for name, words in (
        ("x.foo", "must end in"),
        ("x", "must end in"),
        ("file/x.png", "cannot be written"),
        ("/proc/x.png", "cannot be written"),
        ("folder.png", "is a folder"),
    ):
        said = refused(script, *options, name)
        assert options[-1] in said
        assert words in said


@pytest.mark.parametrize(
    ("script", "option"),
    [
        ("graph_layout.train", "--folder"),
        ("graph_layout.table", "--folder"),
        ("learning_to_explain.train", "--folder"),
        ("learning_to_explain.table", "--folder"),
        ("parsing.train", "--folder"),
        ("listops.train", "--folder"),
        ("listops.table", "--folder"),
        ("parsing.table", "--folder"),
    ],
)
def test_folders_are_refused_before_the_work(script, option, refused, tmp_path):
    (tmp_path / "file").touch()
    for name in ("file", "file/x", "/proc/x"):
        said = refused(script, option, name)
        assert option in said
        assert "cannot be written" in said


def test_missing_and_foreign_data_is_told(refused, tmp_path):
    (tmp_path / "druglib.tsv").write_text("a\tb\n1\t2\n")
    (tmp_path / "reviews.jsonl").write_text("no json\n")
    (tmp_path / "sections.jsonl").write_text("{}\n")
    for script in ("learning_to_explain.train", "learning_to_explain.table"):

        def told(*options: str, script: str = script) -> str:
            return refused(script, "--folder", str(tmp_path / "run"), *options)

        for source in ("druglib", "snippets", "beeradvocate"):
            assert "README" in told("--preset", source, "--path", "/nowhere")
        assert "urlDrugName" in told("--preset", "druglib", "--path", str(tmp_path / "druglib.tsv"))
        assert "not in the format of snippets" in told("--preset", "snippets", "--path", str(tmp_path / "druglib.tsv"))
        assert "reviews.jsonl" in told("--preset", "beeradvocate", "--path", str(tmp_path))
        (tmp_path / "vectors.txt").write_text("lamp 1 2\n\nmirror 1 2 3\n")
        assert "different sizes, [2, 3]" in told("--vectors", str(tmp_path / "vectors.txt"))
    assert "no run" in refused("learning_to_explain.report", "nowhere")
    assert "holds no run" in refused("graph_layout.plot", "nowhere")


def test_types_of_options(tmp_path):
    assert command_line.whole(1, 5)("5") == 5
    assert command_line.whole(1)("1000") == 1000
    assert command_line.real(above=0)("1e-300") == 1e-300
    assert command_line.real(least=0)("0") == 0
    assert command_line.picture(str(tmp_path / "new" / "X.PNG")) == tmp_path / "new" / "X.PNG"
    assert command_line.folder(str(tmp_path / "a" / "b")).is_dir()
    assert command_line.device("cpu") == "cpu"
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(ArgumentTypeError, match="from 1 to 5"):
        command_line.whole(1, 5)("6")
    with pytest.raises(ArgumentTypeError, match="above 0"):
        command_line.real(above=0)("0")


# -- Ctrl-C -------------------------------------------------------------------------------------------------------


INTERRUPTED_IMPORT = """
import sys, runpy
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {package!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
sys.argv = {argv!r}
runpy.{function}({name!r}, run_name="__main__", **{more!r})
"""


@pytest.mark.parametrize("script", [*FILES, *MODULES])
def test_ctrl_c_while_packages_are_imported(script):
    name = str(ROOT / "examples" / f"{script}.py") if script in FILES else f"examples.{script}"
    function, more = ("run_path", {}) if script in FILES else ("run_module", {"alter_sys": True})
    code = INTERRUPTED_IMPORT.format(package="torch", argv=[script], function=function, name=name, more=more)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.strip() == "Stopped."


def interrupted(script: str, *options: str, sign: str) -> str:
    """What a script says on Ctrl-C, sent once it has printed ``sign``."""
    with subprocess.Popen(
        command(script, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if sign in line:
                break
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    return said.strip()


@pytest.mark.slow
def test_ctrl_c_says_where_to_go_on(tmp_path):
    assert interrupted("own_structure", "--quick", sign="certifying") == "Stopped."
    options = ("--preset", "tiny", "--steps", "100000", "--folder", str(tmp_path / "run"))
    said = interrupted("graph_layout.train", *options, sign="step 20:")
    assert said == "Stopped. Nothing is saved yet."


# -- folders of runs ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    sizes: tuple[int, int] = (1, 2)
    rate: float = 0.5
    path: str = ""


def test_other_settings_are_refused_by_name(tmp_path):
    found = json.loads(json.dumps({"sizes": (1, 2), "rate": 0.5, "path": "elsewhere", "valid": 3.0}))
    runs.refuse_others(Settings(), found, tmp_path, "--folder", ignored=("path",))
    with pytest.raises(runs.RunError, match=r"other settings \(path: 'elsewhere' there, '' here\).*--folder"):
        runs.refuse_others(Settings(), found, tmp_path, "--folder")
    with pytest.raises(ValueError, match=r"rate: 0.5 there, 2.0 here"):
        runs.refuse_others(Settings(rate=2.0), found, tmp_path, "--folder", ignored=("path",))
    with pytest.raises(ValueError, match=r"rate: none there"):
        runs.refuse_others(Settings(), {"sizes": [1, 2], "path": ""}, tmp_path, "--folder")


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    file = tmp_path / "state.pt"
    runs.save({"step": 3}, file)
    assert runs.load(file) == {"step": 3}
    runs.write_json({"a": 1}, tmp_path / "a.json")
    assert runs.read_json(tmp_path / "a.json") == {"a": 1}

    def full(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(runs.os, "replace", full)
        with pytest.raises(OSError, match="space"):
            runs.save({"step": 4}, file)
    assert runs.load(file) == {"step": 3}
    assert {f.name for f in tmp_path.iterdir()} == {"state.pt", "a.json"}  # no leftovers
    for damaged, read in ((file, runs.load), (tmp_path / "a.json", runs.read_json)):
        damaged.write_bytes(damaged.read_bytes()[:-2])
        with pytest.raises(runs.RunError, match=f"{damaged.name} is damaged .* delete it"):
            read(damaged)
        damaged.unlink()
        with pytest.raises(runs.RunError, match=f"{damaged.name} is missing"):
            read(damaged)


def test_lines_of_metrics(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert runs.read_lines(file) == []
    runs.keep_lines(file)
    assert not file.exists()
    runs.append_lines(({"step": step} for step in (1, 2, 3, 4)), file)
    with file.open("a") as end:
        end.write('{"step"')  # a kill
    runs.keep_lines(file, lambda line: line["step"] <= 3)
    assert runs.read_lines(file) == [{"step": 1}, {"step": 2}, {"step": 3}]
    file.write_text('{"step": 1}\nnonsense\n')
    with pytest.raises(runs.RunError, match=r"metrics.jsonl is damaged \(line 2"):
        runs.read_lines(file)


def test_interrupted_says():
    with pytest.raises(KeyboardInterrupt, match="go on from 3"), runs.resumable(lambda: "go on from 3"):
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="other"), runs.resumable(lambda: "go on"):
        raise ValueError("other")
    assert runs.go_on(pathlib.Path("runs/a"), 0, 5) == "Nothing is saved yet."
    assert runs.go_on(pathlib.Path("runs/a"), 3, 5).startswith("runs/a holds step 3 of 5")
