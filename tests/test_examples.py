"""Every example runs; small presets."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def run(script: str, *options: str) -> str:
    """What an example prints."""
    for package in ("matplotlib", "rich", "sklearn", "tqdm"):
        pytest.importorskip(package)
    command = [sys.executable, str(ROOT / "examples" / script), "--quick", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_which_measurements(tmp_path):
    picture = tmp_path / "picture.png"
    assert "own rule" in run("which_measurements.py", "--output", str(picture))
    assert picture.stat().st_size > 10_000


def test_own_structure():
    """Every set is certified, and knowing it beats a per-option baseline by 5 points on held-out decisions."""
    rows = re.findall(r"(\w+) +\D (\d+) checks \D +([\d.]+) +\D +([\d.]+) ", run("own_structure.py"))
    assert [name for name, *_ in rows] == ["team", "reviewers", "schedule"]
    for _, checks, baseline, ours in rows:
        assert int(checks) >= 20
        assert float(ours) > float(baseline) + 5


def test_estimator_bias_variance(tmp_path):
    """At these temperatures relaxations are the least noisy, and the score function with a baseline unbiased."""
    picture = tmp_path / "picture.png"
    table = run("estimator_bias_variance.py", "--out", str(picture))
    rows = {
        (s, e, t): float(d) for s, e, t, d in re.findall(r"\| (.+?) \| (.+?) \| (\S*) ?\| .+? \| ([\d.]+) \|", table)
    }
    for name in ("2 of 5 items", "trees on 4 vertices"):
        assert rows[name, "relaxed", "1"] < 0.5 * rows[name, "score function, leave one out", ""]
    assert picture.stat().st_size > 10_000
