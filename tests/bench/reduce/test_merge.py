#!/usr/bin/python3
"""Merging of figures and what is said of producers that fail, without running any benchmark."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import importlib.util  # noqa: E402

from merge import Expected, Merged, checked, read_figures  # noqa: E402
from producers import Producer, producers  # noqa: E402

SPEC = importlib.util.spec_from_file_location("reduce_main", HERE / "__main__.py")
assert SPEC and SPEC.loader
MAIN = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MAIN)

FEWER = Expected("fewer", "times", "5")


def good(value: float = 6, **more: object) -> dict[str, object]:
    return {"value": value, "unit": "times", "target": 5, "met": True} | more


class MergeTest(unittest.TestCase):
    def test_a_reported_figure_is_taken_as_it_is(self) -> None:
        merged = Merged()
        merged.take("one", [FEWER], {"fewer": good(baseline=2)})
        self.assertEqual(merged.figures["fewer"], good(baseline=2) | {"by": "one"})
        self.assertEqual(merged.missed(), [])

    def test_what_is_owed_and_not_reported_is_missed(self) -> None:
        merged = Merged()
        merged.take("one", [FEWER], {})
        self.assertFalse(merged.figures["fewer"]["met"])
        self.assertEqual(merged.figures["fewer"]["missed"], "one does not report it")
        self.assertEqual(merged.missed(), ["fewer"])

    def test_a_broken_producer_is_missed_also_when_it_reported_all(self) -> None:
        merged = Merged()
        merged.take("one", [FEWER], {"fewer": good()}, "ended with status -11")
        self.assertEqual(merged.missed(), ["one_ran"])
        self.assertIn("ended with status -11", merged.table())

    def test_a_producer_cannot_drop_the_target(self) -> None:
        merged = Merged()
        merged.take("one", [FEWER], {"fewer": {"value": 6, "unit": "times", "target": None}})
        self.assertEqual(merged.missed(), ["fewer"])

    def test_a_name_reported_twice_is_missed(self) -> None:
        merged = Merged()
        merged.take("one", [FEWER], {"fewer": good()})
        merged.take("two", [], {"fewer": good(99)})
        self.assertEqual(merged.missed(), ["fewer"])
        self.assertEqual(merged.figures["fewer"]["value"], 6)

    def test_met_is_true_only_when_said_so_and_with_a_value(self) -> None:
        self.assertIs(checked(good(met=False))["met"], False)
        self.assertIs(checked(good(met="yes"))["met"], False)
        self.assertIs(checked({"value": None, "target": 5, "met": True})["met"], False)
        self.assertIs(checked({"value": 3, "target": 5})["met"], False)

    def test_a_figure_without_a_target_is_information(self) -> None:
        merged = Merged()
        merged.take("one", [], {"seen": {"value": 1, "unit": "x", "target": None, "met": None}})
        self.assertIsNone(merged.figures["seen"]["met"])
        self.assertEqual(merged.missed(), [])

    def test_left_out_is_shown_and_not_met_but_not_held_against_the_run(self) -> None:
        merged = Merged()
        merged.fail(FEWER, "left out by --quick", left_out=True)
        self.assertFalse(merged.figures["fewer"]["met"])
        self.assertEqual(merged.missed(), [])
        self.assertIn("left out by --quick", merged.table())

    def test_a_file_that_is_not_figures_says_why(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "x.json"
            self.assertEqual(read_figures(file), ({}, "it wrote no figures"))
            for text, why in (("{", "cannot be read"), ("[]", "no object"),
                              ('{"figures": {"a": 3}}', "no object")):  # fmt: skip
                file.write_text(text)
                self.assertIn(why, read_figures(file)[1])


class ProducersTest(unittest.TestCase):
    def test_each_figure_is_owed_by_one_producer(self) -> None:
        names = [e.name for p in producers() for e in p.expected]
        self.assertEqual(len(names), len(set(names)))

    def run_producer(self, program: str, text: str = "", status: int = 0, quick: bool = False,
                     leaves_out: tuple[str, ...] = ()) -> Merged:  # fmt: skip
        """A producer that is a script of this text, run as the real ones are."""
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / program
            if text:
                script.write_text(f"#!/bin/sh\n{text}\nexit {status}\n")
                script.chmod(0o755)
            merged = Merged()
            options = argparse.Namespace(bin=Path(folder), quick=quick, fresh=False)
            producer = Producer("one", program, [FEWER], quick_leaves_out=leaves_out)
            with contextlib.redirect_stdout(io.StringIO()):
                MAIN.run_producer(producer, options, Path(folder), merged)
            return merged

    def test_not_built(self) -> None:
        merged = self.run_producer("absent")
        self.assertEqual(merged.figures["fewer"]["missed"], "absent is not built")
        self.assertEqual(merged.missed(), ["fewer"])

    WRITES = """printf '{"figures": {"fewer": {"value": 6, "unit": "x", "target": 5, "met": %s}}}' """

    def test_figures_of_a_run_count_and_a_missed_one_may_end_with_1(self) -> None:
        self.assertEqual(self.run_producer("p", self.WRITES + 'true > "$2"').missed(), [])
        self.assertEqual(self.run_producer("p", self.WRITES + 'false > "$2"', 1).missed(), ["fewer"])

    def test_a_run_that_breaks_is_missed(self) -> None:
        self.assertEqual(self.run_producer("p", "true", 1).missed(), ["fewer"])
        broken = self.run_producer("p", self.WRITES + 'true > "$2"', 3)
        self.assertEqual(broken.missed(), ["one_ran"])

    def test_quick_names_what_it_leaves_out_and_owes_the_rest(self) -> None:
        nothing = """printf '{"figures": {}}' > "$2" """
        left_out = self.run_producer("p", nothing, quick=True, leaves_out=("fewer",))
        self.assertEqual(left_out.figures["fewer"]["missed"], "left out by --quick")
        self.assertEqual(left_out.missed(), [])
        self.assertEqual(self.run_producer("p", nothing, quick=True).missed(), ["fewer"])
        self.assertEqual(self.run_producer("p", nothing, leaves_out=("fewer",)).missed(), ["fewer"])

    def test_a_run_that_hangs_is_ended(self) -> None:
        self.assertEqual(MAIN.run_one(["sleep", "600"], 0.2), "not done after 0 s")


if __name__ == "__main__":
    unittest.main()
