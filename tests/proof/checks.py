"""The proofs, one function each, from serial logs, QMP and disk images; nothing of the gateway."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guests")]

from qmp import Qmp, run_state_of  # noqa: E402
from serial_watch import Chunk, lines_of  # noqa: E402

HEARTBEAT_MS = 100
TOLERANCE_MS = 1000  # of a gap: six TCG guests and two gateways share two cores
PAGE_BYTES = 4096
VGA_WINDOW = range(0xA0000, 0xC0000)  # aliased: reads there do not go to RAM
RECORD_BYTES, RECORD_SLOTS, RECORD_HEADER_BYTES = 65536, 2048, 64
TROUBLE = re.compile(
    r"Kernel panic|Oops|BUG:|EXT4-fs error|I/O error|FAILED |BADPAGE|general protection"
)


@dataclass
class Verdict:
    """One proof. `problems` is empty exactly when it holds."""

    problems: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.problems


def runs_only_at_away(
    home_qmp: Path, away_qmp: Path, home: list[Chunk], away: list[Chunk], home_pid: int | None
) -> Verdict:
    """The source is gone or not running, has printed nothing since the landing spoke, and the
    landing runs and its heartbeat grows."""
    verdict = Verdict()
    home_state, away_state = run_state_of(home_qmp), run_state_of(away_qmp)
    verdict.facts.update(home_state=home_state or "gone", away_state=away_state or "gone")
    if home_state == "running":
        verdict.problems.append("the source is running")
    if home_state is None and home_pid is not None and _is_qemu(home_pid):
        verdict.problems.append(
            f"the source's process {home_pid} lives but its QMP does not answer"
        )
    if away_state != "running":
        verdict.problems.append(f"the landing is {away_state or 'gone'}, not running")
    if not away:
        verdict.problems.append("the landing has printed nothing")
    elif home and home[-1].time_s > away[0].time_s + 0.05:  # both logs are polled within 10 ms
        verdict.problems.append("the source printed after the landing had begun to run")
    return verdict


def _is_qemu(pid: int) -> bool:
    try:
        return b"qemu-system" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def counter(
    home: list[Chunk],
    away: list[Chunk],
    downtime_ms: float | None,
    tolerance_ms: float = TOLERANCE_MS,
) -> Verdict:
    """Both logs joined are one serial stream in which the counter grows by one, line after line.
    The silence at the join is at most the reported downtime + one period + the tolerance; with
    `downtime_ms` None (a landing held back on purpose) the silence is only reported."""
    verdict = Verdict()
    if not home or not away:
        verdict.problems.append("no output at " + ("home" if not home else "away"))
        return verdict
    landed_s = away[0].time_s
    # A line cut in two by the handover is completed by the landing: join before splitting.
    beats = [
        (line.time_s, int(match.group(1)))
        for line in lines_of(home + away)
        if (match := re.match(r"HB (\d+) \d+$", line.text))
    ]
    before = [beat for beat in beats if beat[0] < landed_s]
    after = [beat for beat in beats if beat[0] >= landed_s]
    if not before or len(after) < 5:
        verdict.problems.append(
            f"{len(before)} heartbeats before and {len(after)} after the handover"
        )
        return verdict
    for (_, n), (_, m) in zip(beats, beats[1:]):
        if m != n + 1:
            verdict.problems.append(f"the counter went from {n} to {m}")
    silence_ms = (after[0][0] - before[-1][0]) * 1000
    later_ms = max((b - a) * 1000 for (a, _), (b, _) in zip(after, after[1:]))
    verdict.facts.update(
        last_at_home=before[-1][1], first_at_away=after[0][1], silence_ms=round(silence_ms, 1),
        longest_later_silence_ms=round(later_ms, 1),
    )  # fmt: skip
    if downtime_ms is not None:
        limit_ms = downtime_ms + HEARTBEAT_MS + tolerance_ms
        if silence_ms > limit_ms:
            verdict.problems.append(f"silent for {silence_ms:.0f} ms, {limit_ms:.0f} ms explained")
        if later_ms > HEARTBEAT_MS + tolerance_ms:
            verdict.problems.append(f"silent again for {later_ms:.0f} ms after the landing")
    return verdict


def memory_evidence(away: list[Chunk]) -> tuple[int, int]:
    """Passes printed at away over the working set and over the static memory."""
    lines = list(lines_of(away))
    return (
        sum(line.text.startswith("CHK ") for line in lines),
        sum(line.text.startswith("FIL ") for line in lines),
    )


def memory_checksum(home: list[Chunk], away: list[Chunk], has_fill: bool) -> Verdict:
    """At least one whole pass began and ended at away (so two lines), over both kinds of memory,
    and no pass anywhere found a wrong page."""
    verdict = Verdict()
    lines = list(lines_of(home + away))
    for line in lines:
        if TROUBLE.search(line.text) or re.match(r"(CHK|FIL) \d+ BAD", line.text):
            verdict.problems.append(line.text[:160])
    working, static = memory_evidence(away)
    verdict.facts.update(working_set_passes=working, static_passes=static)
    if working < 2:
        verdict.problems.append(f"{working} passes over the working set at away, 2 needed")
    if has_fill and static < 2:
        verdict.problems.append(f"{static} passes over the static memory at away, 2 needed")
    verdict.problems = verdict.problems[:10]
    return verdict


def disk_file_of(qmp_path: Path, node: str = "disk0") -> Path:
    """The file behind a block node, as QEMU itself names it."""
    with Qmp(qmp_path) as qmp:
        for entry in qmp.command("query-named-block-nodes"):
            if entry.get("node-name") == node:
                return Path(entry["image"]["filename"])
    raise RuntimeError(f"no block node {node} behind {qmp_path}")


def copy_paused_disk(qmp_path: Path, target: Path, while_paused: Callable[[], None]) -> None:
    """Copies the disk while the guest stands still, and lets it go on if it was running."""
    source = disk_file_of(qmp_path)
    with Qmp(qmp_path) as qmp:
        running = qmp.run_state() == "running"
        if running:
            qmp.command("stop")  # drains the requests that are in flight
        try:
            while_paused()
            subprocess.run(["cp", "--sparse=always", str(source), str(target)], check=True)
        finally:
            if running:
                qmp.command("cont")


def acknowledged(home: list[Chunk], away: list[Chunk]) -> list[int]:
    return [
        int(match.group(1))
        for line in lines_of(home + away)
        if (match := re.match(r"ACK (\d+)$", line.text))
    ]


def disk(image: Path, acks: list[int], base_sha256: str | None, work: Path) -> Verdict:
    """`image` is a copy that may be written: its journal is replayed, then it must be clean and
    hold every acknowledged record (or a later one in its slot). `acks` as printed, in order."""
    verdict = Verdict()
    replay = _run(["e2fsck", "-p", str(image)])
    if replay.returncode not in (0, 1):  # 1: repaired orphans and the like, as any mount does
        verdict.problems.append(f"e2fsck -p: {replay.returncode}: {replay.stdout.strip()[-200:]}")
    clean = _run(["e2fsck", "-fn", str(image)])
    if clean.returncode != 0:
        verdict.problems.append(f"e2fsck -fn: {clean.returncode}: {clean.stdout.strip()[-200:]}")
    for a, b in zip(acks, acks[1:]):
        if b != a + 1:
            verdict.problems.append(f"acknowledgements went from {a} to {b}")
    records = work / "records.dat"
    _run(["debugfs", "-R", f"dump /records.dat {records}", str(image)])
    if acks and not records.exists():
        verdict.problems.append("records.dat is missing")
    elif acks:
        verdict.problems += missing_records(records, acks[-1])
    records.unlink(missing_ok=True)
    if base_sha256:
        base = work / "base.dat"
        _run(["debugfs", "-R", f"dump /base.dat {base}", str(image)])
        data = base.read_bytes() if base.exists() else b""
        if hashlib.sha256(data).hexdigest() != base_sha256:
            verdict.problems.append(f"base.dat ({len(data)} bytes) is not what was written")
        base.unlink(missing_ok=True)
    verdict.facts.update(acknowledged=len(acks), last=acks[-1] if acks else 0)
    if not acks:
        verdict.problems.append("no write was acknowledged")
    verdict.problems = verdict.problems[:10]
    return verdict


def missing_records(records: Path, last_ack: int) -> list[str]:
    """Each slot must hold the last record acknowledged for it, or a later one. Only slots that were
    being written may be torn: that of the next record, and of the one after it when the last
    acknowledgement was still on its way through the serial port."""
    torn = {(last_ack + ahead) % RECORD_SLOTS for ahead in (1, 2)}
    problems = []
    with open(records, "rb") as file:
        for n in range(max(1, last_ack - RECORD_SLOTS + 1), last_ack + 1):
            slot = n % RECORD_SLOTS
            file.seek(slot * RECORD_BYTES)
            found = _record_number(file.read(RECORD_BYTES))
            if found is not None and found >= n and found % RECORD_SLOTS == slot:
                continue
            if found is None and slot in torn:
                continue
            problems.append(
                f"record {n} was acknowledged; slot {slot} holds {found or 'no valid record'}"
            )
    return problems


def _record_number(record: bytes) -> int | None:
    """The number of a valid record, else None. Layout: guest-work.c."""
    if len(record) < RECORD_BYTES or record[:8] != b"EVACREC1":
        return None
    crc, length = int.from_bytes(record[24:28], "little"), int.from_bytes(record[28:32], "little")
    payload = record[RECORD_HEADER_BYTES : RECORD_HEADER_BYTES + length]
    if length != RECORD_BYTES - RECORD_HEADER_BYTES or zlib.crc32(payload) != crc:
        return None
    return int.from_bytes(record[8:16], "little")


def ram_ranges(ram_bytes: int) -> list[tuple[int, int]]:
    """(start, size) of RAM in a q35 guest's physical address space: above 2.75 GiB it is split at
    2 GiB and goes on at 4 GiB."""
    if ram_bytes < 0xB0000000:
        return [(0, ram_bytes)]
    return [(0, 0x80000000), (0x100000000, ram_bytes - 0x80000000)]


def differing_pages(home_qmp: Path, away_qmp: Path, ram_mib: int, work: Path) -> list[int]:
    """Addresses of pages that differ between two guests that both stand still."""
    differing: list[int] = []
    with Qmp(home_qmp, timeout_s=120) as home, Qmp(away_qmp, timeout_s=120) as away:
        for side, qmp in (("home", home), ("away", away)):
            if (state := qmp.run_state()) in ("running", "inmigrate"):
                raise RuntimeError(f"cannot compare memory: {side} is {state}")
        for start, size in ram_ranges(ram_mib << 20):
            dumps = work / f"home-{start:x}.mem", work / f"away-{start:x}.mem"
            try:
                for qmp, dump in zip((home, away), dumps):
                    qmp.command("pmemsave", val=start, size=size, filename=str(dump))
                differing += compare_dumps(*dumps, start)
            finally:
                for dump in dumps:
                    dump.unlink(missing_ok=True)
    return differing


def compare_dumps(home: Path, away: Path, start: int) -> list[int]:
    """Addresses of pages that differ, outside the VGA window. A missing end is a difference."""
    differing: list[int] = []
    with open(home, "rb") as a, open(away, "rb") as b:
        at = start
        while True:
            x, y = a.read(1 << 20), b.read(1 << 20)
            if not x and not y:
                return differing
            if x != y:
                for i in range(0, max(len(x), len(y)), PAGE_BYTES):
                    if x[i : i + PAGE_BYTES] != y[i : i + PAGE_BYTES] and at + i not in VGA_WINDOW:
                        differing.append(at + i)
            at += max(len(x), len(y))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def wait_for(condition: Any, timeout_s: float, step_s: float = 0.05) -> bool:
    """True once condition() is; False after the time-out."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(step_s)
    return True
