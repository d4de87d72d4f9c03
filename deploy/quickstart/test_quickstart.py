"""The quickstart's own parts that need neither guests nor a gateway."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
import tomllib
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import alert  # noqa: E402
import run  # noqa: E402
import sites  # noqa: E402
from display import table  # noqa: E402
from network import Link, emulator_command, parse_rate  # noqa: E402
from report import Outcome, VmOutcome  # noqa: E402

PROOFS = {
    "runs_only_at_away": True,
    "counter": True,
    "memory_checksum": True,
    "disk": True,
    "differing_pages": None,
}


def outcome(passed: bool = True) -> Outcome:
    proofs = PROOFS | {"counter": passed}
    vm = VmOutcome("vm-1", 200.0, 1.5, 1.0, 80.0, 1.2, 1.4, proofs, passed)
    peer = {"method": "stock QEMU", "total_s": 140.0, "wire_mib": 1000.0}
    return Outcome([vm], 1.4, 1.0, Link(100, 20, 0.1, 1), peer)


class Report(unittest.TestCase):
    def test_has_exactly_the_promised_fields(self) -> None:
        report = outcome().report()
        self.assertEqual(
            set(report), {"vms", "alert_to_last_running_s", "wire_mib_after_alert", "link", "peer"}
        )
        self.assertEqual(set(report["vms"][0]), {
            "name", "staged_mib", "backlog_mib", "wire_mib", "downtime_ms", "predicted_away_s",
            "away_s", "proofs",
        })  # fmt: skip
        self.assertEqual(set(report["vms"][0]["proofs"]), set(PROOFS))
        self.assertEqual(report["link"], {"rate_mbit": 100, "rtt_ms": 20, "loss_pct": 0.1})
        self.assertEqual(set(report["peer"]), {"method", "total_s", "wire_mib"})

    def test_a_failed_proof_fails_the_run_and_is_shown(self) -> None:
        self.assertTrue(outcome().passed)
        self.assertFalse(outcome(passed=False).passed)
        self.assertIn("FAILED: counter", "\n".join(outcome(passed=False).lines()))

    def test_ratios_and_prediction_error_are_shown(self) -> None:
        text = "\n".join(outcome().lines())
        self.assertIn("100.0 times the time, 1000.0 times the bytes", text)
        self.assertIn("prediction error +0.20 s", text)

    def test_table_aligns(self) -> None:
        self.assertEqual(table(["a", "b"], [["xx", "1"]]), ["a   b", "--  -", "xx  1"])


class Options(unittest.TestCase):
    def test_rates(self) -> None:
        self.assertEqual(
            (parse_rate("100mbit"), parse_rate("1gbit"), parse_rate("2000kbit")), (100, 1000, 2)
        )
        for bad in ("100", "fast", "-1mbit", "10gbit", "0mbit", "1e3mbit", ""):
            with self.assertRaises(ValueError, msg=bad):
                parse_rate(bad)

    def test_bad_options_end_with_usage(self) -> None:
        bad = (["--vms", "0"], ["--vms", "7"], ["--rate", "5"], ["--loss", "-1"], ["--loss", "nan"],
               ["--rtt-ms", "x"], ["--report", "/nonexistent/x.json"], ["--unknown"])  # fmt: skip
        for arguments in bad:
            with self.assertRaises(SystemExit, msg=arguments) as caught, contextlib.redirect_stderr(
                io.StringIO()
            ):
                run.parse_options(arguments)
            self.assertEqual(caught.exception.code, 2)

    def test_emulator_command(self) -> None:
        command = emulator_command(Path("/bin/wan-emulator"), Link(100, 20, 0.1, 7), Path("/w"))
        for pair in (
            ["--rate", "100mbit"],
            ["--rtt-ms", "20"],
            ["--loss", "0.1"],
            ["--queue-kib", "610"],
        ):
            self.assertEqual(command[command.index(pair[0]) + 1], pair[1])


class Alert(unittest.TestCase):
    def test_signature_is_the_reference_vector(self) -> None:
        body = b'{"test": 2432232314}'
        signed = alert.signature(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1614265330,
            body,
        )
        self.assertEqual(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")


    def test_body_is_an_actual_alert(self) -> None:
        body = alert.alert_body("event-1")
        self.assertEqual((body["status"], body["kind"], body["version"]), ("actual", "alert", 1))


class Configuration(unittest.TestCase):
    def test_sites_mirror_each_other(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            a, b = sites.SiteLayout(Path(folder), "site-a"), sites.SiteLayout(
                Path(folder), "site-b"
            )
            ours = tomllib.loads(sites.site_config(a, b, Path(folder), "a0", 100))
            theirs = tomllib.loads(sites.site_config(b, a, Path(folder), "b0", 100))
        self.assertEqual(ours["wan"]["local"], theirs["wan"]["peer"])
        self.assertEqual(ours["wan"]["peer"], theirs["wan"]["local"])
        self.assertEqual({ours["wan"]["role"], theirs["wan"]["role"]}, {"connect", "listen"})
        self.assertEqual(ours["landing"]["path_map"], [[str(b.vms), str(a.vms)]])
        self.assertEqual(ours["alert"]["rule"][0]["source"], "json")



class GoneReader(unittest.TestCase):
    def test_output_nobody_reads_is_no_error(self) -> None:
        """As after `| head`: cleaning up still has to happen."""
        code = "import display; d = display.Display(); [d.say('x' * 9000) for _ in range(99)]; d.heading('y')"
        with subprocess.Popen(
            [sys.executable, "-c", code], cwd=Path(__file__).resolve().parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout and process.stderr
            process.stdout.close()
            said = process.stderr.read().decode()
            self.assertEqual((process.wait(30), said), (0, ""))


if __name__ == "__main__":
    unittest.main()
