#!/usr/bin/env python3
"""Tests of the journal reader, the overlap detection and the accounting of kills, without QEMU."""

from __future__ import annotations

import struct
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from journal_reader import (  # noqa: E402
    AWAY,
    HOME,
    Entry,
    JournalReader,
    crc32c,
    last_state,
    parse_records,
)
from kill_each_state import Case  # noqa: E402
from kill_lab import differing_blocks, plant  # noqa: E402
from resent import Ledger, Sample, share  # noqa: E402
from run_states import RunStates  # noqa: E402


def record(seq: int, body: bytes) -> bytes:
    payload = struct.pack("<QQ", seq, seq - 1) + body
    length = struct.pack("<I", len(payload))
    return length + struct.pack("<I", crc32c(length + payload)) + payload


def handover(role: int, state: int, vm: int = 7) -> bytes:
    fixed = struct.pack("<BBBBBBBIIQ", 2, role, state, 2, 0, 0, 1, vm, 9, 1234)
    return fixed + struct.pack("<IIIqqI", 10_000, 0, 15_000, 1, 0, 0)


BEGIN = record(1, b"\x01EVACJNL\x01")


class JournalReading(unittest.TestCase):
    def test_crc32c(self) -> None:
        self.assertEqual(crc32c(b"123456789"), 0xE3069283)

    def test_reads_states_and_stops_at_a_torn_end(self) -> None:
        whole = BEGIN + record(2, handover(HOME, 4)) + record(3, handover(HOME, 5))
        entries, used = parse_records(whole + record(4, handover(HOME, 6))[:-1])
        self.assertEqual(entries, [Entry(HOME, s, 7, 1234, 1) for s in ("frozen", "sealed")])
        self.assertEqual(used, len(whole))

    def test_stops_at_a_damaged_record(self) -> None:
        bad = bytearray(record(2, handover(HOME, 4)))
        bad[-1] ^= 1
        self.assertEqual(parse_records(BEGIN + bytes(bad)), ([], len(BEGIN)))

    def test_follows_and_starts_again_after_compaction(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "handover.journal"
            reader = JournalReader(path)
            self.assertEqual(reader.poll(), [])
            path.write_bytes(BEGIN + record(2, handover(AWAY, 2)))
            self.assertEqual([entry.state for entry in reader.poll()], ["armed"])
            self.assertEqual(reader.poll(), [])
            with open(path, "ab") as file:
                file.write(record(3, handover(AWAY, 5)))
            self.assertEqual([entry.state for entry in reader.poll()], ["sealed"])
            other = Path(folder) / "new"
            other.write_bytes(BEGIN + record(2, handover(AWAY, 6)))
            other.rename(path)
            self.assertEqual([entry.state for entry in reader.poll()], ["committed"])
            reader.close()
            newest = last_state(path, AWAY)
            self.assertEqual(newest.state if newest else None, "committed")
            self.assertIsNone(last_state(path, HOME))


class Overlaps(unittest.TestCase):
    def states(self) -> RunStates:
        return RunStates(Path("/nonexistent/home"), Path("/nonexistent/away"))

    def test_one_after_the_other_is_fine(self) -> None:
        states = self.states()
        states.home.sampled(1.0, "running")
        states.home.stopped(2.0)
        states.home.sampled(2.1, "paused")
        states.away.sampled(2.1, "inmigrate")
        states.away.began(2.2)
        states.away.sampled(2.3, "running")
        self.assertEqual(states.overlaps(), [])

    def test_events_show_an_overlap_between_samples(self) -> None:
        states = self.states()
        states.home.began(1.0)
        states.away.began(1.9)
        states.home.stopped(2.0)
        states.away.stopped(2.5)
        self.assertEqual(states.overlaps(), ["both ran for 100.0 ms"])

    def test_samples_show_an_overlap_without_events(self) -> None:
        states = self.states()
        for at_s in (1.0, 1.1, 1.2):
            states.home.sampled(at_s, "running")
            states.away.sampled(at_s, "running")
        states.away.gone()
        self.assertEqual(len(states.overlaps()), 1)


class Cases(unittest.TestCase):
    def test_names(self) -> None:
        self.assertEqual(Case.parse("away:sealed:18"), Case("away", "sealed", 18.0))
        self.assertEqual(Case.parse("home:frozen").name, "home:frozen")
        for bad in ("home", "there:sealed", "home:lost"):
            with self.assertRaises(ValueError):
                Case.parse(bad)


class SentAgain(unittest.TestCase):
    """A guest that costs 100 bytes in each round of 4 s; point 2 s before it is seen."""

    def ledger(self) -> Ledger:
        ledger = Ledger()
        ledger.add(Sample(1.0, False, 0, 0.0, 500))
        for number in range(4):
            at_s = 10.0 + 4 * number
            ledger.add(Sample(at_s, True, number + 1, at_s - 2, 1000 + 100 * number))
            ledger.add(Sample(at_s + 1, True, number + 1, at_s - 2, 1000 + 100 * number))
        return ledger

    def test_undisturbed_rounds(self) -> None:
        ledger = self.ledger()
        self.assertEqual(ledger.staged, 1000)
        self.assertEqual([(r.took_s, r.sent) for r in ledger.rounds], [(4.0, 100)] * 3)
        self.assertEqual(ledger.allowed(2.0), 100)
        self.assertEqual(ledger.allowed(12.0), 300)

    def kill(self, side: str, before: int, after: int) -> Ledger:
        """Sent since the last seal: `before` the kill, and `after` it. The new point is 12 s on."""
        ledger = self.ledger()
        ledger.add(Sample(24.0, True, 4, 20.0, 1300 + before))
        ledger.killed(counter_restarts=side == "home")
        ledger.restarted(26.0)
        base = 0 if side == "home" else 1300 + before
        if side == "home":
            ledger.add(Sample(27.0, False, 0, 0.0, 0))
        ledger.add(Sample(28.0, True, 5, 22.0, base))  # sealed just when it died
        ledger.add(Sample(33.0, True, 5, 22.0, base + after))
        self.assertIsNone(ledger.again)
        ledger.add(Sample(34.0, True, 9, 32.0, base + after))
        return ledger

    def test_nothing_is_resent(self) -> None:
        for side in ("home", "away"):
            again = self.kill(side, 60, 200).again
            assert again is not None
            self.assertEqual((again.sent, again.allowed, again.resent), (260, 360, 0))
            self.assertEqual(again.took_s, 8.0)

    def test_a_resend_is_found_on_either_side_of_the_kill(self) -> None:
        for side in ("home", "away"):
            for before, after in ((60, 1300), (1100, 300)):
                again = self.kill(side, before, after).again
                assert again is not None
                self.assertEqual(again.resent, 1000)
        self.assertEqual(share(1000, 10_000), 10.0)
        self.assertEqual(share(0, 0), 100.0)

    def test_rounds_go_on_being_learned(self) -> None:
        ledger = self.kill("home", 0, 100)
        ledger.add(Sample(38.0, True, 10, 36.0, 250))
        self.assertEqual(len(ledger.rounds), 4)


class Comparing(unittest.TestCase):
    def test_a_planted_byte_is_found(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            home, away = Path(folder) / "home", Path(folder) / "away"
            content = b"".join(struct.pack("<I", n) * 1024 for n in range(300))
            home.write_bytes(content)
            away.write_bytes(content)
            self.assertEqual(differing_blocks(home, away), [])
            at = plant(away, settle_s=0.0)
            self.assertEqual(differing_blocks(home, away), [at])
            away.write_bytes(content[:-4096])
            self.assertEqual(differing_blocks(home, away), [299 * 4096])


if __name__ == "__main__":
    unittest.main()
