"""Progress on the screen: redrawn in place on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
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
        self._write(f"\n{mark}== {text}{end}  [{elapsed:.0f} s]\n")
        self._last_line_s = 0.0

    def say(self, text: str) -> None:
        self._keep()
        self._write(text + "\n")

    def block(self, lines: list[str], summary: str, final: bool = False) -> None:
        """`lines` replace the block drawn before; without a terminal `summary` is printed."""
        now = time.monotonic()
        if not self._terminal:
            if final or now - self._last_line_s >= QUIET_S:
                self._write(summary + "\n")
                self._last_line_s = now
            return
        width = shutil.get_terminal_size().columns - 1
        text = f"\x1b[{self._drawn}A" if self._drawn else ""
        text += "".join(f"\x1b[2K{line[:width]}\n" for line in lines)
        self._write(text + "\x1b[J")  # a longer block before this one
        self._drawn = 0 if final else len(lines)

    @staticmethod
    def _write(text: str) -> None:
        """A reader that has gone away (`| head`, a killed parent) must not keep us from cleaning up."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:
            sys.stdout = open(os.devnull, "w")

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
