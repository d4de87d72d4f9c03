"""Reads a daemon's handover journal while the daemon writes it. Shares no code with the gateway:
the grammar is that of gateway/evacuation/include/evac/evacuation/journal.hpp."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

HOME, AWAY = 1, 2
STATES = {
    1: "protected", 2: "armed", 3: "draining", 4: "frozen", 5: "sealed", 6: "committed",
    7: "running_away", 8: "released", 9: "aborted", 10: "lost",
}  # fmt: skip
ORDER = ("protected", "armed", "draining", "frozen", "sealed", "committed", "running_away",
         "released")  # fmt: skip
FRAME_BYTES, RECORD_BYTES_MIN, RECORD_BYTES_MAX = 8, 17, 1 << 20
BODY_HANDOVER = 2


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


@dataclass(frozen=True)
class Entry:
    """One `handover` record."""

    role: int
    state: str
    vm: int
    handover: int
    attempts: int


def parse_records(data: bytes) -> tuple[list[Entry], int]:
    """The handover records at the start of `data`, and how many bytes of it are complete."""
    entries: list[Entry] = []
    at = 0
    while at + FRAME_BYTES <= len(data):
        length, crc = struct.unpack_from("<II", data, at)
        payload = data[at + FRAME_BYTES : at + FRAME_BYTES + length]
        if not RECORD_BYTES_MIN <= length <= RECORD_BYTES_MAX or len(payload) < length:
            break
        if crc32c(data[at : at + 4] + payload) != crc:
            break
        body = payload[16:]
        if body[0] == BODY_HANDOVER:
            role, state, _policy, _flags, _reason, attempts, vm, _epoch, handover = (
                struct.unpack_from("<BBBBBBIIQ", body, 1)
            )
            entries.append(Entry(role, STATES[state], vm, handover, attempts))
        at += FRAME_BYTES + length
    return entries, at


class JournalReader:
    """Follows one journal; a journal that was rewritten (compacted) is read from its start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._inode, self._offset = 0, 0

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def poll(self) -> list[Entry]:
        """What came since the last call."""
        try:
            seen = os.stat(self._path)
        except FileNotFoundError:
            return []
        if self._file is None or seen.st_ino != self._inode or seen.st_size < self._offset:
            self.close()
            self._file = os.open(self._path, os.O_RDONLY)
            self._inode, self._offset = os.fstat(self._file).st_ino, 0
        if seen.st_size == self._offset:
            return []
        entries, used = parse_records(os.pread(self._file, 1 << 22, self._offset))
        self._offset += used
        return entries


def last_state(path: Path, role: int) -> Entry | None:
    """The newest record of one role, whichever VM's. Each case has one VM."""
    reader = JournalReader(path)
    try:
        entries = [entry for entry in reader.poll() if entry.role == role]
    finally:
        reader.close()
    return entries[-1] if entries else None
