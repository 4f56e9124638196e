"""A figure beside its floor, and the table of them."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self


@dataclass(frozen=True)
class Budget:
    """What a figure has to keep to.

    Attributes:
        limit: the number.
        of: whether it limits the ratio to the floor, or the figure itself.
        at_least: whether more is better.
        each: whether it holds for the worst of the rounds, and not for their median.
    """

    limit: float
    of: Literal["ratio", "figure"] = "ratio"
    at_least: bool = False
    each: bool = False

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        unit = " x" if self.of == "ratio" else ""
        return f"{sign} {number(self.limit)}{unit}{', each' if self.each else ''}"

    def met(self, values: Sequence[float]) -> bool:
        """Whether it is kept by one value for each round."""
        if not self.each:
            value = statistics.median(values)
        else:
            value = min(values) if self.at_least else max(values)
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        name: what is measured.
        unit: of both figures.
        ours: one figure for each round.
        floor: the same for the least that anybody could do, of the same rounds.
        floor_name: what that is.
        budget: what the project has promised.
        shape: the ratio that not even noise explains: something grows as it must not.
    """

    name: str
    unit: str
    ours: Sequence[float]
    floor: Sequence[float] = ()
    floor_name: str = ""
    budget: Budget | None = None
    shape: float | None = None

    @property
    def misshapen(self) -> bool:
        """Whether the least cost of all rounds is out of all proportion to that of the floor."""
        return self.shape is not None and min(self.ours) > self.shape * min(self.floor)

    @property
    def ratio(self) -> float | None:
        """The median of the ratios of the rounds."""
        ratios = self.ratios
        return statistics.median(ratios) if ratios else None

    @property
    def ratios(self) -> list[float]:
        return [mine / floor for mine, floor in zip(self.ours, self.floor, strict=False) if floor]

    @property
    def met(self) -> bool | None:
        """Whether the budget is kept; None where there is none."""
        if self.budget is None:
            return None
        values = self.ratios if self.budget.of == "ratio" else self.ours
        return self.budget.met(values) if values else None

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """A figure as `to_json` wrote it."""
        given = {field.name: plain[field.name] for field in dataclasses.fields(cls)}
        if given["budget"] is not None:
            given["budget"] = Budget(**given["budget"])
        return cls(**given)

    def to_json(self) -> dict[str, Any]:
        plain = dataclasses.asdict(self)
        return plain | {
            "rounds": len(self.ours),
            "median": statistics.median(self.ours),
            "floor_median": statistics.median(self.floor) if self.floor else None,
            "ratio": self.ratio,
            "met": self.met,
        }


def number(value: float) -> str:
    """Three digits that count, and commas."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _with_spread(values: Sequence[float]) -> str:
    middle = number(statistics.median(values))
    if len(values) < 2:
        return middle
    return f"{middle} ({number(min(values))}..{number(max(values))})"


HEADINGS = ("figure", "unit", "aioregistry", "floor, or peer", "ratio", "budget", "")


def row(figure: Figure, rounds: int) -> tuple[str, ...]:
    """A figure as the cells of the table; it says so where it has fewer rounds than the run."""
    met = {None: "", True: "met", False: "MISSED"}[figure.met]
    if figure.misshapen:
        met = "OUT OF SHAPE"
    had = len(figure.ours)
    return (
        figure.name if had >= rounds else f"{figure.name} [{had} round{'s' * (had > 1)}]",
        figure.unit,
        _with_spread(figure.ours),
        f"{_with_spread(figure.floor)} {figure.floor_name}" if figure.floor else figure.floor_name,
        _with_spread(figure.ratios) if figure.ratios else "",
        str(figure.budget or ("" if figure.shape is None else f"< {number(figure.shape)} x")),
        met,
    )


def table(figures: Iterable[Figure], rounds: int) -> str:
    """All figures of a run of so many rounds, in Markdown."""
    rows = [HEADINGS, *(row(figure, rounds) for figure in figures)]
    widths = [max(len(each[column]) for each in rows) for column in range(len(HEADINGS))]
    lines = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(each, widths, strict=True))
        + " |"
        for each in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
