"""`evacctl link`: what it shows, and a test of the line that ends by itself, says what it measured and is refused when it must be."""

from __future__ import annotations

import json
import unittest

from support import Pair, Workspace, wait_until

CEILING_MBIT = 100


class LinkTest(unittest.TestCase):
    workspace: Workspace
    pair: Pair

    @classmethod
    def setUpClass(cls) -> None:
        cls.workspace = Workspace()
        cls.pair = Pair(cls.workspace)
        try:
            cls.pair.start()
        except BaseException:
            cls.tearDownClass()
            raise

    @classmethod
    def tearDownClass(cls) -> None:
        try:
            cls.pair.stop()
        finally:
            cls.workspace.remove()

    def test_shows_the_line(self) -> None:
        shown = self.pair.a.ctl("-o", "json", "link")
        self.assertEqual(shown.code, 0, shown)
        link = json.loads(shown.out)
        self.assertEqual(link["state"], "up")
        self.assertEqual(link["ceiling_mbit"], CEILING_MBIT)
        self.assertEqual([c["class"] for c in link["classes"]], ["control", "demand", "disk", "bulk"])
        table = self.pair.b.ctl("link")
        self.assertEqual(table.code, 0, table)
        for word in ("up over kernel", "round trip", "losses", "demand"):
            self.assertIn(word, table.out)

    def test_measures_and_ends(self) -> None:
        done = self.pair.a.ctl("-o", "json", "link", "test", "--seconds", "2")
        self.assertEqual(done.code, 0, done)
        result = json.loads(done.out)
        self.assertFalse(result["running"])
        # Payload alone, so below the ceiling, which counts headers; that it is near it is the benchmark's matter.
        self.assertGreater(result["goodput_mbit"], 1)
        self.assertLess(result["goodput_mbit"], CEILING_MBIT)
        self.assertGreater(result["control"]["answered"], 0)
        self.assertLessEqual(result["control"]["answered"], result["control"]["sent"])
        wait_until("nothing is sent any more", lambda: self._bulk_unsent() == 0)
        first = self._bulk_sent()
        self.assertEqual(self.pair.a.ctl("link").code, 0)
        self.assertEqual(self._bulk_sent(), first)
        # The other side took it for what it is.
        self.assertNotIn("unexpected", self.pair.b.log_text())

    def _bulk(self) -> dict[str, int]:
        code, link = self.pair.a.api("GET", "/v1/link")
        assert code == 200, link
        return next(c for c in link["classes"] if c["class"] == "bulk")

    def _bulk_unsent(self) -> int:
        return self._bulk()["queued_bytes"]

    def _bulk_sent(self) -> int:
        return self._bulk()["sent_bytes"]

    def test_refusals(self) -> None:
        for seconds in (0, -1, 301):
            with self.subTest(seconds):
                done = self.pair.a.ctl("link", "test", "--seconds", str(seconds))
                self.assertEqual(done.code, 2, done)
                self.assertIn("seconds", done.err)
                self.assertIn("accepted: a number from 1 to 300", done.err)
        code, body = self.pair.a.api("POST", "/v1/link/test", {"second": 1})
        self.assertEqual(code, 400, body)
        self.assertEqual(self.pair.b.api("POST", "/v1/link/test", {"seconds": 5})[0], 202)
        code, body = self.pair.b.api("POST", "/v1/link/test", {"seconds": 5})
        self.assertEqual(code, 409, body)
        wait_until("it is over", lambda: not self.pair.b.api("GET", "/v1/link/test")[1]["running"])


if __name__ == "__main__":
    unittest.main()
