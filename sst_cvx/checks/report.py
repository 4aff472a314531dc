"""What a check is, what it finds, and the table of findings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


class CheckFailed(AssertionError):
    """A check found a figure beyond its bound."""


class NotApplicable(Exception):
    """Raised by a measurement that says nothing here; carries the reason."""


#: Measures one figure; the check passes if figure <= bound. Raises NotApplicable to be skipped.
Measurement = Callable[[], tuple[float, float]]


@dataclass(frozen=True)
class Result:
    """Outcome of one check. ``ok`` is None where it was skipped."""

    name: str
    figure: float
    bound: float
    ok: bool | None
    note: str = ""

    @property
    def verdict(self) -> str:
        return {True: "ok", False: "FAILED", None: "skipped"}[self.ok]


@dataclass(frozen=True)
class Check:
    """A named check: call it to assert, or ``run()`` it for the figure."""

    name: str
    measure: Measurement

    def run(self) -> Result:
        """The result; an exception in the code under test is a failure, with its message as the note."""
        try:
            figure, bound = self.measure()
        except NotApplicable as reason:
            return Result(self.name, math.nan, math.nan, None, str(reason))
        except Exception as error:
            message = " ".join(str(error).split())
            message = message if len(message) <= 200 else message[:200] + " ..."
            return Result(self.name, math.nan, math.nan, False, f"{type(error).__name__}: {message}")
        return Result(self.name, figure, bound, bool(figure <= bound))

    def __call__(self) -> None:
        """Raise CheckFailed if the figure is beyond its bound (or not a number)."""
        result = self.run()
        if result.ok is False:
            detail = result.note or f"{result.figure:.2e} is beyond the bound {result.bound:.0e}"
            raise CheckFailed(f"{self.name}: {detail}")

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Report:
    """All results for one structure."""

    title: str
    results: list[Result]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> list[Result]:
        return [r for r in self.results if r.ok is False]

    def raise_if_failed(self) -> None:
        """Raise CheckFailed that lists every failure."""
        if self.failures:
            lines = [f"{r.name}: {r.note or f'{r.figure:.2e} > {r.bound:.0e}'}" for r in self.failures]
            raise CheckFailed(f"{self.title} failed {len(lines)} of {len(self.results)} checks:\n" + "\n".join(lines))

    def print(self) -> None:
        """The table, by rich where it is installed."""
        try:
            from rich.console import Console
            from rich.table import Table
        except ImportError:
            print(self)
            return
        table = Table(title=f"{self.title}: {self._summary()}", title_justify="left")
        for column, side in (("check", "left"), ("figure", "right"), ("bound", "right"), ("verdict", "left")):
            table.add_column(column, justify=side)  # type: ignore[arg-type]
        numbers = self._notes()
        for r in self.results:
            colour = {True: "green", False: "bold red", None: "dim"}[r.ok]
            table.add_row(r.name, *self._numbers(r), f"[{colour}]{r.verdict}[/]{_mark(r, numbers)}")
        console = Console()
        console.print(table)
        for note, number in numbers.items():
            console.print(f"({number}) {note}", markup=False)

    def _notes(self) -> dict[str, int]:
        """Different notes, numbered: failures of one kind are told once."""
        return {note: i for i, note in enumerate(dict.fromkeys(r.note for r in self.results if r.note), start=1)}

    def _summary(self) -> str:
        skipped = sum(r.ok is None for r in self.results)
        passed = len(self.results) - skipped - len(self.failures)
        return f"{passed} passed, {len(self.failures)} failed, {skipped} skipped"

    @staticmethod
    def _numbers(r: Result) -> tuple[str, str]:
        return ("-", "-") if math.isnan(r.bound) else (f"{r.figure:.1e}", f"{r.bound:.0e}")

    def __str__(self) -> str:
        width = max((len(r.name) for r in self.results), default=0)
        numbers = self._notes()
        rows = [
            f"{r.name:<{width}}  {self._numbers(r)[0]:>8}  {self._numbers(r)[1]:>6}  {r.verdict}{_mark(r, numbers)}"
            for r in self.results
        ]
        notes = [f"({number}) {note}" for note, number in numbers.items()]
        return "\n".join([f"{self.title}: {self._summary()}", *rows, *notes])


def _mark(r: Result, numbers: dict[str, int]) -> str:
    return f" ({numbers[r.note]})" if r.note else ""
