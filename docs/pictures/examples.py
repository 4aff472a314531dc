"""Figures of example scripts that are not committed beside them: into docs/_static.

    python docs/pictures/examples.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
matplotlib.use("Agg")
OUT = ROOT / "docs" / "_static"


def main() -> None:
    from examples import estimator_bias_variance, which_measurements

    OUT.mkdir(exist_ok=True)
    estimator_bias_variance.main(["--repeats", "4000", "--output", str(OUT / "estimator_bias_variance.png")])
    which_measurements.main(["--quick", "--output", str(OUT / "which_measurements.png")])


if __name__ == "__main__":
    main()
