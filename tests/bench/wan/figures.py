"""The figures of one run: value, target, whether met, and what TCP did beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Figure:
    """`at_least`: the target is a minimum, otherwise a maximum. `beat`: the baseline must be
    reached too. A value of None (never, or not run) is missed."""

    value: float | None
    unit: str
    target: float
    at_least: bool
    baseline: float | None = None
    beat: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    beside: str = "bbr"  # what the baseline is

    @property
    def met(self) -> bool:
        return not self.why_missed()

    def why_missed(self) -> str:
        if self.value is None:
            return "no value"
        sign = 1 if self.at_least else -1
        why = ["target"] if sign * self.value < sign * self.target else []
        if self.beat and self.baseline is not None and sign * self.value < sign * self.baseline:
            why.append(f"behind {self.beside}")
        return ", ".join(why)

    def to_json(self) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "value": _rounded(self.value), "unit": self.unit, "target": _rounded(self.target),
            "met": self.met,
        }  # fmt: skip
        if not self.met:
            entry["missed"] = self.why_missed()
        if self.baseline is not None:
            entry["baseline"] = _rounded(self.baseline)
        if self.baseline and self.value is not None:
            entry["ratio"] = round(self.value / self.baseline, 3)
        return entry | self.extra

    def verdict(self) -> str:
        return "MET" if self.met else f"MISSED ({self.why_missed()})"

    def text(self, name: str) -> str:
        value = "none" if self.value is None else f"{self.value:.4g} {self.unit}"
        sign = ">=" if self.at_least else "<="
        line = f"{name:<30} {value:>12}  ({sign} {self.target:.4g})  {self.verdict()}"
        if self.baseline is not None:
            line += f"  {self.beside} {self.baseline:.4g}"
            if self.value is not None and self.baseline:
                line += f", ratio {self.value / self.baseline:.2f}"
        shown = {k: v for k, v in self.extra.items() if isinstance(v, (int, float, str)) and v != ""}
        return line + "".join(f"; {k} {v}" for k, v in shown.items())


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


class Board:
    """Figures as they come."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.figures: dict[str, Figure] = {}

    def add(self, name: str, figure: Figure) -> None:
        self.figures[name] = figure
        self._say("  " + figure.text(name))

    def add_foreign(self, name: str, entry: dict[str, Any]) -> None:
        """A figure that another benchmark judged."""
        known = {"value", "unit", "target", "met", "baseline"}
        extra = {key: value for key, value in entry.items() if key not in known}
        value, baseline = entry["value"], entry.get("baseline")
        at_least = value is not None and bool(entry["met"]) == (value >= entry["target"])
        self.add(name, Figure(value, entry["unit"], entry["target"], at_least, baseline,
                              extra=extra, beside="baseline"))  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return {name: figure.to_json() for name, figure in self.figures.items()}

    def summary(self) -> str:
        met = sum(figure.met for figure in self.figures.values())
        missed = [name for name, figure in self.figures.items() if not figure.met]
        text = f"{met} of {len(self.figures)} figures met"
        return text + (f"; missed: {', '.join(missed)}" if missed else "")
