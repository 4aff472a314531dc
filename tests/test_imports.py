"""The contract of imports: kept, and broken by what it forbids."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINTER = Path(sys.executable).with_name("lint-imports")

PLANTED = {
    "the engine imports the library": ("sst_cvx/checks/report.py", "import polytopes"),
    "downstairs imports upstairs": ("sst_cvx/hull/linear.py", "from sst_cvx.structure import base"),
    "upstairs by a back door": ("sst_cvx/paths/base.py", "def late():\n    import sst_cvx.soft_argmax"),
    "types count as well": (
        "sst_cvx/structure/masks.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sst_cvx.structure.base import Structure",
    ),
    "a circle of files": ("sst_cvx/paths/layer/degenerate.py", "import sst_cvx.paths.layer.path"),
    "a kernel that knows a structure": ("polytopes/kernels/isotonic.py", "import sst_cvx.structure.base"),
}


@pytest.fixture
def copy(tmp_path):
    for name in ("sst_cvx", "polytopes"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run([LINTER, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=120)


def test_kept(copy):
    done = lint(copy)
    assert done.returncode == 0, done.stdout
    assert "4 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("what", PLANTED)
def test_broken(copy, what):
    file, line = PLANTED[what]
    path = copy / file
    path.write_text(path.read_text() + f"\n{line}\n")
    done = lint(copy)
    assert done.returncode != 0, done.stdout
    assert "BROKEN" in done.stdout
