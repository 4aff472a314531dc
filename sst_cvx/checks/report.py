"""What a check is, what it finds, and the table of findings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sst_cvx.checks.reproduce import Setting, code_for


class CheckFailed(AssertionError):
    """A check found a figure beyond its bound."""


class NotApplicable(Exception):
    """Raised by a measurement that says nothing here; carries the reason."""


class Input(str):
    """What a failure names: a text, and by name the tensors and numbers that it tells of, in full."""

    values: dict[str, Any]

    def __new__(cls, text: str, **values: Any) -> Input:
        made = super().__new__(cls, text)
        made.values = values
        return made


#: Measures one figure; the check passes if figure <= bound. Raises NotApplicable to be skipped. It may name the input
#: of that figure, too: (figure, bound, where).
Measurement = Callable[[], tuple[float, float] | tuple[float, float, str]]


class Worst:
    """The largest of several figures, none of them below 0, and the input that gave it. NaN counts as infinite."""

    def __init__(self) -> None:
        self.figure, self.where = 0.0, Input("")

    def see(self, figure: float, where: Input) -> None:
        figure = math.inf if math.isnan(figure) else figure
        if figure > self.figure:
            self.figure, self.where = figure, where


@contextmanager
def at(where: str) -> Iterator[None]:
    """Name the input of what runs inside: an exception from there carries it."""
    try:
        yield
    except Exception as error:
        error.add_note(where)
        raise


@dataclass(frozen=True)
class Result:
    """Outcome of one check.

    Attributes:
        ok: None where it was skipped.
        note: why it was skipped, or the exception that it failed by.
        where: the input of the figure or the exception, where the check knows: dtype, temperature, batch element,
            utilities.
        values: that input in full, by name.
    """

    name: str
    figure: float
    bound: float
    ok: bool | None
    note: str = ""
    where: str = ""
    values: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def verdict(self) -> str:
        return {True: "ok", False: "FAILED", None: "skipped"}[self.ok]

    @property
    def remark(self) -> str:
        """What the figures do not tell: the reason, and where a failure was."""
        where = f"at {self.where}" if self.where and self.ok is False else ""
        return ", ".join(part for part in (self.note, where) if part)

    @property
    def complaint(self) -> str:
        """A failure in words."""
        figures = "" if self.note else f"{self.figure:.2e} is beyond the bound {self.bound:.0e}"
        return ", ".join(part for part in (figures, self.remark) if part)


@dataclass(frozen=True)
class Check:
    """A named check: call it to assert, or ``run()`` it for the figure.

    Attributes:
        shows: an expression in the names of its inputs, ``structure`` and ``regularizer``: what it looks at.
        regularizer: of the pair, if it is about one.
    """

    name: str
    measure: Measurement
    shows: str = ""
    regularizer: Any = None

    def run(self) -> Result:
        """The result; an exception in the code under test is a failure, with its message as the note."""
        try:
            figure, bound, *where = self.measure()
        except NotApplicable as reason:
            return Result(self.name, math.nan, math.nan, None, str(reason))
        except Exception as error:
            message = " ".join(str(error).split())
            message = message if len(message) <= 200 else message[:200] + " ..."
            inputs = ", ".join(reversed(getattr(error, "__notes__", [])))  # of ``at``, the outermost first
            return Result(self.name, math.nan, math.nan, False, f"{type(error).__name__}: {message}", inputs)
        text = where[0] if where else ""
        return Result(self.name, figure, bound, bool(figure <= bound), "", str(text), getattr(text, "values", {}))

    def __call__(self) -> None:
        """Raise CheckFailed if the figure is beyond its bound (or not a number)."""
        result = self.run()
        if result.ok is False:
            raise CheckFailed(f"{self.name}: {result.complaint}")

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, repr=False)
class Report:
    """All results for one structure; ``print(report)`` for the table."""

    title: str
    results: list[Result]
    checks: list[Check] = field(default_factory=list)
    setting: Setting | None = None

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> list[Result]:
        return [r for r in self.results if r.ok is False]

    def reproduce(self, row: int | str | Result) -> str:
        """Python code that fails as a row did: its input in full, what is asked there, and the check by itself.

        Where the structure (or the regularizer) is no instance of an importable class whose repr says all, the code
        takes it from a variable ``structure`` (``regularizer``): ``exec(code, {"structure": structure})``.

        Args:
            row: a result, its name, or its number.

        Raises:
            KeyError, IndexError: no such row. ValueError: a report that ``sst.check`` did not make.
        """
        if self.setting is None:
            raise ValueError("this report does not know its structure: make it by sst.check.")
        if isinstance(row, int):
            place = range(len(self.results))[row]
        else:
            matches = (
                (r is row for r in self.results) if isinstance(row, Result) else (r.name == row for r in self.results)
            )
            place = next((i for i, same in enumerate(matches) if same), -1)
            if place < 0:
                raise KeyError(f"no row is {row!r}: give a result of this report, its name, or its number.")
        result, check = self.results[place], self.checks[place]
        return code_for(result.name, result.complaint, result.values, check.shows, check.regularizer, self.setting)

    def raise_if_failed(self) -> None:
        """Raise CheckFailed that lists every failure."""
        if self.failures:
            lines = [f"{r.name}: {r.complaint}" for r in self.failures]
            raise CheckFailed(f"{self.title} failed {len(lines)} of {len(self.results)} checks:\n" + "\n".join(lines))

    def print(self) -> None:
        """The table, by rich where it is installed."""
        try:
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text  # a string would be read as markup: [capacity]
        except ImportError:
            print(self)
            return
        table = Table(title=Text(f"{self.title}: {self._summary()}"), title_justify="left")
        for column, side in (("check", "left"), ("figure", "right"), ("bound", "right"), ("verdict", "left")):
            table.add_column(column, justify=side)  # type: ignore[arg-type]
        numbers = self._remarks()
        for r in self.results:
            colour = {True: "green", False: "bold red", None: "dim"}[r.ok]
            verdict = Text.assemble((r.verdict, colour), _mark(r, numbers))
            table.add_row(Text(r.name), *self._numbers(r), verdict)
        console = Console()
        console.print(table)
        for remark, number in numbers.items():
            console.print(Text(f"({number}) {remark}"))

    def _remarks(self) -> dict[str, int]:
        """Different remarks, numbered: failures of one kind are told once."""
        return {text: i for i, text in enumerate(dict.fromkeys(r.remark for r in self.results if r.remark), start=1)}

    def _summary(self) -> str:
        skipped = sum(r.ok is None for r in self.results)
        passed = len(self.results) - skipped - len(self.failures)
        return f"{passed} passed, {len(self.failures)} failed, {skipped} skipped"

    @staticmethod
    def _numbers(r: Result) -> tuple[str, str]:
        return ("-", "-") if math.isnan(r.bound) else (f"{r.figure:.1e}", f"{r.bound:.0e}")

    def __str__(self) -> str:
        width = max((len(r.name) for r in self.results), default=0)
        numbers = self._remarks()
        rows = [
            f"{r.name:<{width}}  {self._numbers(r)[0]:>8}  {self._numbers(r)[1]:>6}  {r.verdict}{_mark(r, numbers)}"
            for r in self.results
        ]
        remarks = [f"({number}) {remark}" for remark, number in numbers.items()]
        return "\n".join([f"{self.title}: {self._summary()}", *rows, *remarks])

    def __repr__(self) -> str:
        title = " ".join(self.title.split())
        title = title if len(title) <= 80 else title[:80] + " ..."
        return f"<Report of {title}: {self._summary()}>"


def _mark(r: Result, numbers: dict[str, int]) -> str:
    return f" ({numbers[r.remark]})" if r.remark else ""
