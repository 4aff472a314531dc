"""What pictures share: drawn on nothing, in greys and colours that are read on white and on black alike."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matplotlib as mpl

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the repository, wherever this is run from
mpl.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

STATIC, GREY = ROOT / "docs" / "_static", "#808080"
COLOURS = ["#3b82d6", "#e0772c", "#2fa36b", "#b05ccf", "#c9a227"]

mpl.rcParams |= {
    "svg.hashsalt": "sst-cvx",  # the same file each time
    "svg.fonttype": "path",
    "path.simplify_threshold": 0.25,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "grid.alpha": 0.25,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), GREY
    ),
}


def save(figure: plt.Figure, name: str) -> None:
    """Into ``docs/_static``, small."""
    STATIC.mkdir(exist_ok=True)
    path = STATIC / f"{name}.svg"
    figure.savefig(path, transparent=True, metadata={"Date": None}, bbox_inches="tight", pad_inches=0.05)
    short = re.sub(r' d="[^"]*"', lambda d: re.sub(r"(\d\.\d\d)\d+", r"\1", d[0]), path.read_text())
    path.write_text(short)  # curves in hundredths of a point
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
