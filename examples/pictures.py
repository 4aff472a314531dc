"""What pictures of dependency trees share: arcs over words, and a figure's legend and end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Arc


def draw_arc(axis: plt.Axes, start: float, end: float, below: bool = False, **style: Any) -> None:
    """An arc between two places on the line of the words, the higher the longer."""
    angles, span = (180, 360) if below else (0, 180), abs(start - end)
    axis.add_patch(Arc(((start + end) / 2, 0), span, 2 * span**0.8, theta1=angles[0], theta2=angles[1], **style))


def save(figure: Figure, styles: Mapping[str, dict[str, Any]], out: Path, dpi: int) -> None:
    """With a legend of these styles of lines below."""
    lines = [Line2D([], [], label=name, lw=2, **style) for name, style in styles.items()]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), fontsize=9)
    figure.savefig(out, dpi=dpi)
    plt.close(figure)
