"""One site of the quickstart: certificates, configuration, the daemon, evacctl."""

from __future__ import annotations

import base64
import json
import secrets
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from network import in_netns

DAYS = "30"  # of the certificates
WEBHOOK = "127.0.0.1:8443"
WAN_PORT = 4500
INFEASIBLE, PARTIAL = 3, 4  # exit codes of evacctl
CEILING = 0.95  # of the link, so that the queue stays in the gateway and not in the WAN


class CommandError(RuntimeError):
    """evacctl ended with a code other than 0."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def openssl(*arguments: str) -> None:
    done = subprocess.run(
        ["openssl", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]}: {done.stdout.strip()[-500:]}")


def make_secrets(folder: Path) -> None:
    """ca, site-a, site-b, webhook (.pem, .key), pair.secret, webhook.secret; for one run."""
    folder.mkdir(mode=0o700)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    openssl("req", "-x509", *curve, "-days", DAYS, "-keyout", str(ca_key), "-out", str(ca),
            "-subj", "/CN=evacgw quickstart CA", "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    names = {
        "site-a": "DNS:site-a",
        "site-b": "DNS:site-b",
        "webhook": "DNS:localhost,IP:127.0.0.1",
    }
    for name, alternative in names.items():
        request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
        extensions.write_text(
            f"subjectAltName={alternative}\nbasicConstraints=critical,CA:FALSE\n"
            "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n"
        )
        key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
        openssl("req", "-new", *curve, "-keyout", str(key), "-out", str(request),
                "-subj", f"/CN={name}")  # fmt: skip
        openssl("x509", "-req", "-in", str(request), "-CA", str(ca), "-CAkey", str(ca_key),
                "-CAcreateserial", "-days", DAYS, "-extfile", str(extensions),
                "-out", str(certificate))  # fmt: skip
        request.unlink()
        extensions.unlink()
    (folder / "pair.secret").write_text(secrets.token_hex(32) + "\n")
    shared = base64.b64encode(secrets.token_bytes(24)).decode()
    (folder / "webhook.secret").write_text(f"whsec_{shared}\n")
    for private in (*folder.glob("*.key"), *folder.glob("*.secret")):
        private.chmod(0o600)


def toml(value: Any) -> str:
    """A TOML value; JSON's strings, numbers, booleans and arrays are TOML's."""
    return json.dumps(value)


@dataclass(frozen=True)
class SiteLayout:
    """Where one site keeps everything: <root>/<site>/..."""

    root: Path
    name: str

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def vms(self) -> Path:
        return self.folder / "vms"

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "api.sock"

    @property
    def config(self) -> Path:
        return self.folder / "evacgw.toml"

    @property
    def log(self) -> Path:
        return self.folder / "evacgwd.log"


def site_config(
    here: SiteLayout, peer: SiteLayout, ram_dir: Path, interface: str, rate_mbit: float
) -> str:
    """The whole configuration of one site. Site A connects, site B listens."""
    first = here.name < peer.name
    keys = here.root / "keys"
    addresses = [
        f"10.77.0.{1 if first else 2}:{WAN_PORT}",
        f"10.77.0.{2 if first else 1}:{WAN_PORT}",
    ]
    sections: list[tuple[str, dict[str, Any]]] = [
        ("[site]", {
            "name": here.name, "state_dir": str(here.folder / "state"),
            "run_dir": str(here.folder / "run"),
            "latitude": 33.56 if first else 43.06, "longitude": 133.53 if first else 141.35,
        }),
        ("[pair]", {"secret_file": str(keys / "pair.secret"), "peer": peer.name}),
        ("[wan]", {
            "port": f"dpdk:af_packet:{interface}", "local": addresses[0], "peer": addresses[1],
            "role": "connect" if first else "listen",
            "rate_ceiling_mbit": round(rate_mbit * CEILING, 3),
            "ca": str(keys / "ca.pem"), "cert": str(keys / f"{here.name}.pem"),
            "key": str(keys / f"{here.name}.key"),
        }),
        ("[api]", {"socket": str(here.socket)}),
        ("[webhook]", {
            "listen": WEBHOOK, "cert": str(keys / "webhook.pem"), "key": str(keys / "webhook.key"),
            "secret_file": str(keys / "webhook.secret"),
        }),
        ("[[alert.rule]]", {"source": "json", "min_intensity": "5-"}),
        ("[prestage]", {"interval_s": 3, "cpu_share": 0.8, "rpo_target_s": 20}),
        ("[staging]", {"ram_dir": str(ram_dir / here.name)}),
        ("[landing]", {"qemu": "qemu-system-x86_64", "path_map": [[str(peer.vms), str(here.vms)]]}),
        ("[evacuation]", {"policy": "evacuation", "silence_s": 10}),
    ]  # fmt: skip
    lines: list[str] = []
    for title, values in sections:
        lines += [title, *(f"{key} = {toml(value)}" for key, value in values.items()), ""]
    return "\n".join(lines)


class Site:
    """The daemon of one site and its command line."""

    def __init__(self, layout: SiteLayout, netns: str, binaries: Path) -> None:
        self.layout, self.netns, self._binaries = layout, netns, binaries
        self._daemon: subprocess.Popen[bytes] | None = None

    def prepare(self, peer: SiteLayout, ram_dir: Path, interface: str, rate_mbit: float) -> None:
        for folder in (self.layout.vms, self.layout.folder / "run", self.layout.folder / "state"):
            folder.mkdir(parents=True, exist_ok=True)
        (ram_dir / self.layout.name).mkdir(parents=True, exist_ok=True)
        self.layout.config.write_text(site_config(self.layout, peer, ram_dir, interface, rate_mbit))

    def start(self) -> None:
        command = [str(self._binaries / "evacgwd"), "--config", str(self.layout.config)]
        with open(self.layout.log, "ab") as log:
            self._daemon = subprocess.Popen(
                in_netns(self.netns, command), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        assert self._daemon is not None
        return self._daemon.pid

    def check_alive(self) -> None:
        if self._daemon and self._daemon.poll() is not None:
            tail = self.layout.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(
                f"evacgwd of {self.layout.name} ended with {self._daemon.returncode}:\n{tail}"
            )

    def stop(self) -> None:
        if self._daemon and self._daemon.poll() is None:
            self._daemon.send_signal(signal.SIGTERM)
            try:
                self._daemon.wait(10)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()

    def evacctl_command(self, *verb: str) -> list[str]:
        return [str(self._binaries / "evacctl"), "--socket", str(self.layout.socket), *verb]

    def evacctl(self, *verb: str, accept: tuple[int, ...] = (0,)) -> Any:
        """Runs a verb with --output json and returns what it printed. Raises CommandError."""
        return json.loads(self.text(*verb, "--output", "json", accept=accept) or "null")

    def evacctl_result(
        self, *verb: str, timeout_s: float = 90.0
    ) -> subprocess.CompletedProcess[str]:
        """Whatever the verb's exit code."""
        return subprocess.run(
            self.evacctl_command(*verb),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def text(self, *verb: str, accept: tuple[int, ...] = (0,), timeout_s: float = 90.0) -> str:
        """What a verb printed. Exit codes other than those in `accept` raise CommandError."""
        done = self.evacctl_result(*verb, timeout_s=timeout_s)
        if done.returncode not in accept:
            message = (done.stderr.strip() or done.stdout.strip())[-1000:]
            text = f"evacctl {' '.join(verb)}: exit code {done.returncode}: {message}"
            raise CommandError(text, done.returncode)
        return done.stdout

    def wait_connected(self, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        last = "no answer yet"
        while time.monotonic() < deadline:
            self.check_alive()
            try:
                if self.evacctl("status")["peer_connected"]:
                    return
                last = "the peer is not connected"
            except (CommandError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
                last = str(error)
            time.sleep(0.2)
        raise RuntimeError(
            f"{self.layout.name}: {last} after {timeout_s:.0f} s; log: {self.layout.log}"
        )
