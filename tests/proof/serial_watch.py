"""Follows the guests' serial logs and remembers when each piece of text appeared."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator

POLL_S = 0.01  # so a time stamp is late by at most about this much
BYTES_MAX = 64 << 20  # per log; a guest prints about 500 bytes a second


@dataclass(frozen=True)
class Chunk:
    """Text and the host's monotonic time at which it was first seen."""

    time_s: float
    data: bytes


@dataclass(frozen=True)
class Line:
    time_s: float
    text: str


def lines_of(chunks: list[Chunk]) -> Iterator[Line]:
    """Complete lines, each with the time of its end."""
    pending = b""
    for chunk in chunks:
        pieces = (pending + chunk.data).split(b"\n")
        pending = pieces.pop()
        for piece in pieces:
            yield Line(chunk.time_s, piece.decode(errors="replace").strip("\r"))


@dataclass
class _Followed:
    path: Path
    chunks: list[Chunk] = field(default_factory=list)
    inode: int = 0
    offset: int = 0
    bytes_seen: int = 0


class SerialWatch:
    """Polls the logs in a thread of its own. A log may appear later; a file replaced by a new one
    (another QEMU opened it) starts that log again. Chunks are only ever appended under the lock."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self._followed = {name: _Followed(path) for name, path in paths.items()}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="serial-watch", daemon=True)

    def start(self) -> SerialWatch:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def chunks(self, name: str) -> list[Chunk]:
        with self._lock:
            return list(self._followed[name].chunks)

    def lines(self, name: str) -> list[Line]:
        return list(lines_of(self.chunks(name)))

    def matches(self, name: str, pattern: str) -> list[tuple[float, re.Match[str]]]:
        """Lines of one log that match from their start."""
        wanted = re.compile(pattern)
        found = ((line.time_s, wanted.match(line.text)) for line in self.lines(name))
        return [(at, match) for at, match in found if match]

    def save(self, path: Path) -> None:
        """Writes everything seen as JSON lines: {"log", "time_s", "text"}."""
        with open(path, "w", encoding="utf-8") as file:
            for name in self._followed:
                for chunk in self.chunks(name):
                    text = chunk.data.decode("latin-1")
                    file.write(
                        json.dumps({"log": name, "time_s": chunk.time_s, "text": text}) + "\n"
                    )

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            for followed in self._followed.values():
                self._poll(followed)

    def _poll(self, followed: _Followed) -> None:
        try:
            seen = os.stat(followed.path)  # opened only when there is something new
            if (seen.st_ino, seen.st_size) == (followed.inode, followed.offset):
                return
            with open(followed.path, "rb") as file:
                opened = os.fstat(file.fileno())
                inode, size = opened.st_ino, opened.st_size
                if inode != followed.inode or size < followed.offset:
                    with self._lock:
                        followed.chunks.clear()
                    followed.inode, followed.offset, followed.bytes_seen = inode, 0, 0
                if size == followed.offset or followed.bytes_seen >= BYTES_MAX:
                    return
                file.seek(followed.offset)
                data = file.read(1 << 20)
        except OSError:
            return
        with self._lock:
            followed.chunks.append(Chunk(time.monotonic(), data))
        followed.offset += len(data)
        followed.bytes_seen += len(data)


def load_timeline(path: Path) -> dict[str, list[Chunk]]:
    """What `SerialWatch.save` wrote."""
    logs: dict[str, list[Chunk]] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            logs.setdefault(row["log"], []).append(
                Chunk(row["time_s"], row["text"].encode("latin-1"))
            )
    return logs
