"""Bad configurations: exit code 2, one line that names field, value and what is accepted, nothing made."""

from __future__ import annotations

import copy
import os
import socket
import unittest
from collections.abc import Callable
from pathlib import Path

from support import BIN, Sections, Workspace, free_port, run


class BadConfig(unittest.TestCase):
    work: Workspace
    good: Sections

    @classmethod
    def setUpClass(cls) -> None:
        cls.work = Workspace()
        cls.good = cls.work.sections(
            "site-a", free_port(socket.SOCK_DGRAM), "site-b", free_port(socket.SOCK_DGRAM)
        )

    @classmethod
    def tearDownClass(cls) -> None:
        cls.work.remove()

    def refused(self, path: Path, *said: str) -> None:
        """--check and a real start both end with 2 and say it; neither leaves a trace."""
        for extra in (["--check"], []):
            done = run(BIN / "evacgwd", "--config", path, *extra)
            self.assertEqual(done.code, 2, f"{extra} {done}")
            self.assertEqual(done.out, "", done)
            self.assertEqual(len(done.err.splitlines()), 1, f"one line: {done.err}")
            self.assertTrue(done.err.startswith("evacgwd: "), done.err)
            for words in said:
                self.assertIn(words, done.err)
            for folder in ("state_dir", "run_dir"):
                self.assertFalse(Path(self.good["site"][folder]).exists(), f"{folder} was made")

    def spoiled(self, change: Callable[[Sections], None], *said: str) -> None:
        sections = copy.deepcopy(self.good)
        change(sections)
        self.refused(self.work.write("spoiled", sections), *said)

    def put(self, section: str, key: str, value: object, *said: str) -> None:
        with self.subTest(f"{section}.{key} = {value!r}"):
            self.spoiled(lambda s: s[section].update({key: value}), f"{section}.{key}", *said)

    def without(self, section: str, key: str) -> None:
        with self.subTest(f"without {section}.{key}"):
            self.spoiled(lambda s: s[section].pop(key), f"{section}.{key}: missing")

    def text(self, body: str, *said: str) -> None:
        path = self.work.root / "text.toml"
        path.write_text(body)
        with self.subTest(body[:60]):
            self.refused(path, *said)

    def test_the_good_one_is_accepted(self) -> None:
        done = run(BIN / "evacgwd", "--config", self.work.write("good", self.good), "--check")
        self.assertEqual((done.code, done.err), (0, ""))
        self.assertIn("ok", done.out)
        self.assertFalse(Path(self.good["site"]["state_dir"]).exists(), "--check makes nothing")

    def test_usage(self) -> None:
        for arguments in ([], ["--config"], ["--bogus"], ["--config", "x", "extra"]):
            with self.subTest(arguments):
                done = run(BIN / "evacgwd", *arguments)
                self.assertEqual(done.code, 2, done)
                self.assertNotEqual(done.err, "")

    def test_no_file_or_not_toml(self) -> None:
        missing = self.work.root / "nowhere.toml"
        self.refused(missing, str(missing), "No such file")
        self.refused(self.work.root, str(self.work.root))
        self.text("[site\n", "text.toml, line 1")
        self.text("[site]\nname = \n", "line 2")
        self.text('[site]\nname = "a"\nname = "b"\n', "line 3")
        self.text("\x00\x01\xff", "line 1")
        self.text("", "site.name: missing")

    def test_unknown_names(self) -> None:
        self.spoiled(lambda s: s.update({"sites": {}}), "sites: unknown section; accepted: site, pair")
        for section in self.good:
            with self.subTest(section):
                self.spoiled(
                    lambda s, section=section: s[section].update({"colour": "red"}),
                    f"{section}.colour: unknown key; accepted: ",
                )
        self.text('site = "a"\n', "site: must be a section")
        self.text("[[site]]\n", "site: must be a section")

    def test_types(self) -> None:
        self.put("site", "name", 7, "7 is refused", "a text")
        self.put("site", "name", ["a"], "a list is refused")
        self.put("site", "name", "", "not empty")
        self.put("site", "latitude", "north", '"north" is refused', "a number from -90 to 90")
        self.put("site", "latitude", True, "true is refused")
        self.put("wan", "prefix_length", 24.5, "24.5 is refused", "a whole number from 0 to 32")
        self.put("wan", "role", 1, "1 is refused")
        self.put("landing", "path_map", "x", "a list of")
        self.put("landing", "path_map", [["only one"]], "a list of")
        self.put("prestage", "queue_mib", "512", '"512" is refused', "a whole number")

    def test_ranges(self) -> None:
        self.put("site", "latitude", 90.5, "90.5 is refused")
        self.put("site", "longitude", -181, "-181 is refused")
        self.put("wan", "prefix_length", 33, "33 is refused")
        self.put("wan", "prefix_length", -1, "-1 is refused")
        self.put("wan", "rate_ceiling_mbit", 0, "0 is refused", "0.1 to 400000")
        self.put("prestage", "interval_s", -4, "-4 is refused")
        self.put("prestage", "queue_mib", 1 << 62, "is refused")
        self.put("prestage", "zstd_level", 20, "20 is refused", "from 1 to 19")
        self.put("staging", "recovery_points", 0, "0 is refused", "from 1 to 64")
        self.put("evacuation", "silence_s", 0.5, "0.5 is refused", "from 1 to 86400")
        self.put("wan", "role", "both", '"both" is refused', '"connect", "listen"')
        self.put("evacuation", "policy", "hope", '"hope" is refused', '"evacuation", "planned"')
        for value in ("nan", "inf", "-inf"):
            with self.subTest(value):
                path = self.work.write("spoiled", self.good)
                path.write_text(path.read_text().replace("interval_s = 4", f"interval_s = {value}"))
                self.refused(path, "prestage.interval_s", "is refused", "a number from")

    def test_missing_keys(self) -> None:
        for section, keys in {
            "site": ["name"],
            "pair": ["secret_file", "peer"],
            "wan": ["port", "local", "peer", "role", "ca", "cert", "key"],
            "webhook": ["listen", "cert", "key", "secret_file"],
        }.items():
            for key in keys:
                self.without(section, key)

    def test_alert_rules(self) -> None:
        def rule(old: str, new: str, *said: str) -> None:
            with self.subTest(new):
                path = self.work.write("spoiled", self.good)
                path.write_text(path.read_text().replace(old, new))
                self.refused(path, *said)

        rule('source = "json"', 'source = "rumour"', "alert.rule[0].source", '"rumour"', '"jma"')
        rule('min_intensity = "5-"', 'min_intensity = "8"', "alert.rule[0].min_intensity", '"5-"')
        rule('min_intensity = "5-"', "min_magnitude = 11", "alert.rule[0].min_magnitude", "0 to 10")
        rule('min_intensity = "5-"', "areas = [1]", "alert.rule[0].areas", "a list of texts")
        rule('min_intensity = "5-"', 'action = "panic"', "alert.rule[0].action", '"evacuate", "arm"')
        rule('min_intensity = "5-"', "size = 1", "alert.rule[0].size: unknown key")
        rule("[[alert.rule]]", "[alert.rule]", "alert.rule: must be [[alert.rule]]")
        # The site's intensity cannot be estimated without its position.
        for key in ("latitude", "longitude"):
            with self.subTest(f"without {key}"):
                self.spoiled(lambda s, key=key: s["site"].pop(key), "site.latitude", "site.longitude")

    def test_names_and_addresses(self) -> None:
        self.put("site", "name", "a/../b", '"a/../b" is refused', "letters, digits")
        self.put("site", "name", "two\nlines", "is refused")
        self.put("pair", "peer", "site-a", '"site-a" is refused', "another name than site.name")
        for value in ("127.0.0.1", "127.0.0.1:70000", "localhost:4500", "1.2.3.4.5:1", "[::1]:4500"):
            for key in ("local", "peer"):
                self.put("wan", key, value, value, "10.77.0.1:4500")
        self.put("wan", "peer", "127.0.0.1:0", "port")
        self.put("wan", "peer", "0.0.0.0:4500", "0.0.0.0:4500")
        self.put("wan", "gateway", "nowhere", "nowhere", "10.77.0.1")
        self.put("wan", "port", "ethernet", '"ethernet" is refused', "kernel", "dpdk:af_packet")
        self.put("wan", "port", "dpdk:", '"dpdk:" is refused')
        self.put("wan", "vlan", 4095, "4095 is refused", "a whole number from 0 to 4094")
        self.put("wan", "vlan", 5, "5 is refused", 'wan.port = "kernel"')
        self.put("wan", "vlan_priority", 3, "3 is refused", "wan.vlan")
        self.put("webhook", "listen", "8443", "8443", "ADDRESS:PORT")
        self.put("webhook", "listen", "127.0.0.1:", "127.0.0.1:", "ADDRESS:PORT")
        self.put("api", "socket", "/x" * 60, "107")

    def test_certificates(self) -> None:
        keys = self.work.keys
        nowhere, garbage = str(keys / "nowhere.pem"), keys / "garbage.pem"
        garbage.write_text("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
        for key in ("ca", "cert", "key"):
            self.put("wan", key, nowhere, nowhere, "No such file")
            self.put("wan", key, str(garbage), str(garbage), "PEM")
            self.put("wan", key, str(keys), str(keys))
        for key in ("cert", "key"):
            self.put("webhook", key, nowhere, nowhere, "No such file")
            self.put("webhook", key, str(garbage), str(garbage))
        self.put("webhook", "client_ca", nowhere, nowhere, "No such file")
        self.put("webhook", "secret_file", nowhere, nowhere, "No such file")
        other = str(keys / "site-b.key")
        self.put("wan", "key", other, other, "does not belong to the certificate")
        self.put("webhook", "key", other, other, "does not belong to the certificate")

    def test_pair_secret(self) -> None:
        secret = self.work.keys / "other.secret"

        def holds(content: str, mode: int, *said: str) -> None:
            secret.write_text(content)
            secret.chmod(mode)
            self.put("pair", "secret_file", str(secret), str(secret), *said)

        holds("ab" * 32, 0o644, "others may read it", "0600")
        holds("ab" * 32, 0o640, "others may read it", "0600")
        holds("ab" * 31, 0o600, "64 or more hex digits")
        holds("zz" * 32, 0o600, "64 or more hex digits")
        holds("", 0o600, "64 or more hex digits")
        holds("ab" * 32 + "\nsecond line\n", 0o600, "64 or more hex digits")
        self.put("pair", "secret_file", str(self.work.keys), str(self.work.keys))
        self.put("pair", "secret_file", str(self.work.keys / "none"), "No such file")

    def test_webhook_secret(self) -> None:
        secret = self.work.keys / "hook.secret"
        for content, mode, said in (
            ("whsec_" + "A" * 32, 0o644, "others may read it"),
            ("whsec_AAAA", 0o600, "24 to 64 bytes"),
            ("A" * 32, 0o600, "whsec_"),
        ):
            secret.write_text(content)
            secret.chmod(mode)
            self.put("webhook", "secret_file", str(secret), str(secret), said)


if __name__ == "__main__":
    os.umask(0o077)
    unittest.main()
