"""The daemon's life: systemd's protocol, stop, restart, kill, and a second daemon over the same state."""

from __future__ import annotations

import copy
import signal
import socket
import unittest
from pathlib import Path

from support import BIN, Daemon, Pair, Workspace, free_port, run, wait_until


class Lifecycle(unittest.TestCase):
    def setUp(self) -> None:
        self.work = Workspace()
        self.addCleanup(self.work.remove)

    def single(self) -> Daemon:
        ports = [free_port(socket.SOCK_DGRAM) for _ in range(2)]
        daemon = Daemon(self.work, self.work.sections("site-a", ports[0], "site-b", ports[1]))
        self.addCleanup(daemon.stop, signal.SIGKILL)
        return daemon

    def test_systemd(self) -> None:
        path = self.work.root / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(str(path))
            systemd.settimeout(10)
            daemon = self.single()
            daemon.start({"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "600000"})
            said = [systemd.recv(4096).decode()]
            while said.count("WATCHDOG=1") < 3 or "READY=1" not in said:
                said.append(systemd.recv(4096).decode())
            self.assertEqual(said.count("READY=1"), 1, said)
            self.assertEqual(daemon.stop(), 0)
            systemd.settimeout(0.2)
            try:
                while True:
                    said.append(systemd.recv(4096).decode())
            except TimeoutError:
                pass
            self.assertEqual(said[-1], "STOPPING=1")

    def test_stop_and_restart(self) -> None:
        for by in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(by):
                daemon = self.single()
                for _ in range(2):  # the second start finds the state of the first
                    daemon.start()
                    self.assertTrue(daemon.socket.exists())
                    self.assertEqual(daemon.stop(by), 0, daemon.log_text()[-1000:])
                    self.assertFalse(daemon.socket.exists(), "the socket is removed")
                self.assertNotIn(" error ", daemon.log_text())

    def test_start_after_a_kill(self) -> None:
        daemon = self.single()
        daemon.start()
        daemon.stop(signal.SIGKILL)
        self.assertTrue(daemon.socket.exists(), "left over")
        daemon.start()
        self.assertEqual(daemon.stop(), 0)

    def refused(self, config: Path, *said: str) -> None:
        done = run(BIN / "evacgwd", "--config", config)
        self.assertIn(done.code, (1, 2), done)
        last = done.err.splitlines()[-1]
        self.assertTrue(last.startswith("evacgwd: "), done.err)
        for words in said:
            self.assertIn(words, last)

    def test_a_second_daemon(self) -> None:
        first = self.single()
        first.start()
        self.refused(first.config)
        first.check_alive()
        # The same state alone, everything else its own.
        sections = copy.deepcopy(first.sections)
        own = self.work.root / "second"
        sections["site"]["run_dir"] = str(own)
        sections["api"]["socket"] = str(own / "api.sock")
        sections["wan"]["local"] = f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
        sections["webhook"]["listen"] = f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"
        self.refused(self.work.write("second", sections), str(first.state))
        # The same API socket, or the same ports.
        for section, key in (("api", "socket"), ("webhook", "listen"), ("wan", "local")):
            with self.subTest(f"{section}.{key}"):
                other = copy.deepcopy(sections)
                other["site"]["state_dir"] = str(own / f"state-{section}")
                other["staging"]["ram_dir"] = str(own / "ram")
                other[section][key] = first.sections[section][key]
                self.refused(self.work.write("second", other), other[section][key])
        first.check_alive()
        self.assertEqual(first.api("GET", "/v1/status")[0], 200)

    def test_either_of_a_pair_restarts(self) -> None:
        pair = Pair(self.work)
        self.addCleanup(pair.stop)
        pair.start()
        for daemon, by in ((pair.b, signal.SIGTERM), (pair.a, signal.SIGKILL)):
            other = pair.a if daemon is pair.b else pair.b
            before = other.log_text().count(f"session with {daemon.name} is up")
            daemon.stop(by)
            daemon.start()
            wait_until("a new session", lambda o=other, d=daemon, n=before:
                       o.log_text().count(f"session with {d.name} is up") > n, 30)  # fmt: skip
            pair.wait_connected()


if __name__ == "__main__":
    unittest.main()
