"""evacctl simulate: good, bad and hopeless scenarios; the page; the quickstart's scenario against the plan."""

from __future__ import annotations

import json
import shutil
import tempfile
import unittest
from pathlib import Path
from typing import Any

from support import BIN, ROOT, Ended, run

OK, USAGE, INFEASIBLE = 0, 2, 3
EXAMPLES = ROOT / "docs" / "examples"
INVENTORY: dict[str, Any] = {
    "link": {"goodput_mbit": 100, "rtt_ms": 20},
    "deadline_s": 300,
    "vms": [{"name": f"vm{i}", "memory_mib": 1024, "priority": 1 + i, "unstaged_mib": 20 + 9 * i,
             "dirty": [{"working_set_mib": 64, "rate_mib_s": 0.5}], "disk_write_mib_s": 0.1,
             "wire_ratio": 0.5, "max_downtime_ms": 1000, "switchover_ms": 200, "host": "h1"}
            for i in range(6)],
}  # fmt: skip


class Simulate(unittest.TestCase):
    folder: Path

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(prefix="evac-it-"))
        (cls.folder / "inventory.json").write_text(json.dumps(INVENTORY))

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(cls.folder)

    def simulate(self, scenario: str | Path, *more: str) -> Ended:
        path = scenario if isinstance(scenario, Path) else self.folder / "scenario.json"
        if isinstance(scenario, str):
            path.write_text(scenario)
        return run(BIN / "evacctl", "simulate", "--inventory", self.folder / "inventory.json",
                   "--scenario", path, *more)  # fmt: skip

    def test_the_quickstarts_scenario_is_the_plan(self) -> None:
        inventory = self.folder / "inventory.json"
        freeze = [word for vm in INVENTORY["vms"] for word in ("--freeze", vm["name"])]
        plan = run(BIN / "evacctl", "plan", "--dry-run", "--inventory", inventory, *freeze, "-o", "json")
        done = self.simulate(EXAMPLES / "scenario-quickstart.json", "-o", "json")
        self.assertEqual((done.code, done.err), (OK, ""), done)
        told = json.loads(done.out)
        self.assertEqual((told["schema"], told["vms"], told["mode"]), (1, 6, "freeze"))
        makespan_s = told["policies"][0]["makespan_s"]["median"]
        self.assertAlmostEqual(makespan_s, json.loads(plan.out)["makespan_s"], places=6)

    def test_distributions_and_page(self) -> None:
        page = self.folder / "report.html"
        scenario = EXAMPLES / "scenario-generator-fails.json"
        done = self.simulate(scenario, "--seeds", "5", "--report", str(page), "-o", "json")
        self.assertIn(done.code, (OK, INFEASIBLE), done)
        told = json.loads(done.out)
        self.assertEqual(told["seeds"], 5)
        self.assertEqual(len(told["policies"]), 6)
        self.assertEqual(done.code == OK, told["feasible"])
        for policy in told["policies"]:
            self.assertEqual(sum(end["mean"] for end in policy["ends"].values()), 6)
        self.assertEqual(page.read_text().count("<svg"), 3)
        again = json.loads(self.simulate(scenario, "--seeds", "5", "-o", "json").out)
        self.assertEqual(again["policies"], told["policies"], "the same seeds, the same result")
        self.assertIn("makespan, s", self.simulate(scenario).out)

    def test_lost_vms_are_exit_code_3(self) -> None:
        done = self.simulate('{"power": [{"at_s": 0}]}', "-o", "json")
        self.assertEqual((done.code, done.err), (INFEASIBLE, ""), done)
        self.assertEqual(json.loads(done.out)["policies"][0]["ends"]["lost"]["min"], 6)

    def test_refusals(self) -> None:
        page = self.folder / "never.html"
        for text, said in (
            ('{"bandwidth": [{"at_s": 0, "mbit": -1}]}', "bandwidth[0].mbit: -1 is refused"),
            ('{"bandwidth": [{"at_s": 0, "mbit": NaN}]}', "bandwidth[0].mbit: not JSON"),
            ('{"power": [{"at_s": 1, "hosts": ["h9"]}]}', 'power[0].hosts[0]: "h9" is refused'),
            ('{"colour": 1}', "colour: unknown field"),
            ("", "scenario: not JSON"),
        ):
            with self.subTest(text):
                done = self.simulate(text, "--report", str(page))
                self.assertEqual((done.code, done.out), (USAGE, ""), done)
                self.assertIn(said, done.err)
                self.assertIn("accepted", done.err)
                self.assertEqual(len(done.err.splitlines()), 1)
                self.assertFalse(page.exists(), "nothing is half-done")
        for arguments in (["--seeds", "0"], ["--seeds", "1001"], ["--seeds", "few"], ["--report"]):
            with self.subTest(arguments):
                done = self.simulate("{}", *arguments)
                self.assertEqual((done.code, done.out), (USAGE, ""), done)
        for arguments in ([], ["--inventory", "x"], ["--inventory", "/nowhere", "--scenario", "/nowhere"]):
            done = run(BIN / "evacctl", "simulate", *arguments)
            self.assertEqual((done.code, done.out), (USAGE, ""), done)


if __name__ == "__main__":
    unittest.main()
