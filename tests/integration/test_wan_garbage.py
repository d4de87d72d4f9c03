"""Datagrams from strangers, at a running pair: dropped and harmless; the session goes on."""

from __future__ import annotations

import os
import random
import socket
import time
import unittest

from support import Pair, Workspace, wait_until

SEED = 7
DATAGRAMS = 3000


class Garbage(unittest.TestCase):
    def setUp(self) -> None:
        self.work = Workspace()
        self.addCleanup(self.work.remove)
        self.pair = Pair(self.work)
        self.addCleanup(self.pair.stop)
        self.pair.start()

    def sessions(self) -> int:
        """Handshakes that were completed, both sites, from their logs."""
        return sum(d.log_text().count("is up\n") for d in (self.pair.a, self.pair.b))

    def received(self) -> int:
        return int(self.pair.b.status()["link"]["bytes_received"])

    def test_the_session_goes_on(self) -> None:
        before_sessions, before_bytes = self.sessions(), self.received()
        rng = random.Random(SEED)
        print(f"seed {SEED}, {DATAGRAMS} datagrams to each site")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for i in range(DATAGRAMS):
                size = rng.choice((0, 1, 8, 13, 16, 40, 200, 1200, 1472, 9000))
                body = bytearray(rng.randbytes(size))
                if size and i % 2:
                    # First bytes that mean something: DTLS records, and every type of packet.
                    body[0] = rng.choice((20, 21, 22, 23, *range(16), 0x40, 0x80, 0xC0, 0xFF))
                    if size >= 13 and i % 4 == 1:
                        body[1:3] = b"\xfe\xfd"
                for port in (self.pair.a_port, self.pair.b_port):
                    try:
                        stranger.sendto(body, ("127.0.0.1", port))
                    except OSError:
                        pass  # the kernel's queue is full: as good as lost
                if i % 50 == 0:
                    time.sleep(0.002)
        # Heartbeats went through meanwhile and still do; nobody had to shake hands anew.
        wait_until("traffic goes on", lambda: self.received() > before_bytes)
        after_bytes = self.received()
        wait_until("and on", lambda: self.received() > after_bytes)
        self.assertTrue(self.pair.connected())
        self.assertEqual(self.sessions(), before_sessions)
        for daemon in (self.pair.a, self.pair.b):
            daemon.check_alive()
            self.assertLess(len(daemon.log_text().splitlines()), 500, "the log is not flooded")

    def test_a_peer_with_a_strangers_certificate(self) -> None:
        """Same name, another authority: never connected."""
        self.pair.b.stop()
        stranger = Workspace()
        self.addCleanup(stranger.remove)
        wan = self.pair.b.sections["wan"]
        wan.update({"ca": str(stranger.keys / "ca.pem"), "cert": str(stranger.keys / "site-b.pem"),
                    "key": str(stranger.keys / "site-b.key")})  # fmt: skip
        self.pair.b.config = self.work.write("site-b", self.pair.b.sections)
        wait_until("a knows that b is gone", lambda: not self.pair.a.status()["link"]["state"] == "up", 30)
        sessions = self.pair.a.log_text().count("session with site-b is up")
        self.pair.b.start()
        time.sleep(3)  # handshakes are tried several times a second
        self.assertFalse(self.pair.b.status()["peer_connected"])
        self.assertEqual(self.pair.a.log_text().count("session with site-b is up"), sessions)


if __name__ == "__main__":
    os.umask(0o077)
    unittest.main()
