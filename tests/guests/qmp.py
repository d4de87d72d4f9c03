"""A small synchronous QMP client. Shares no code with the gateway: proofs rest on it."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any


class QmpError(Exception):
    """QEMU answered with an error, closed the socket, or said nothing in time."""


class Qmp:
    """One connection. Not for use by two threads at a time."""

    def __init__(self, path: Path | str, timeout_s: float = 30.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        self._buffer = b""
        self.events: list[dict[str, Any]] = []
        try:
            self._socket.connect(str(path))
            if "QMP" not in self._read():
                raise QmpError(f"{path} does not greet like QMP")
            self.command("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Qmp:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def command(self, name: str, **arguments: Any) -> Any:
        """Runs one command and returns its result. Argument names: `a_b` is sent as `a-b`."""
        request: dict[str, Any] = {"execute": name}
        if arguments:
            request["arguments"] = {
                key.replace("_", "-"): value for key, value in arguments.items()
            }
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise QmpError(f"{name}: {error}") from error
        while True:
            answer = self._read()
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise QmpError(f"{name}: {answer['error'].get('desc', answer['error'])}")
            elif "return" in answer:
                return answer["return"]

    def run_state(self) -> str:
        return str(self.command("query-status")["status"])

    def _read(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            try:
                data = self._socket.recv(65536)
            except OSError as error:
                raise QmpError(f"no answer: {error}") from error
            if not data:
                raise QmpError("QEMU closed the socket")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        value = json.loads(line)
        if not isinstance(value, dict):
            raise QmpError(f"not a QMP message: {line[:100]!r}")
        return value


def run_state_of(path: Path | str) -> str | None:
    """The run state behind a socket, or None when no QEMU answers there."""
    try:
        with Qmp(path, timeout_s=5.0) as qmp:
            return qmp.run_state()
    except (OSError, QmpError, ValueError):
        return None


def wait_for_socket(path: Path, timeout_s: float = 10.0) -> None:
    """Returns once QMP answers at `path`; raises QmpError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while run_state_of(path) is None:
        if time.monotonic() > deadline:
            raise QmpError(f"no QMP at {path} after {timeout_s:.0f} s")
        time.sleep(0.05)
