#!/usr/bin/python3
"""How the benchmark ends: nothing may stay behind when it is interrupted, nor when a flow breaks.

    EVAC_BIN=build/release/bin tests/bench/wan/test_ends.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCRIPT = HERE.parent / "wan.sh"
BINARIES = Path(os.environ.get("EVAC_BIN", HERE.parent.parent.parent / "build/release/bin"))
POINT = "goodput_rtt20_loss0"


def namespaces_of(pid: int) -> list[str]:
    shown = subprocess.run(["ip", "netns", "list"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return [line.split()[0] for line in shown.splitlines() if line.startswith(f"evac-w{pid}-")]


def pids_in(names: list[str]) -> list[int]:
    pids: list[int] = []
    for name in names:
        shown = subprocess.run(["ip", "netns", "pids", name], stdout=subprocess.PIPE, text=True, check=False)
        pids += [int(word) for word in shown.stdout.split()]
    return pids


def exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Bench:
    """A run of one point with a temporary folder of its own."""

    def __init__(self, test: unittest.TestCase, binaries: Path, *more: str) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="evacgw-bench-ends-")
        test.addCleanup(self.folder.cleanup)
        self.process = subprocess.Popen(
            [str(SCRIPT), "--quick", "--only", POINT, "--bin", str(binaries), *more],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "TMPDIR": self.folder.name},
        )  # fmt: skip

    def await_flow(self) -> list[int]:
        """Until the emulator and both ends of the first flow are there; their pids."""
        deadline = time.monotonic() + 30
        while len(pids := pids_in(namespaces_of(self.process.pid))) < 3:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"no flow came up: {self.process.communicate()[0]}")
            time.sleep(0.05)
        return pids

    def left_in_temporary(self) -> list[str]:
        return os.listdir(self.folder.name)


class EndsTest(unittest.TestCase):
    def test_nothing_stays_behind_on_a_signal(self) -> None:
        for kind in (signal.SIGTERM, signal.SIGINT):
            bench = Bench(self, BINARIES)
            pids = bench.await_flow()
            bench.process.send_signal(kind)
            said = bench.process.communicate(timeout=60)[0]
            self.assertEqual(bench.process.returncode, 130, said)
            self.assertEqual(namespaces_of(bench.process.pid), [])
            self.assertEqual([pid for pid in pids if exists(pid)], [])
            self.assertEqual(bench.left_in_temporary(), [])

    def test_no_process_outlives_a_killed_run(self) -> None:
        bench = Bench(self, BINARIES)
        pids = bench.await_flow()
        names = namespaces_of(bench.process.pid)
        bench.process.kill()
        bench.process.communicate(timeout=60)
        deadline = time.monotonic() + 30
        while any(exists(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
        left = [pid for pid in pids if exists(pid)]
        for name in names:  # a killed program cannot remove these itself
            subprocess.run(["ip", "netns", "del", name], check=False)
        self.assertEqual(left, [])

    def test_a_broken_flow_is_reported_and_cleaned_up(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            binaries, report = Path(folder), Path(folder) / "report.json"
            (binaries / "wan-emulator").symlink_to(BINARIES / "wan-emulator")
            (binaries / "wan-flow").write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
            (binaries / "wan-flow").chmod(0o755)
            bench = Bench(self, binaries, "--json", str(report))
            said = bench.process.communicate(timeout=60)[0]
            self.assertEqual(bench.process.returncode, 1, said)
            self.assertIn("no such luck", said)
            self.assertEqual(namespaces_of(bench.process.pid), [])
            self.assertEqual(bench.left_in_temporary(), [])
            written = json.loads(report.read_text())
            self.assertEqual((written["figures"], len(written["broken"])), ({}, 1))

    def test_bad_input_is_named(self) -> None:
        for arguments, expected in (
            (["--seconds", "1"], ("--seconds 1", "7 to 600")),
            (["--only", "nonsense"], ("--only nonsense", "--list")),
            (["--bin", "/nowhere"], ("/nowhere", "no wan-flow there")),
        ):
            done = subprocess.run([str(SCRIPT), *arguments], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, check=False)  # fmt: skip
            self.assertIn(done.returncode, (1, 2))
            for words in expected:
                self.assertIn(words, done.stdout)


FLOW = {
    "--role": "send", "--port": "kernel", "--local": "127.0.0.1:4500", "--peer": "127.0.0.1:4501",
    "--cert": "/nowhere.pem", "--key": "/nowhere.key", "--ca": "/nowhere.pem",
    "--peer-name": "site-b", "--seconds": "1",
}  # fmt: skip


class FlowOptionsTest(unittest.TestCase):
    def test_bad_input_is_named(self) -> None:
        for option, value, expected in (
            ("--role", "both", ("--role", "both", "receive")),
            ("--local", "10.0.0.999:1", ("--local", "10.0.0.999")),
            ("--peer", "here", ("--peer", "here")),
            ("--seconds", "0", ("--seconds", "0", "3600")),
            ("--bulk-bytes", "7", ("--bulk-bytes", "7", "16")),
            ("--control-bytes", "15", ("--control-bytes", "15", "16")),
            ("--port", "carrier-pigeon", ("--port", "carrier-pigeon", "dpdk:af_packet:INTERFACE")),
            ("--cert", "/gone.pem", ("/gone.pem",)),
        ):
            words = [word for pair in (FLOW | {option: value}).items() for word in pair]
            done = subprocess.run([str(BINARIES / "wan-flow"), *words], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, timeout=30, check=False)  # fmt: skip
            self.assertIn(done.returncode, (1, 2), done.stdout)
            for word in expected:
                self.assertIn(word, done.stdout)


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("SKIPPED: needs root for network namespaces")
        sys.exit(77)
    unittest.main()
