#!/usr/bin/python3
"""The benchmark's arithmetic, without a network: a wrong rate would pass unnoticed on a screen."""

from __future__ import annotations

import sys
import unittest
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent))

from figures import Board, Figure  # noqa: E402
from flows import OURS, BenchError, result_of  # noqa: E402
from lab import FAULTS, Wan, faults_of  # noqa: E402
from points import all_points  # noqa: E402
from series import Series, percentile_ms, share_within  # noqa: E402

MS = 1_000_000
BIN = 10 * MS
FULL = 125_000  # bytes in a bin of 10 ms at 100 Mbit/s


def series(*parts: tuple[int, int]) -> Series:
    """(bins, bytes in each), one after the other, from time 1 s."""
    return Series(1000 * MS, BIN, [size for bins, size in parts for _ in range(bins)])


class SeriesTest(unittest.TestCase):
    def test_rate_counts_partial_bins_in_proportion(self) -> None:
        line = series((100, FULL))
        self.assertAlmostEqual(line.rate_mbit(1000 * MS, 2000 * MS), 100)
        self.assertAlmostEqual(line.bytes_between(1005 * MS, 1015 * MS), FULL)
        self.assertAlmostEqual(line.bytes_between(1005 * MS, 1008 * MS), FULL * 0.3)
        self.assertAlmostEqual(line.rate_mbit(1500 * MS, 2500 * MS), 50)  # nothing after the end
        self.assertEqual(line.bytes_between(0, 1000 * MS), 0)

    def test_steady_is_the_rate_of_a_steady_flow(self) -> None:
        line = series((600, FULL))
        self.assertAlmostEqual(line.steady_mbit(2000 * MS, 6000 * MS, 2000 * MS), 100)

    def test_steady_spreads_what_a_loss_held_back_over_the_edge(self) -> None:
        # 0.5 s delivered late, just behind the window's first edge: one window would say 112.5.
        line = series((50, FULL), (50, 0), (1, 51 * FULL), (600, FULL))
        edge = 2000 * MS
        self.assertAlmostEqual(line.rate_mbit(edge, edge + 4000 * MS), 112.5)
        self.assertLess(line.steady_mbit(edge, edge + 5000 * MS, 4000 * MS), 101)

    def test_rates_follow_each_other_to_the_end(self) -> None:
        line = series((20, FULL), (5, FULL // 2))
        self.assertEqual(line.rates_mbit(1000 * MS, 100 * MS), [100, 100, 25])

    def test_recovery_is_the_first_moment_of_lasting_full_rate(self) -> None:
        # Line back at 2 s; 200 ms of nothing, then full.
        line = series((50, FULL), (70, 0), (200, FULL))
        found = line.recovered_ns(2000 * MS, 4000 * MS, 100)
        assert found is not None
        # A window may begin 10 ms early: 90 % of it is enough.
        self.assertAlmostEqual(found / MS, 2190, delta=10)

    def test_a_burst_of_what_had_waited_is_no_recovery(self) -> None:
        line = series((100, FULL), (1, 20 * FULL), (9, FULL), (300, FULL // 2))
        self.assertIsNone(line.recovered_ns(2000 * MS, 5000 * MS, 100))

    def test_never_recovered(self) -> None:
        self.assertIsNone(series((100, FULL)).recovered_ns(2000 * MS, 5000 * MS, 100))

    def test_yielded_when_half_a_second_stays_below(self) -> None:
        line = series((100, FULL), (30, FULL), (200, FULL // 10))
        found = line.yielded_ns(2000 * MS, 4300 * MS, 20)
        assert found is not None
        # 500 ms from there carry 20 % at most: 50 ms at full rate are the 10 points above a tenth.
        self.assertAlmostEqual(found / MS, 2250, delta=15)
        self.assertIsNone(line.yielded_ns(2000 * MS, 4300 * MS, 5))


class LatencyTest(unittest.TestCase):
    histogram = [(10_000, 98), (30_000, 1), (50_000, 1)]

    def test_percentile(self) -> None:
        self.assertEqual(percentile_ms(self.histogram, 100, 0.5), 10)
        self.assertEqual(percentile_ms(self.histogram, 100, 0.99), 30)
        self.assertEqual(percentile_ms(self.histogram, 100, 1.0), 50)

    def test_a_message_that_never_came_is_later_than_all(self) -> None:
        self.assertEqual(percentile_ms(self.histogram, 101, 0.99), 50)
        self.assertIsNone(percentile_ms(self.histogram, 110, 0.99))
        self.assertIsNone(percentile_ms([], 0, 0.99))

    def test_share_within(self) -> None:
        self.assertAlmostEqual(share_within(self.histogram, 100, 30), 0.99)
        self.assertAlmostEqual(share_within(self.histogram, 200, 10), 0.49)
        self.assertEqual(share_within([], 0, 10), 0)


class ResultTest(unittest.TestCase):
    way = {name: 0 for name in FAULTS} | {"late_us_mean": 400.0}
    emulator = {"a_to_b": way, "b_to_a": way, "machine_busy_pct": 35.0}

    def flow(self, **got: int) -> SimpleNamespace:
        counted = {"base_ns": 0, "bin_ns": BIN, "bins": [FULL], "latency_us": []}
        return SimpleNamespace(kind=OURS, start_ns=0, sent={}, got=counted | got)

    def test_a_fault_of_the_transport_is_no_figure(self) -> None:
        for got, why in (
            ({"bulk_bytes": 0, "control_messages": 0}, "nothing arrived"),
            ({"bulk_bytes": FULL, "control_messages": 0, "out_of_order": 1}, "out of order"),
        ):
            with self.assertRaisesRegex(BenchError, why):
                result_of(self.flow(**got), self.emulator)  # type: ignore[arg-type]

    def test_shares_are_of_the_link(self) -> None:
        flow = self.flow(bulk_bytes=FULL, control_messages=0, out_of_order=0)
        result = result_of(flow, self.emulator)  # type: ignore[arg-type]
        self.assertAlmostEqual(result.share(100, 0, 0.01), 100)
        self.assertAlmostEqual(result.share(200, 0, 0.02), 25)


class FigureTest(unittest.TestCase):
    def test_met_needs_target_and_baseline(self) -> None:
        self.assertTrue(Figure(94, "%", 93, True, 93.5, True).met)
        self.assertEqual(Figure(94, "%", 93, True, 95, True).why_missed(), "behind bbr")
        self.assertEqual(Figure(92, "%", 93, True, 91, True).why_missed(), "target")
        self.assertTrue(Figure(94, "%", 93, True, 95).met)  # shown beside it, not to be beaten

    def test_maximum(self) -> None:
        self.assertTrue(Figure(17, "ms", 18, False).met)
        self.assertFalse(Figure(19, "ms", 18, False).met)
        self.assertFalse(Figure(None, "ms", 18, False).met)

    def test_json_has_what_the_issue_asks_for(self) -> None:
        entry = Figure(90.12345, "%", 93, True, 80, True, {"cubic": 4.4}).to_json()
        self.assertEqual(entry["value"], 90.123)
        self.assertEqual((entry["met"], entry["target"], entry["baseline"]), (False, 93, 80))
        self.assertEqual((entry["ratio"], entry["cubic"], entry["missed"]), (1.127, 4.4, "target"))

    def test_a_foreign_verdict_is_kept(self) -> None:
        for value, target, met in ((3, 3.5, True), (4, 3.5, False), (10, 9, True), (8, 9, False)):
            board = Board(lambda line: None)
            board.add_foreign("x", {"value": value, "unit": "us", "target": target, "met": met})
            self.assertEqual(board.to_json()["x"]["met"], met, (value, target))
        board.add_foreign("x", {"value": None, "unit": "us", "target": 3, "met": False})
        self.assertFalse(board.to_json()["x"]["met"])


class PlanTest(unittest.TestCase):
    def test_every_figure_of_the_issue_has_its_point_once(self) -> None:
        names = [point.name for point in all_points()]
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual(sum(name.startswith("goodput_") for name in names), 18)
        for word in ("outage_2s", "outage_10s", "control_p99", "scavenger", "cpu_us", "memory"):
            self.assertTrue(any(name.startswith(word) for name in names), word)

    def test_the_link_is_described_as_the_emulator_wants_it(self) -> None:
        options = Wan(100, 3.0, 4.0).options()
        self.assertIn("3:4", options)
        self.assertEqual(options[options.index("--queue-kib") + 1], "610")  # 50 ms of 100 Mbit/s
        self.assertEqual(options[options.index("--rtt-ms") + 1], "100")
        self.assertIn("--loss", Wan(20, 0.1).options())

    def test_a_run_is_distrusted_for_losses_of_the_emulators_own_and_for_lateness(self) -> None:
        way = {name: 0 for name in FAULTS} | {"late_us_mean": 400.0}
        stats = {"a_to_b": way, "b_to_a": way, "machine_busy_pct": 35.0}
        self.assertEqual(faults_of(stats), [])
        for change in ({"ring_drops": 1}, {"send_failed": 2}, {"late_us_mean": 9000.0}):
            self.assertEqual(len(faults_of(stats | {"b_to_a": way | change})), 1, change)
        self.assertEqual(len(faults_of(stats | {"machine_busy_pct": 99.0})), 1)


if __name__ == "__main__":
    unittest.main()
