"""A page of test reviews: the words that a run chose, marked, and the true span underlined.

python -m examples.learning_to_explain.report runs/explain
"""

from __future__ import annotations

from examples import command_line  # first: Ctrl-C ends quietly from here on

# isort: split
import argparse
import html
from pathlib import Path

from examples.learning_to_explain.train import Run, predictions

_HEAD = """<!doctype html><meta charset="utf-8"><title>Which words carry the rating?</title><style>
body{font:16px/1.6 sans-serif;max-width:48em;margin:2em auto;padding:0 1em}
.truth{border-bottom:3px solid #2a7}.chosen{background:#fd6;border-radius:3px}
.review{margin:1.5em 0;padding:.5em 1em;border-left:3px solid #ccc}.figures{color:#555;font-size:85%}
</style>"""


_NOTE = (
    "At a middle rating the network may choose words without evidence: that nothing speaks for an end tells the middle."
)


def page(folder: Path, count: int) -> str:
    """The first test reviews as HTML, under the best model of a run, which may be in progress."""
    run = Run.best_of(folder)
    s, part = run.settings, run.data.test
    ratings, masks = predictions(run.model, part)
    blocks = []
    for row, review in enumerate(part.reviews[:count]):
        chosen = (masks[row, : len(review.words)] > 0).tolist()
        hits = sum(c and r for c, r in zip(chosen, review.rationale, strict=True))
        words = [_mark(*word) for word in zip(review.words, chosen, review.rationale, strict=True)]
        figures = f"rated {review.rating:.2f}, predicted {ratings[row]:.2f}; {hits} of {s.k} words in the true span"
        blocks.append(f'<div class="review"><div class="figures">{figures}</div>{" ".join(words)}</div>')
    title = html.escape(f"{s.source}, {s.aspect}: {s.k} words by {s.relaxation}")
    legend = '<p><span class="chosen">chosen words</span>, <span class="truth">words about the aspect</span></p>'
    scale = "1/2 plus what ratings of the other aspects do not tell" if s.decorrelate else "from worst, 0, to best, 1"
    note = f"<p>Ratings: {scale}. {_NOTE}</p>"
    return "\n".join([_HEAD, f"<h1>{title}</h1>", legend, note, *blocks])


def _mark(word: str, chosen: bool, truth: bool) -> str:
    classes = " ".join(name for name, on in (("chosen", chosen), ("truth", truth)) if on)
    return f'<span class="{classes}">{html.escape(word)}</span>' if classes else html.escape(word)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--count", type=command_line.whole(1), default=20, help="reviews on the page (default 20)")
    options = parser.parse_args(arguments)
    target = options.run / "report.html"
    try:
        text = page(options.run, options.count)
        command_line.folder(options.run)
    except (OSError, ValueError, argparse.ArgumentTypeError) as error:
        parser.error(str(error))
    target.write_text(text, encoding="utf-8")
    print(f"Report: {target}")


if __name__ == "__main__":
    main()
