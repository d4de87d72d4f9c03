"""What the tests of this folder share: the real binaries, one pair of sites on loopback, HTTP clients."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("EVAC_BIN", ROOT / "build" / "release" / "bin"))
sys.path.insert(0, str(ROOT / "deploy" / "quickstart"))
from sites import make_secrets, toml  # noqa: E402

START_S = 20.0
Sections = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def run(*command: str | Path, timeout_s: float = 20.0) -> Ended:
    done = subprocess.run(
        [str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


def free_port(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(what: str, holds: Callable[[], Any], timeout_s: float = START_S) -> Any:
    """The first true value of `holds`; AssertionError when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = holds()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what}")


class Workspace:
    """A folder of one test class with the pair's secrets; both are gone afterwards."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="evac-it-"))
        self.keys = self.root / "keys"
        make_secrets(self.keys)

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def sections(self, name: str, port: int, peer_name: str, peer_port: int) -> Sections:
        """A complete, good configuration; tests spoil one thing at a time."""
        folder = self.root / name
        return {
            "site": {"name": name, "state_dir": str(folder / "state"), "run_dir": str(folder / "run"),
                     "latitude": 33.56, "longitude": 133.53},
            "pair": {"secret_file": str(self.keys / "pair.secret"), "peer": peer_name},
            "wan": {"port": "kernel", "local": f"127.0.0.1:{port}", "peer": f"127.0.0.1:{peer_port}",
                    "role": "connect" if name < peer_name else "listen", "rate_ceiling_mbit": 100,
                    "ca": str(self.keys / "ca.pem"), "cert": str(self.keys / f"{name}.pem"),
                    "key": str(self.keys / f"{name}.key")},
            "api": {"socket": str(folder / "run" / "api.sock")},
            "webhook": {"listen": f"127.0.0.1:{free_port(socket.SOCK_STREAM)}",
                        "cert": str(self.keys / "webhook.pem"), "key": str(self.keys / "webhook.key"),
                        "secret_file": str(self.keys / "webhook.secret")},
            "alert": {},
            "prestage": {"interval_s": 4},
            "staging": {"ram_dir": str(folder / "ram")},
            "landing": {"qemu": "qemu-system-x86_64", "path_map": [["/a", "/b"]]},
            "evacuation": {"policy": "evacuation", "silence_s": 10},
        }  # fmt: skip

    def write(self, name: str, sections: Sections) -> Path:
        lines: list[str] = []
        for title, values in sections.items():
            lines += [f"[{title}]", *(f"{key} = {toml(value)}" for key, value in values.items())]
            if title == "alert":
                lines += ["[[alert.rule]]", 'source = "json"', 'min_intensity = "5-"']
        path = self.root / f"{name}.toml"
        path.write_text("\n".join(lines) + "\n")
        return path


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("evacgwd", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(self._path)


def request(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:  # fmt: skip
    """The status and the body; as text when it is not JSON."""
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    finally:
        connection.close()
    try:
        return answer.status, json.loads(text)
    except ValueError:
        return answer.status, text


class Daemon:
    """One evacgwd on loopback."""

    def __init__(self, workspace: Workspace, sections: Sections) -> None:
        self.sections = sections
        self.name = sections["site"]["name"]
        self.state = Path(sections["site"]["state_dir"])
        self.socket = Path(sections["api"]["socket"])
        self.config = workspace.write(self.name, sections)
        self.log = workspace.root / f"{self.name}.log"
        self._keys = workspace.keys
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, environment: dict[str, str] | None = None) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [str(BIN / "evacgwd"), "--config", str(self.config)], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, env={**os.environ, **(environment or {})},
            )  # fmt: skip
        wait_until(f"{self.name} answers", self._answers)

    def _answers(self) -> bool:
        self.check_alive()
        try:
            return self.api("GET", "/v1/status")[0] == 200
        except OSError:
            return False

    def check_alive(self) -> None:
        assert self.process is not None
        code = self.process.poll()
        if code is not None:
            raise AssertionError(f"{self.name} ended with {code}:\n{self.log_text()[-2000:]}")

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, by: int = signal.SIGTERM) -> int:
        """The exit code. Harmless when it runs no more."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(by)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"{self.name} did not stop:\n{self.log_text()[-2000:]}") from None
        return self.process.returncode

    def api(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return request(UnixConnection(str(self.socket)), method, path, data)

    def ctl(self, *arguments: str, timeout_s: float = 30.0) -> Ended:
        return run(BIN / "evacctl", "--socket", self.socket, *arguments, timeout_s=timeout_s)

    def status(self) -> Any:
        code, body = self.api("GET", "/v1/status")
        assert code == 200, body
        return body

    def webhook(
        self, body: bytes, headers: dict[str, str] | None = None, *, path: str = "/v1/alerts",
        method: str = "POST", client: Path | None = None,
    ) -> tuple[int, Any]:  # fmt: skip
        """`client` is the certificate to show; its key lies beside it."""
        host, port = self.sections["webhook"]["listen"].split(":")
        context = ssl.create_default_context(cafile=str(self._keys / "ca.pem"))
        if client is not None:
            context.load_cert_chain(client, client.with_suffix(".key"))
        connection = http.client.HTTPSConnection(host, int(port), timeout=10, context=context)
        return request(connection, method, path, body, headers)

    def signed(
        self, body: bytes, *, message_id: str = "msg-1", age_s: int = 0, secret: str | None = None
    ) -> dict[str, str]:
        """Standard Webhooks: base64 of HMAC-SHA256 over id.timestamp.body."""
        text = secret or (self._keys / "webhook.secret").read_text().strip()
        key = base64.b64decode(text.removeprefix("whsec_"))
        stamp = str(int(time.time()) - age_s)
        content = f"{message_id}.{stamp}.".encode() + body
        mac = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        return {"webhook-id": message_id, "webhook-timestamp": stamp, "webhook-signature": f"v1,{mac}",
                "content-type": "application/json"}  # fmt: skip


class Pair:
    """Two daemons that find each other over 127.0.0.1."""

    def __init__(self, workspace: Workspace) -> None:
        a_port, b_port = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
        self.a_port, self.b_port = a_port, b_port
        self.a = Daemon(workspace, workspace.sections("site-a", a_port, "site-b", b_port))
        self.b = Daemon(workspace, workspace.sections("site-b", b_port, "site-a", a_port))

    def start(self) -> None:
        self.a.start()
        self.b.start()
        self.wait_connected()

    def connected(self) -> bool:
        return bool(self.a.status()["peer_connected"] and self.b.status()["peer_connected"])

    def wait_connected(self) -> None:
        wait_until("the pair is connected", self.connected)

    def stop(self) -> None:
        try:
            self.a.stop()
        finally:
            self.b.stop()
