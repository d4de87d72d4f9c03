"""evacctl without a daemon: usage, a daemon that is not there, plans from good, bad and hopeless inventories."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
import unittest
from pathlib import Path
from typing import Any

from support import BIN, Ended, run

OK, ERROR, USAGE, INFEASIBLE = 0, 1, 2, 3


def vm(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "memory_mib": 1024, "priority": 1, "unstaged_mib": 40,
            "dirty": [{"working_set_mib": 64, "rate_mib_s": 2}], "disk_write_mib_s": 0.5,
            "wire_ratio": 0.5, "max_downtime_ms": 1000, "switchover_ms": 200, **more}  # fmt: skip


GOOD: dict[str, Any] = {
    "link": {"goodput_mbit": 100, "rtt_ms": 20},
    "deadline_s": 300,
    "vms": [vm("db", after=["dns"]), vm("dns", unstaged_mib=4, dirty=[]), vm("web", host="host-1")],
}


class Evacctl(unittest.TestCase):
    folder: Path

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(prefix="evac-it-"))

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(cls.folder)

    def plan(self, text: str, *more: str) -> Ended:
        path = self.folder / "inventory.json"
        path.write_text(text)
        return run(BIN / "evacctl", "plan", "--dry-run", "--inventory", path, *more)

    def refused(self, text: str, *said: str, options: tuple[str, ...] = ()) -> None:
        for output in ("json", "table"):
            with self.subTest(text=text[-80:], said=said, options=options, output=output):
                saved = self.folder / "saved.json"
                saved.unlink(missing_ok=True)
                done = self.plan(text, "--output", output, "--save-inventory", str(saved), *options)
                self.assertEqual(done.code, USAGE, done)
                self.assertEqual(done.out, "", "nothing on standard output")
                self.assertEqual(len(done.err.splitlines()), 1, done.err)
                self.assertTrue(done.err.startswith("evacctl: "), done.err)
                for words in said:
                    self.assertIn(words, done.err)
                self.assertFalse(saved.exists(), "nothing is half-applied")

    def spoiled(self, path: list[Any], value: Any, *said: str) -> None:
        inventory = copy.deepcopy(GOOD)
        at = inventory
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value
        self.refused(json.dumps(inventory), *said)

    def test_no_daemon(self) -> None:
        nowhere = self.folder / "none.sock"
        for verb in (["status"], ["vm", "list"], ["vm", "add", "x", "--qmp", "/x"], ["vm", "show", "x"],
                     ["vm", "remove", "x"], ["plan", "--dry-run"], ["evacuate"], ["evacuation"],
                     ["abort"], ["report"], ["report", "--list"], ["link"], ["link", "test"], ["alert", "test"], ["alert", "list"], ["doctor"]):  # fmt: skip
            with self.subTest(verb):
                done = run(BIN / "evacctl", "--socket", nowhere, *verb)
                self.assertEqual((done.code, done.out), (ERROR, ""), done)
                self.assertIn(f"no evacgwd answers at '{nowhere}'", done.err)
                self.assertEqual(len(done.err.splitlines()), 1)

    def test_usage(self) -> None:
        for arguments in ([], ["stauts"], ["status", "extra"], ["status", "--bogus"], ["vm"],
                          ["vm", "add"], ["vm", "add", "x"], ["vm", "show"], ["vm", "remove"],
                          ["vm", "add", "x", "--qmp", "/x", "--priority", "much"], ["alert"],
                          ["--output", "yaml", "status"], ["plan"], ["plan", "--dry-run", "--rate"],
                          ["plan", "--dry-run", "--rate", "fast"], ["plan", "--inventory", "x"],
                          ["plan", "--dry-run", "--inventory", "/nowhere.json"]):  # fmt: skip
            with self.subTest(arguments):
                done = run(BIN / "evacctl", *arguments)
                self.assertEqual(done.code, USAGE, done)
                self.assertEqual(done.out, "")
                self.assertNotEqual(done.err, "")

    def test_help_and_version(self) -> None:
        self.assertEqual(run(BIN / "evacctl", "--help").code, OK)
        self.assertRegex(run(BIN / "evacctl", "--version").out, r"evacctl \d+\.\d+")

    def test_numbers(self) -> None:
        self.spoiled(["link", "goodput_mbit"], 0, "link.goodput_mbit: 0 is refused", "accepted: a number")
        self.spoiled(["link", "goodput_mbit"], -100, "link.goodput_mbit: -100 is refused")
        self.spoiled(["link", "rtt_ms"], -1, "link.rtt_ms: -1 is refused")
        self.spoiled(["deadline_s"], -1, "deadline_s: -1 is refused", "or null")
        for field in ("memory_mib", "unstaged_mib", "disk_write_mib_s", "wire_ratio", "max_downtime_ms",
                      "switchover_ms", "priority"):  # fmt: skip
            self.spoiled(["vms", 1, field], -3, f"vms[1].{field}: -3 is refused", "a number >")
        self.spoiled(["vms", 0, "priority"], 0.5, "vms[0].priority: 0.5 is refused", ">= 1")
        self.spoiled(["vms", 0, "dirty", 0, "rate_mib_s"], -2, "vms[0].dirty[0].rate_mib_s: -2")
        for value, shown in ((float("nan"), "NaN"), (float("inf"), "Infinity"), (float("-inf"), "-")):
            self.spoiled(["vms", 2, "unstaged_mib"], value, "vms[2].unstaged_mib", "finite", shown[0])
        self.refused(json.dumps(GOOD).replace('"goodput_mbit": 100', '"goodput_mbit": 1e999'),
                     "link.goodput_mbit")  # fmt: skip

    def test_shape(self) -> None:
        self.spoiled(["vms", 0, "colour"], "red", "vms[0].colour", "unknown field", "accepted: ", "wire_ratio")
        self.spoiled(["links"], {}, "links", "unknown field")
        self.spoiled(["vms", 0, "memory_mib"], "1024", "vms[0].memory_mib", '"1024"', "a number")
        self.spoiled(["vms", 0, "name"], 5, "vms[0].name: 5 is refused", "text")
        self.spoiled(["vms", 0, "name"], "", "vms[0].name", "1 to")
        self.spoiled(["vms", 0, "dirty"], None, "vms[0].dirty: null is refused")
        self.spoiled(["vms", 0, "after"], "dns", "vms[0].after", "a list of names")
        self.spoiled(["vms"], [], "vms: an empty list is refused", "1 to")
        self.spoiled(["vms"], {}, "vms", "a list of VMs")
        self.spoiled(["link"], [], "link", "an object with goodput_mbit and rtt_ms")
        self.spoiled(["vms", 2, "name"], "db", 'vms[2].name: "db" is refused', "vms[0] has it")
        missing = copy.deepcopy(GOOD)
        del missing["vms"][1]["wire_ratio"]
        self.refused(json.dumps(missing), "vms[1].wire_ratio: missing")
        self.refused("", "inventory: not JSON")
        self.refused("[]", "inventory")
        self.refused('{"link": ', "link: not JSON")
        self.refused("[" * 100_000, "inventory")
        done = run(BIN / "evacctl", "plan", "--dry-run", "--inventory", self.folder)
        self.assertEqual((done.code, done.out), (USAGE, ""), done)
        self.assertIn(str(self.folder), done.err)

    def test_after(self) -> None:
        self.spoiled(["vms", 1, "after"], ["db"], "after: db -> dns -> db is a cycle")
        self.spoiled(["vms", 1, "after"], ["dns"], "dns -> dns is a cycle")
        self.spoiled(["vms", 1, "after"], ["nobody"], "vms[1].after[0]", '"nobody"', "the name of a VM")

    def test_what_if(self) -> None:
        good = json.dumps(GOOD)
        self.refused(good, "rate: 0 is refused", options=("--rate", "0"))
        self.refused(good, "rate: -5 is refused", options=("--rate=-5",))
        self.refused(good, "rate: nan is refused", options=("--rate", "nan"))
        self.refused(good, "rate: inf is refused", options=("--rate", "inf"))
        self.refused(good, "deadline: -1 is refused", options=("--deadline=-1",))
        self.refused(good, '"nobody" is refused', options=("--exclude", "nobody"))
        self.refused(good, '"nobody"', options=("--freeze", "nobody"))
        self.refused(good, '"nobody" is refused', options=("--priority", "nobody=2"))
        self.refused(good, 'priority of "db"', ">= 1", options=("--priority", "db=0.5"))
        for text in ("db", "db=", "=3", "db=high", "db=1x"):
            self.refused(good, f"--priority: '{text}' is refused", "NAME=WEIGHT", options=("--priority", text))
        self.refused(good, "--compare: 'best' is refused", "shortest-first", options=("--compare", "best"))

    def test_priority_and_compare(self) -> None:
        # The link carries one of two equal VMs by then: the one that counts more.
        two = {**GOOD, "vms": [vm("one", unstaged_mib=300, dirty=[]), vm("two=2", unstaged_mib=300, dirty=[])]}
        for favourite in ("one", "two=2"):
            done = self.plan(json.dumps(two), "--output", "json", "--deadline", "18",
                             "--priority", f"{favourite}=7", "--compare", "fifo", "--compare", "priority")  # fmt: skip
            self.assertEqual(done.code, INFEASIBLE, done)
            plan = json.loads(done.out)
            self.assertEqual(plan["order"][0], favourite)
            self.assertEqual(plan["weighted_rescued"], 7)
            rules = {entry["policy"]: entry["weighted_rescued"] for entry in plan["compare"]}
            self.assertEqual(rules, {"fifo": 7 if favourite == "one" else 1, "priority": 7})
        table = self.plan(json.dumps(two), "--compare", "a/b")
        self.assertEqual(table.code, OK)
        self.assertRegex(table.out, r"this plan +\d.*\n *a/b +\d")

    def test_a_good_plan(self) -> None:
        done = self.plan(json.dumps(GOOD), "--output", "json")
        self.assertEqual((done.code, done.err), (OK, ""), done)
        plan = json.loads(done.out)
        self.assertEqual(sorted(plan["order"]), ["db", "dns", "web"])
        self.assertLess(plan["order"].index("dns"), plan["order"].index("db"), "after")
        for field in ("makespan_s", "lower_bound_s", "gap", "weighted_rescued", "solve_ms"):
            self.assertGreaterEqual(plan[field], 0, field)
        self.assertLessEqual(plan["lower_bound_s"], plan["makespan_s"] + 1e-9)
        self.assertEqual(plan["weighted_rescued"], 3)
        self.assertEqual(sorted(entry["name"] for entry in plan["vms"]), ["db", "dns", "web"])
        for entry in plan["vms"]:
            self.assertLessEqual(entry["start_s"], entry["link_end_s"])
            self.assertLess(entry["link_end_s"], entry["away_s"])
            self.assertGreater(entry["downtime_ms"], 0)
            self.assertGreater(entry["bytes_mib"], 0)
            self.assertIn(entry["mode"], ("live", "freeze"))
            self.assertIs(entry["meets_deadline"], True)
        self.assertAlmostEqual(max(entry["away_s"] for entry in plan["vms"]), plan["makespan_s"])
        table = self.plan(json.dumps(GOOD))
        self.assertEqual(table.code, OK)
        for name in ("db", "dns", "web"):
            self.assertIn(name, table.out)

    def test_a_hopeless_deadline(self) -> None:
        for options, deadline in ((("--output", "json"), 1), (("--output", "json", "--deadline", "1"), 300)):
            done = self.plan(json.dumps({**GOOD, "deadline_s": deadline}), *options)
            self.assertEqual(done.code, INFEASIBLE, done)
            plan = json.loads(done.out)  # printed all the same
            self.assertIn(False, [entry["meets_deadline"] for entry in plan["vms"]])
            self.assertLess(plan["weighted_rescued"], 3)
        self.assertIn("db", self.plan(json.dumps({**GOOD, "deadline_s": 1})).out)


if __name__ == "__main__":
    unittest.main()
