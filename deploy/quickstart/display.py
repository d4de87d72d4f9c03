"""Progress on the screen: redrawn in place on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

QUIET_S = 5.0  # between progress lines when the output is not a terminal


class Display:
    """Headings, plain lines, and one block at a time that changes while something is going on."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._began = time.monotonic()
        self._drawn = 0
        self._last_line_s = 0.0

    def heading(self, text: str) -> None:
        self._keep()
        elapsed = time.monotonic() - self._began
        mark, end = ("\x1b[1m", "\x1b[0m") if self._terminal else ("", "")
        print(f"\n{mark}== {text}{end}  [{elapsed:.0f} s]", flush=True)
        self._last_line_s = 0.0

    def say(self, text: str) -> None:
        self._keep()
        print(text, flush=True)

    def block(self, lines: list[str], summary: str, final: bool = False) -> None:
        """`lines` replace the block drawn before; without a terminal `summary` is printed."""
        now = time.monotonic()
        if not self._terminal:
            if final or now - self._last_line_s >= QUIET_S:
                print(summary, flush=True)
                self._last_line_s = now
            return
        width = shutil.get_terminal_size().columns - 1
        if self._drawn:
            sys.stdout.write(f"\x1b[{self._drawn}A")
        for line in lines:
            sys.stdout.write(f"\x1b[2K{line[:width]}\n")
        sys.stdout.write("\x1b[J")  # a longer block before this one
        sys.stdout.flush()
        self._drawn = 0 if final else len(lines)

    def _keep(self) -> None:
        self._drawn = 0


def table(titles: list[str], rows: list[list[str]]) -> list[str]:
    """Left-aligned first column, the others right-aligned."""
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]

    def line(cells: list[str]) -> str:
        parts = [cells[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(cells[1:], widths[1:])]
        return "  ".join(parts).rstrip()

    return [line(titles), "  ".join("-" * width for width in widths), *(line(row) for row in rows)]


def number(value: Any, digits: int = 1) -> str:
    return (
        f"{value:.{digits}f}"
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        else "-"
    )


def bar(share: float, width: int = 20) -> str:
    filled = round(max(0.0, min(1.0, share)) * width)
    return "[" + "#" * filled + "." * (width - filled) + "]"
