"""Figures of example scripts that are not committed beside them: into docs/_static.

python docs/pictures/examples.py           # a minute
python docs/pictures/examples.py --full    # own_structure, too, as the script does it by default
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
matplotlib.use("Agg")
OUT = ROOT / "docs" / "_static"


def main() -> None:
    from examples import estimator_bias_variance, own_structure, which_measurements

    OUT.mkdir(exist_ok=True)
    quick = [] if "--full" in sys.argv else ["--quick"]
    estimator_bias_variance.main(["--output", str(OUT / "estimator_bias_variance.png")])
    which_measurements.main(["--output", str(OUT / "which_measurements.png")])
    own_structure.main([*quick, "--output", str(OUT / "own_structure.png")])
    for name in ("estimator_bias_variance", "own_structure", "which_measurements"):
        shrink(OUT / f"{name}.png")


def shrink(path: Path) -> None:
    """To 900 pixels and 255 colours: a third of the size."""
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((900, 900), Image.Resampling.LANCZOS)
    picture.quantize(255, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
