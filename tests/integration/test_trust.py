"""Whom the gateways trust: certificates read again on SIGHUP under a living session, damaged ones refused, another pair's gateway refused."""

from __future__ import annotations

import os
import signal
import time
import unittest

from support import Pair, Workspace, wait_until


class Reload(unittest.TestCase):
    def setUp(self) -> None:
        self.workspace = Workspace()
        self.pair = Pair(self.workspace)

    def tearDown(self) -> None:
        try:
            self.pair.stop()
        finally:
            self.workspace.remove()

    def _sessions(self) -> int:
        code, link = self.pair.a.api("GET", "/v1/link")
        assert code == 200, link
        return link["sessions"]

    def _hang_up(self) -> None:
        assert self.pair.a.process is not None
        os.kill(self.pair.a.process.pid, signal.SIGHUP)

    def test_certificates_are_read_again_and_the_session_goes_on(self) -> None:
        self.pair.start()
        before = self._sessions()
        self._hang_up()
        wait_until("they are read again", lambda: "are read again" in self.pair.a.log_text())
        time.sleep(0.5)
        self.assertTrue(self.pair.connected())
        self.assertEqual(self._sessions(), before)

    def test_damaged_files_change_nothing(self) -> None:
        self.pair.start()
        before = self._sessions()
        (self.workspace.keys / "site-a.pem").write_text("not a certificate\n")
        self._hang_up()
        wait_until("it is said", lambda: "what was read before stays in force" in self.pair.a.log_text())
        self.assertIn("wan.cert", self.pair.a.log_text())
        time.sleep(0.5)
        self.assertTrue(self.pair.connected())
        self.assertEqual(self._sessions(), before)

    def test_another_secret_is_taken_when_both_sites_have_it(self) -> None:
        self.pair.start()
        (self.workspace.keys / "pair.secret").write_text("cd" * 32 + "\n")
        self._hang_up()
        wait_until("it is said", lambda: "the pair has another secret" in self.pair.a.log_text())
        wait_until("the session is over", lambda: not self.pair.connected())
        assert self.pair.b.process is not None
        os.kill(self.pair.b.process.pid, signal.SIGHUP)
        wait_until("they are together again", self.pair.connected)

    def test_a_damaged_secret_changes_nothing(self) -> None:
        self.pair.start()
        before = self._sessions()
        (self.workspace.keys / "pair.secret").write_text("cd\n")
        self._hang_up()
        wait_until("it is said", lambda: "what was read before stays in force" in self.pair.a.log_text())
        self.assertIn("pair.secret_file", self.pair.a.log_text())
        time.sleep(0.5)
        self.assertTrue(self.pair.connected())
        self.assertEqual(self._sessions(), before)

    def test_the_gateway_of_another_pair_is_refused_with_the_reason(self) -> None:
        other = self.workspace.root / "other.secret"
        other.write_text("ab" * 32 + "\n")
        other.chmod(0o600)
        self.pair.b.sections["pair"]["secret_file"] = str(other)
        self.workspace.write(self.pair.b.name, self.pair.b.sections)
        self.pair.a.start()
        self.pair.b.start()
        logs = lambda: self.pair.a.log_text() + self.pair.b.log_text()  # noqa: E731
        wait_until("the reason is said", lambda: "pair" in logs())
        time.sleep(1)
        self.assertFalse(self.pair.a.status()["peer_connected"])
        self.assertFalse(self.pair.b.status()["peer_connected"])


if __name__ == "__main__":
    unittest.main()
