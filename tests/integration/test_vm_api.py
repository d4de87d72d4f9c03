"""`vm add` of what cannot be protected, and requests to the API that make no sense: refused, said why, not kept."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import unittest
from pathlib import Path

from support import ROOT, Pair, UnixConnection, Workspace, request, wait_until

OK, ERROR, USAGE = 0, 1, 2


def fields(value: object) -> set[str]:
    """Names of all fields of a JSON value, at any depth."""
    if isinstance(value, list):
        return set().union(*(fields(item) for item in value))
    if isinstance(value, dict):
        return set(value).union(*(fields(item) for item in value.values()))
    return set()


class Listener:
    """A Unix socket that answers every connection with the same bytes."""

    def __init__(self, path: Path, says: bytes) -> None:
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen(8)
        self._open: list[socket.socket] = []
        self._says = says
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._open.append(connection)
            try:
                connection.sendall(self._says)
            except OSError:
                pass

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        for one in (*self._open, self._server):
            one.close()


class VmAndApi(unittest.TestCase):
    work: Workspace
    pair: Pair

    @classmethod
    def setUpClass(cls) -> None:
        cls.work = Workspace()
        cls.addClassCleanup(cls.work.remove)
        cls.pair = Pair(cls.work)
        cls.addClassCleanup(cls.pair.stop)
        cls.pair.start()

    def tearDown(self) -> None:
        """Nothing that was refused is kept, by either side or on disk, and both live."""
        for daemon in (self.pair.a, self.pair.b):
            daemon.check_alive()
            self.assertEqual(daemon.api("GET", "/v1/vms"), (200, []))
            self.assertEqual(list((daemon.state / "home").glob("*.json")), [])
        self.assertEqual(self.pair.a.ctl("vm", "list", "--output", "json").out.strip(), "[]")

    def refused(self, arguments: list[str], code: int, *said: str) -> None:
        done = self.pair.a.ctl("vm", "add", *arguments, timeout_s=60)
        self.assertEqual((done.code, done.out), (code, ""), done)
        self.assertTrue(done.err.startswith("evacctl: "), done.err)
        for words in said:
            self.assertIn(words, done.err)

    def qemu(self, name: str, *arguments: str, accel: str = "tcg") -> str:
        path = self.work.root / f"{name}.qmp"
        process = subprocess.Popen(
            ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", accel, "-m", "64",
             "-qmp", f"unix:{path},server=on,wait=off", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

        def end() -> None:
            process.kill()
            process.communicate()

        self.addCleanup(end)
        wait_until(f"QEMU {name} listens", lambda: path.exists() and process.poll() is None)
        return str(path)

    def test_names(self) -> None:
        for name in ("a/b", "..", ".hidden", "two words", "x" * 65, "ä", "a\nb"):
            with self.subTest(name):
                self.refused([name, "--qmp", "/nowhere"], USAGE, "name: ", "is refused", "letters, digits")

    def test_paths(self) -> None:
        self.refused(["vm", "--qmp", "relative.sock"], USAGE, "qmp: 'relative.sock'", "absolute path")
        nowhere = str(self.work.root / "nowhere.sock")
        self.refused(["vm", "--qmp", nowhere], ERROR, "vm 'vm' cannot be protected", nowhere, "No such file")
        plain = self.work.root / "plain"
        plain.write_text("not a socket")
        self.refused(["vm", "--qmp", str(plain)], ERROR, str(plain))
        self.refused(["vm", "--qmp", str(self.work.root)], ERROR, str(self.work.root))
        self.refused(["vm", "--qmp", "/x" * 60], ERROR, "/x/x")
        self.refused(["vm", "--qmp", nowhere, "--priority", "0"], USAGE, "priority: 0 is refused", "a number from 1 to 1e+06")
        self.refused(["vm", "--qmp", nowhere, "--priority", "nan"], USAGE, "priority: null is refused", "a number")
        self.refused(["vm", "--qmp", nowhere, "--max-downtime-ms=-1"], USAGE, "max_downtime_ms: -1 is refused")

    def test_a_socket_that_is_not_qmp(self) -> None:
        for name, says in (("ssh", b"SSH-2.0-OpenSSH_9.2\r\n"), ("json", b'{"hello": "world"}\n'),
                           ("html", b"<html>\n"), ("bytes", os.urandom(64) + b"\n")):  # fmt: skip
            with self.subTest(name):
                path = self.work.root / f"{name}.sock"
                listener = Listener(path, says)
                self.refused(["vm", "--qmp", str(path)], ERROR, "cannot be protected", str(path), "QMP")
                listener.close()

    def test_remove_while_it_is_examined(self) -> None:
        """A socket that accepts and says nothing keeps the examination waiting."""
        path = self.work.root / "mute.sock"
        listener = Listener(path, b"")
        code, _ = self.pair.a.api("POST", "/v1/vms", {"name": "mute", "qmp": str(path)})
        self.assertEqual(code, 202)
        code, answer = self.pair.a.api("DELETE", "/v1/vms/mute")
        self.assertIn(code, (202, 503), answer)
        self.pair.a.check_alive()
        listener.close()
        wait_until("it is removed", lambda: self.pair.a.api("DELETE", "/v1/vms/mute")[0] in (202, 404))

    def test_two_vms_of_one_name_or_socket(self) -> None:
        path = self.work.root / "held.sock"
        listener = Listener(path, b"")
        self.assertEqual(self.pair.a.api("POST", "/v1/vms", {"name": "held", "qmp": str(path)})[0], 202)
        self.refused(["held", "--qmp", "/elsewhere"], ERROR, "name: 'held' is enrolled already")
        self.refused(["other", "--qmp", str(path)], ERROR, f"qmp: '{path}' is 'held's")
        listener.close()
        gone = lambda: self.pair.a.api("GET", "/v1/vms/held")[1]["phase"] in ("offline", "refused")  # noqa: E731
        wait_until("the examination ends", gone)
        self.assertEqual(self.pair.a.ctl("vm", "remove", "held").out, "held: removed\n")

    def test_every_field_of_a_vm_is_in_the_page(self) -> None:
        """docs/api.md against the VM that the daemon shows, and the surfaces that print it."""
        path = self.work.root / "shown.sock"
        listener = Listener(path, b"")
        body = {"name": "shown", "qmp": str(path), "priority": 3, "rpo_target_s": 7.5}
        code, vm = self.pair.a.api("POST", "/v1/vms", body)
        self.assertEqual((code, vm["rpo_target_s"], vm["priority"]), (202, 7.5, 3))
        page = (ROOT / "docs" / "api.md").read_text()
        self.assertEqual([name for name in fields(vm) if f"`{name}`" not in page], [])
        self.assertGreater(len(vm["rungs"]), 3)
        status = self.pair.a.ctl("status").out
        self.assertRegex(status, r"24h MAX s +IN TARGET % +BACKLOG MiB +DRAIN s")
        self.assertRegex(status, r"\nshown +enrolling +- ")
        shown = self.pair.a.ctl("vm", "show", "shown").out
        for said in ("rpo_target_s         7.5\n", "\nrpo_24h\n", "\ndirty\n", "\npacing\n"):
            self.assertIn(said, shown)
        self.assertRegex(shown, r"RUNG +PAGES +SHARE % +RAW MiB +WIRE MiB +SAVED MiB\nzero +0 +0.0 ")
        record = json.loads((self.pair.a.state / "home" / "shown.json").read_text())
        self.assertEqual(record["rpo_target_s"], 7.5)
        observed = lambda: self.pair.a.api("GET", "/v1/vms/shown")[1]["rpo_24h"]["unprotected_s"] > 1  # noqa: E731
        wait_until("time without a recovery point is recorded", observed)
        listener.close()
        wait_until("it is removed", lambda: self.pair.a.api("DELETE", "/v1/vms/shown")[0] in (202, 404))

    def test_rpo_targets(self) -> None:
        nowhere = str(self.work.root / "nowhere.sock")
        for value in ("-1", "604801"):
            self.refused(["vm", "--qmp", nowhere, f"--rpo={value}"], USAGE, "rpo_target_s: ", "0 to 604800")
        self.bad("POST", "/v1/vms", {"name": "vm", "qmp": "/x", "rpo_target_s": "1"}, 400, "rpo_target_s: \"1\" is refused")

    def test_vms_that_cannot_be_migrated(self) -> None:
        self.refused(["none", "--qmp", self.qemu("none", "-M", "none")], ERROR, "machine type is 'none'", "pc-q35-* and")
        self.refused(["micro", "--qmp", self.qemu("micro", "-M", "microvm")], ERROR, "machine type is 'microvm'")
        # QEMU itself says that this one cannot be migrated: shared memory whose peer it is blocks that.
        path = self.qemu("blocked", "-M", "pc", "-device", "ivshmem-plain,memdev=shm,master=off",
                         "-object", "memory-backend-ram,id=shm,size=1M,share=on")  # fmt: skip
        self.refused(["blocked", "--qmp", path], ERROR, "QEMU can not migrate it", "ivshmem")

    def test_capture_that_a_vm_does_not_allow(self) -> None:
        self.refused(["vm", "--qmp", "/nowhere", "--capture", "fast"], USAGE, "capture: 'fast' is refused",
                     "accepted: auto, mapped, sealed, continuous, stopped")  # fmt: skip
        code, answer = self.pair.a.api("POST", "/v1/vms", {"name": "vm", "qmp": "/nowhere", "capture": 7})
        self.assertEqual((code, answer["error"].split(" ")[0]), (400, "capture:"), answer)
        path = self.qemu("tcg", "-M", "pc-q35-7.2")
        self.refused(["tcg", "--qmp", path, "--capture", "continuous"], ERROR, "capture: 'continuous' is refused",
                     "accelerator is 'tcg'; kvm is accepted", "accepted for this VM: auto, ")  # fmt: skip
        self.refused(["tcg", "--qmp", path, "--capture", "mapped"], ERROR, "capture: 'mapped' is refused")

    def test_the_method_and_why(self) -> None:
        path = self.qemu("chosen", "-M", "pc-q35-7.2")
        for wanted, method in (("auto", ("sealed", "stopped")), ("stopped", ("stopped",))):
            with self.subTest(wanted):
                body = {"name": "chosen", "qmp": path, "capture": wanted}
                wait_until("it may be added", lambda: self.pair.a.api("POST", "/v1/vms", body)[0] == 202)
                show = lambda: self.pair.a.api("GET", "/v1/vms/chosen")[1]  # noqa: E731
                wait_until("the method is chosen", lambda: show()["method"] != "unknown")
                vm = show()
                self.assertEqual(vm["capture"], wanted)
                self.assertIn(vm["method"], method)
                self.assertTrue(vm["method_why"])
                rejected = {r["method"]: r["why"] for r in vm["method_rejected"]}
                self.assertEqual({*rejected, vm["method"]}, {"mapped", "sealed", "continuous", "stopped"})
                self.assertIn("kvm is accepted", rejected["continuous"])
                shown = self.pair.a.ctl("vm", "show", "chosen").out
                self.assertIn("method_why", shown)
                self.assertIn(f"method not taken     continuous: {rejected['continuous']}", shown)
                record = json.loads((self.pair.a.state / "home" / "chosen.json").read_text())
                self.assertEqual(record["capture"], wanted)
                gone = lambda: self.pair.a.api("DELETE", "/v1/vms/chosen")[0] == 202  # noqa: E731
                wait_until("it is removed", gone)

    @unittest.skipUnless(os.access("/dev/kvm", os.R_OK | os.W_OK), "/dev/kvm is not accessible")
    def test_continuous_rounds_under_kvm_are_sealed(self) -> None:
        """A guest whose firmware counts in 128 pages; it boots nothing, so that any KVM runs it."""
        count = bytes.fromhex("bb0010 8edb 66ff060000 81c30001 81fb0090 72ef ebea")
        rom = self.work.root / "rom.bin"
        rom.write_bytes(count.ljust(0xFFF0, b"\0") + bytes.fromhex("ea000000f0").ljust(16, b"\0"))
        path = self.qemu("hot", "-M", "pc-q35-7.2", "-bios", str(rom), accel="kvm")
        done = self.pair.a.ctl("vm", "add", "hot", "--qmp", path, "--capture", "continuous", timeout_s=90)
        self.assertEqual(done.code, OK, done)
        self.assertIn("method: continuous (it was asked for)", done.out)
        show = lambda: self.pair.a.api("GET", "/v1/vms/hot")[1]  # noqa: E731
        # Each round has a thousand epochs of its own; the one that is sealed is the newest used.
        wait_until("the second round is sealed", lambda: show()["sealed_epoch"] > 1000, 60)
        self.assertEqual((show()["method"], show()["state"]), ("continuous", "protected"))
        gone = lambda: self.pair.a.api("DELETE", "/v1/vms/hot")[0] == 202  # noqa: E731
        wait_until("it is removed", gone)

    def test_show_and_remove_of_strangers(self) -> None:
        for verb in ("show", "remove"):
            for name in ("nobody", "a b", "..", "x?y", "%2e", "a#b"):
                with self.subTest(f"{verb} {name}"):
                    done = self.pair.a.ctl("vm", verb, name)
                    self.assertEqual((done.code, done.out), (ERROR, ""), done)
                    self.assertIn(f"vm '{name}' is not enrolled", done.err)
        self.assertEqual(self.pair.a.ctl("vm", "release", "nobody").code, ERROR)

    def test_nothing_to_evacuate(self) -> None:
        done = self.pair.a.ctl("evacuate")
        self.assertEqual((done.code, done.out), (ERROR, ""), done)
        self.assertIn("no VM is enrolled: there is nothing", done.err)
        self.assertIsNone(self.pair.a.api("GET", "/v1/status")[1]["order"])
        done = self.pair.a.ctl("evacuate", "--planned")
        self.assertEqual(done.code, ERROR, done)
        self.assertIn("no VM is protected", done.err)
        done = self.pair.a.ctl("evacuate", "nobody")
        self.assertEqual(done.code, ERROR, done)
        self.assertIn("vm 'nobody' is not enrolled", done.err)
        done = self.pair.a.ctl("plan", "--dry-run")
        self.assertEqual((done.code, done.out), (ERROR, ""), done)
        self.assertIn("no VM is enrolled", done.err)
        self.assertEqual(self.pair.a.api("GET", "/v1/evacuation"), (200, None))

    def test_forced_acts_on_strangers(self) -> None:
        done = self.pair.a.ctl("vm", "force", "run", "nobody", "--confirm", "nobody")
        self.assertEqual((done.code, done.out), (ERROR, ""), done)
        self.assertIn("vm 'nobody' is not staged here", done.err)
        done = self.pair.a.ctl("vm", "force", "yield", "nobody", "--confirm", "nobody")
        self.assertIn("vm 'nobody' is not enrolled here", done.err)
        done = self.pair.a.ctl("vm", "force", "panic", "nobody", "--confirm", "nobody")
        self.assertEqual(done.code, USAGE, done)
        self.assertIn("action: 'panic' is refused; accepted: run, give-back, release", done.err)

    def bad(self, method: str, path: str, body: object, status: int, said: str) -> None:
        code, answer = self.pair.a.api(method, path, body)
        self.assertEqual(code, status, answer)
        self.assertIn(said, answer["error"])

    def test_api_bodies(self) -> None:
        good = {"name": "vm", "qmp": "/nowhere"}
        for more, said in (
            ({"colour": "red"}, "colour: unknown field"),
            ({"name": 7}, "name: 7 is refused; accepted: a text"),
            ({"qmp": ["/x"]}, "qmp: a list is refused; accepted: a text"),
            ({"priority": "high"}, 'priority: "high" is refused; accepted: a number'),
            ({"priority": 1e300}, "priority: 1e+300 is refused; accepted: a number from 1"),
            ({"max_downtime_ms": 0}, "max_downtime_ms: 0 is refused"),
            ({"name": None}, "name: null is refused; accepted: a text"),
        ):
            with self.subTest(more):
                self.bad("POST", "/v1/vms", {**good, **more}, 400, said)
        self.bad("POST", "/v1/vms", {}, 400, "name: ''")
        for body in (b"{", b"[]", b"7", b"\xff\xfe", b'{"name": "x", "priority": NaN}', b"[" * 200_000):
            with self.subTest(body[:20]):
                self.bad("POST", "/v1/vms", body, 400, "body: a JSON object is accepted")
        for more, said in (({"vms": "a"}, 'vms: "a" is refused; accepted: a list of texts'), ({"vms": [1]}, "vms: a list with 1 is refused; accepted: a list of texts"),
                           ({"planned": "yes"}, "planned: \"yes\" is refused; accepted: true or false"), ({"x": 1}, "x: unknown field"),
                           ({"event": "x" * 257}, "event: 257 bytes are refused; accepted: 1 to 256")):  # fmt: skip
            with self.subTest(more):
                self.bad("POST", "/v1/evacuation", more, 400, said)
        self.bad("POST", "/v1/vms/x/force", {"action": 1}, 400, "action: 1 is refused; accepted: a text")

    def test_a_deeply_nested_body(self) -> None:
        """Copying such a value would overrun the stack."""
        deep = b"[" * 400_000 + b"]" * 400_000
        self.bad("POST", "/v1/vms", b'{"name": ' + deep + b"}", 400, "name: a list is refused; accepted: a text")
        self.bad("POST", "/v1/evacuation", b'{"vms": [' + deep + b"]}", 400, "vms: a list with a list is refused")
        self.bad("POST", "/v1/vms", b'{"x": ' + deep + b"}", 400, "x: unknown field")

    def test_huge_bodies(self) -> None:
        for size in ((1 << 20) + 1, 8 << 20):
            self.bad("POST", "/v1/vms", b" " * size, 413, "at most 1 MiB")

    def test_paths_and_methods(self) -> None:
        for method, path in (("GET", "/"), ("GET", "/v1"), ("GET", "/v2/status"), ("POST", "/v1/status"),
                             ("PUT", "/v1/vms"), ("GET", "/v1/vms/nobody"), ("DELETE", "/v1/vms/nobody"),
                             ("GET", "/v1/status/x"), ("POST", "/v1/vms/nobody/release"),
                             ("GET", "/v1/vms/../status"), ("GET", "/" + "x" * 2000)):  # fmt: skip
            with self.subTest(f"{method} {path[:30]}"):
                code, answer = self.pair.a.api(method, path)
                self.assertEqual(code, 404, answer)
                self.assertIn("error", answer)

    def test_what_is_not_http(self) -> None:
        for junk in (b"\x16\x03\x01garbage\r\n\r\n", b"GET\r\n\r\n", os.urandom(4096) + b"\r\n\r\n"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
                stranger.connect(str(self.pair.a.socket))
                stranger.sendall(junk)
                stranger.shutdown(socket.SHUT_WR)
                stranger.settimeout(5)
                try:
                    self.assertNotIn(b" 200 ", stranger.recv(4096))
                except ConnectionError:
                    pass
        self.assertEqual(self.pair.a.api("GET", "/v1/status")[0], 200)

    def test_the_socket_is_the_owners(self) -> None:
        self.assertEqual(self.pair.a.socket.stat().st_mode & 0o777, 0o600)
        answer = request(UnixConnection(str(self.pair.a.socket)), "GET", "/v1/doctor", None)
        self.assertEqual(answer[0], 200)
        self.assertIn("peer", json.dumps(answer[1]))


if __name__ == "__main__":
    unittest.main()
