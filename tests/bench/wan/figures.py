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

    @property
    def met(self) -> bool:
        if self.value is None:
            return False
        wanted = [self.target]
        if self.beat and self.baseline is not None:
            wanted.append(self.baseline)
        if self.at_least:
            return all(self.value >= bound for bound in wanted)
        return all(self.value <= bound for bound in wanted)

    def to_json(self) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "value": _rounded(self.value), "unit": self.unit, "target": _rounded(self.target), "met": self.met,
        }  # fmt: skip
        if self.baseline is not None:
            entry["baseline"] = _rounded(self.baseline)
        if self.baseline and self.value is not None:
            entry["ratio"] = round(self.value / self.baseline, 3)
        return entry | self.extra

    def text(self, name: str) -> str:
        value = "none" if self.value is None else f"{self.value:.4g} {self.unit}"
        sign = ">=" if self.at_least else "<="
        line = f"{name:<30} {value:>12}  ({sign} {self.target:.4g})  {'MET' if self.met else 'MISSED'}"
        if self.baseline is not None:
            line += f"  bbr {self.baseline:.4g}"
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
        at_least = bool(entry["met"]) == (entry["value"] >= entry["target"])
        self.add(name, Figure(entry["value"], entry["unit"], entry["target"], at_least,
                              entry.get("baseline"), extra=extra))  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return {name: figure.to_json() for name, figure in self.figures.items()}

    def summary(self) -> str:
        met = sum(figure.met for figure in self.figures.values())
        missed = [name for name, figure in self.figures.items() if not figure.met]
        return f"{met} of {len(self.figures)} figures met" + (f"; missed: {', '.join(missed)}" if missed else "")
