"""Figures of several programs put together; what is missing is a figure too, and missed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Figure = dict[str, Any]


@dataclass(frozen=True)
class Expected:
    """A figure of the issue, known before anything ran."""

    name: str
    unit: str
    target: str


@dataclass
class Merged:
    figures: dict[str, Figure] = field(default_factory=dict)

    def missed(self) -> list[str]:
        """Those with a target that was to be measured and is not met."""
        return [n for n, f in self.figures.items()
                if f["met"] is False and not f.get("left_out")]  # fmt: skip

    def fail(self, expected: Expected, why: str, left_out: bool = False) -> None:
        entry: Figure = {"value": None, "unit": expected.unit, "target": expected.target,
                         "met": False, "missed": why}  # fmt: skip
        if left_out:
            entry["left_out"] = True
        self.figures[expected.name] = entry

    def take(self, producer: str, expected: list[Expected], found: dict[str, Figure],
             trouble: str = "") -> None:  # fmt: skip
        """`trouble`: why the producer broke; what it reported before still counts, but nothing that
        it owes is met without a value."""
        for name, figure in found.items():
            if name in self.figures:
                self.figures[name]["met"] = False
                self.figures[name]["missed"] = f"reported twice, the second time by {producer}"
            else:
                self.figures[name] = checked(figure)
                self.figures[name]["by"] = producer
        for figure in expected:
            if figure.name not in found:
                self.fail(figure, trouble or f"{producer} does not report it")
            elif self.figures[figure.name]["target"] is None:
                self.figures[figure.name].update(met=False, missed="reported without its target")
        if trouble and all(f.name in found for f in expected):
            name = f"{producer}_ran"
            self.figures[name] = {"value": 0, "unit": "whole runs", "target": 1, "met": False,
                                  "missed": trouble, "by": producer}  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return {"figures": self.figures}

    def table(self) -> str:
        rows = [("figure", "value", "unit", "target", "", "")]
        for name, figure in self.figures.items():
            verdict = {True: "MET", False: "MISSED", None: "-"}[figure["met"]]
            if figure.get("left_out"):
                verdict = "left out"
            note = figure.get("missed") or baseline_text(figure)
            rows.append((name, number(figure["value"]), str(figure["unit"]),
                         number(figure["target"]), verdict, note))  # fmt: skip
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths)) + "  " + row[5] for row in rows]
        return "\n".join(line.rstrip() for line in lines)


def checked(figure: Figure) -> Figure:
    """A copy that surely has value, unit, target and met. Without a target it is information and
    `met` is None; with one, only True is met, and never without a value."""
    out = dict(figure)
    for key in ("value", "unit", "target"):
        out.setdefault(key, None)
    if out["unit"] is None:
        out["unit"] = ""
    if out["target"] is None:
        out["met"] = None
    else:
        out["met"] = out.get("met") is True and out["value"] is not None
        if out["value"] is None:
            out.setdefault("missed", "no value")
    return out


def number(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def baseline_text(figure: Figure) -> str:
    if figure.get("baseline") is None:
        return ""
    return f"baseline {number(figure['baseline'])} {figure.get('baseline_unit', '')}".rstrip()


def read_figures(path: Path) -> tuple[dict[str, Figure], str]:
    """The figures of a file, and what is wrong with it (empty: nothing)."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}, "it wrote no figures"
    except (OSError, ValueError) as error:
        return {}, f"its figures cannot be read: {error}"
    figures = content.get("figures") if isinstance(content, dict) else None
    if not isinstance(figures, dict) or not all(isinstance(f, dict) for f in figures.values()):
        return {}, "its file holds no object 'figures' of objects"
    return figures, ""
