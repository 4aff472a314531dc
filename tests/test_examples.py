"""Every example runs; small presets."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize("script", ["which_measurements.py"])
def test_example(script, tmp_path):
    for package in ("matplotlib", "rich", "sklearn", "tqdm"):
        pytest.importorskip(package)
    picture = tmp_path / "picture.png"
    command = [sys.executable, str(ROOT / "examples" / script), "--quick", "--output", str(picture)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "own rule" in done.stdout
    assert picture.stat().st_size > 10_000
