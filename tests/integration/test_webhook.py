"""The webhook of a running daemon: what is not signed, stale, not understood or only an exercise moves nothing."""

from __future__ import annotations

import base64
import json
import socket
import unittest
from typing import Any

from support import Daemon, Workspace, free_port


def alert(**more: Any) -> bytes:
    body = {"version": 1, "id": "t-1", "event": "quake-1", "status": "actual", "kind": "alert", **more}
    return json.dumps(body).encode()


class Webhook(unittest.TestCase):
    work: Workspace
    daemon: Daemon

    @classmethod
    def setUpClass(cls) -> None:
        cls.work = Workspace()
        cls.addClassCleanup(cls.work.remove)
        ports = [free_port(socket.SOCK_DGRAM) for _ in range(2)]
        cls.daemon = Daemon(cls.work, cls.work.sections("site-a", ports[0], "site-b", ports[1]))
        cls.addClassCleanup(cls.daemon.stop)
        cls.daemon.start()

    def tearDown(self) -> None:
        """Whatever was sent: no evacuation began, and the daemon lives."""
        self.daemon.check_alive()
        self.assertEqual(self.daemon.api("GET", "/v1/evacuation"), (200, None))
        done = self.daemon.ctl("evacuation")
        self.assertEqual((done.code, done.out), (0, "There was no evacuation.\n"))

    def records(self) -> list[Any]:
        return list(self.daemon.api("GET", "/v1/alerts")[1])

    def refused(self, body: bytes, headers: dict[str, str], status: int, *said: str) -> None:
        before = self.records()
        code, answer = self.daemon.webhook(body, headers)
        self.assertEqual(code, status, answer)
        for words in said:
            self.assertIn(words, answer["error"])
        self.assertEqual(self.records(), before, "nothing is recorded")

    def test_signature(self) -> None:
        body = alert()
        good = self.daemon.signed(body)
        stranger = "whsec_" + base64.b64encode(b"x" * 24).decode()
        self.refused(body, self.daemon.signed(body, secret=stranger), 401, "webhook-signature", "no v1 signature")
        self.refused(alert(id="t-2"), good, 401, "no v1 signature")
        self.refused(body, {**good, "webhook-id": "other"}, 401, "no v1 signature")
        self.refused(body, {**good, "webhook-signature": "v1,AAAA"}, 401, "no v1 signature")
        self.refused(body, {**good, "webhook-signature": good["webhook-signature"].replace("v1,", "v2,")}, 401,
                     "no v1 signature")  # fmt: skip
        self.refused(body, {**good, "webhook-signature": "garbage"}, 401, "no v1 signature")

    def test_timestamp(self) -> None:
        body = alert()
        for age_s in (3600, -3600):
            self.refused(body, self.daemon.signed(body, age_s=age_s), 401, "webhook-timestamp", "s away from")
        good = self.daemon.signed(body)
        for stamp in ("", "now", "-1", "9" * 40, "1.5"):
            self.refused(body, {**good, "webhook-timestamp": stamp}, 401, "webhook-timestamp", "whole seconds")

    def test_missing_headers(self) -> None:
        body = alert()
        good = self.daemon.signed(body)
        for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
            self.refused(body, {k: v for k, v in good.items() if k != name}, 401, name)
        self.refused(body, {}, 401, "webhook-id")

    def test_garbage(self) -> None:
        for body in (b"", b"\x00\xff garbage", b"{", b"[]", b"null", b"[" * 100_000, b"<Report", b"<a/>"):
            with self.subTest(body[:16]):
                self.refused(body, self.daemon.signed(body), 400)
                xml = {**self.daemon.signed(body), "content-type": "application/xml"}
                self.refused(body, xml, 400)

    def test_bad_fields(self) -> None:
        for more, said in (
            ({"version": 2}, "version"),
            ({"id": ""}, "id"),
            ({"id": 7}, "id"),
            ({"status": "real"}, 'status: accepted is one of actual, exercise, test, not "real"'),
            ({"kind": "hint"}, "kind"),
            ({"max_intensity": "9"}, "max_intensity"),
            ({"magnitude": -1}, "magnitude: accepted is a number from 0 to 10, not -1"),
            ({"magnitude": "8"}, "magnitude"),
            ({"latitude": 91, "longitude": 0}, "latitude"),
            ({"latitude": 33}, "latitude"),
            ({"areas": {}}, "areas"),
            ({"areas": [{"code": "390", "intensity": "5-"}, {"code": "1", "intensity": "x"}]}, "areas[1].intensity"),
            ({"areas": [{"code": "390", "intensity": "5-", "size": 1}]}, "areas[0].size: unknown field"),
            ({"power_event": "sparks"}, "power_event"),
            ({"colour": "red"}, "colour: unknown field"),
        ):
            with self.subTest(more):
                body = alert(**more)
                self.refused(body, self.daemon.signed(body), 400, said)
        twice = b'{"status": "test", ' + alert()[1:]
        self.refused(twice, self.daemon.signed(twice), 400, "status: given twice")

    def test_path_method_and_size(self) -> None:
        body = alert()
        code, answer = self.daemon.webhook(body, self.daemon.signed(body), path="/v1/evacuation")
        self.assertEqual((code, "/v1/alerts is accepted" in answer["error"]), (404, True))
        code, answer = self.daemon.webhook(b"", method="GET")
        self.assertEqual((code, "POST is accepted" in answer["error"]), (405, True))
        huge = b'{"id": "' + b"x" * (1 << 20) + b'"}'
        self.assertEqual(self.daemon.webhook(huge, self.daemon.signed(huge))[0], 413)

    def test_exercise_and_test_move_nothing(self) -> None:
        for status, action in (("test", "none"), ("exercise", "exercise")):
            with self.subTest(status):
                strong = {"max_intensity": "7", "latitude": 33.5, "longitude": 133.5, "magnitude": 9}
                body = alert(id=f"drill-{status}", event=f"drill-{status}", status=status, **strong,
                             areas=[{"code": "390", "intensity": "7"}])  # fmt: skip
                headers = self.daemon.signed(body, message_id=f"drill-{status}")
                code, answer = self.daemon.webhook(body, headers)
                self.assertEqual(code, 202, answer)
                self.assertIn(answer["action"], ("none", "exercise"), answer)
                self.assertEqual(answer["action"], action, answer)
                self.assertIs(answer["duplicate"], False)
                record = self.records()[-1]
                # A drill's event is kept apart from a real one of the same name.
                self.assertEqual((record["event"], record["reality"]), (f"{status}/drill-{status}", status))
                # Sent again, it is known.
                count = len(self.records())
                code, answer = self.daemon.webhook(body, self.daemon.signed(body, message_id="again"))
                self.assertEqual((code, answer["action"], answer["duplicate"]), (200, "none", True))
                self.assertEqual(len(self.records()), count)

    def test_an_alert_below_the_rule(self) -> None:
        body = alert(id="weak", event="weak", areas=[{"code": "390", "intensity": "1"}])
        code, answer = self.daemon.webhook(body, self.daemon.signed(body, message_id="weak"))
        self.assertEqual((code, answer["action"]), (202, "none"), answer)
        self.assertNotEqual(answer["reason"], "")

    def test_self_test(self) -> None:
        done = self.daemon.ctl("alert", "test")
        self.assertEqual(done.code, 0, done)
        self.assertIn("no action", done.out)


class ClientCertificate(unittest.TestCase):
    def test_only_certificates_of_client_ca_are_served(self) -> None:
        work, other = Workspace(), Workspace()
        self.addCleanup(other.remove)
        self.addCleanup(work.remove)
        ports = [free_port(socket.SOCK_DGRAM) for _ in range(2)]
        sections = work.sections("site-a", ports[0], "site-b", ports[1])
        sections["webhook"]["client_ca"] = str(work.keys / "ca.pem")
        daemon = Daemon(work, sections)
        self.addCleanup(daemon.stop)
        daemon.start()
        body = alert(status="test")
        headers = daemon.signed(body)
        for client in (None, other.keys / "site-b.pem"):
            with self.subTest(client), self.assertRaises(OSError):  # what ssl raises
                daemon.webhook(body, headers, client=client)
            self.assertEqual(daemon.api("GET", "/v1/alerts"), (200, []))
        self.assertEqual(daemon.webhook(body, headers, client=work.keys / "site-b.pem")[0], 202)
        # The certificate does not stand in for the signature.
        self.assertEqual(daemon.webhook(body, {}, client=work.keys / "site-b.pem")[0], 401)


if __name__ == "__main__":
    unittest.main()
