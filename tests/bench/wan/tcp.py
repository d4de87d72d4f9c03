"""One end of a TCP flow, run inside a site: bulk, and stamped messages on a connection of their own.

    tcp.py receive IP PORT
    tcp.py send IP PORT ALGORITHM SECONDS BULK(0|1) CONTROL_PER_S CONTROL_AFTER_S

Prints JSON lines like wan-flow: start (sender), ready and end (receiver). Times are CLOCK_MONOTONIC.
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from typing import Any

CHUNK_BYTES = 64 * 1024
MESSAGE_BYTES = 1024
BIN_NS = 10_000_000
STEP_US = 100
BULK, CONTROL = b"B", b"C"  # the first byte of a connection


def say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


class Receiver:
    def __init__(self) -> None:
        self.base_ns = time.monotonic_ns()
        self.bins: Counter[int] = Counter()
        self.latency: Counter[int] = Counter()
        self.latency_max_us = 0

    def serve(self, peer: socket.socket) -> None:
        with peer:
            try:
                kind = peer.recv(1)
                self._take_bulk(peer) if kind == BULK else self._take_control(peer)
            except ConnectionError:
                pass  # the sender drops the connection when its time is over

    def _take_bulk(self, peer: socket.socket) -> None:
        buffer = bytearray(4 * CHUNK_BYTES)
        while count := peer.recv_into(buffer):
            self.bins[(time.monotonic_ns() - self.base_ns) // BIN_NS] += count

    def _take_control(self, peer: socket.socket) -> None:
        stream = peer.makefile("rb")
        while len(message := stream.read(MESSAGE_BYTES)) == MESSAGE_BYTES:
            latency_us = (time.monotonic_ns() - struct.unpack_from("<Q", message)[0]) // 1000
            self.latency[(latency_us // STEP_US + 1) * STEP_US] += 1
            self.latency_max_us = max(self.latency_max_us, latency_us)

    def report(self) -> dict[str, Any]:
        bins = [self.bins[i] for i in range(max(self.bins, default=-1) + 1)]
        return {
            "event": "end", "base_ns": self.base_ns, "bin_ns": BIN_NS, "bins": bins,
            "bulk_bytes": sum(bins), "control_messages": sum(self.latency.values()),
            "latency_us": sorted(self.latency.items()), "latency_us_max": self.latency_max_us,
        }  # fmt: skip


def receive(ip: str, port: int) -> None:
    receiver = Receiver()
    listener = socket.create_server((ip, port))
    say({"event": "ready"})

    def accept() -> None:
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=receiver.serve, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    say(receiver.report())


def connect(ip: str, port: int, algorithm: str, kind: bytes) -> socket.socket:
    link = socket.socket()
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, algorithm.encode())
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.settimeout(15)
    link.connect((ip, port))
    link.sendall(kind)
    # Closing drops what is queued, so that the line is free at once.
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return link


def send_bulk(link: socket.socket, end_s: float) -> None:
    chunk = bytes(CHUNK_BYTES)
    while (left_s := end_s - time.monotonic()) > 0:
        link.settimeout(left_s)
        try:
            link.send(chunk)
        except TimeoutError:
            return


def send_control(link: socket.socket, start_s: float, end_s: float, per_s: float) -> int:
    """How many messages were offered; one that the socket does not take ends the sending."""
    sent = 0
    padding = bytes(MESSAGE_BYTES - 8)
    while (due_s := start_s + sent / per_s) < end_s:
        time.sleep(max(0.0, due_s - time.monotonic()))
        link.sendall(struct.pack("<Q", time.monotonic_ns()) + padding)
        sent += 1
    return sent


def send(ip: str, port: int, algorithm: str, arguments: list[float]) -> None:
    seconds, with_bulk, per_s, after_s = arguments
    bulk = connect(ip, port, algorithm, BULK) if with_bulk else None
    control = connect(ip, port, algorithm, CONTROL) if per_s else None
    start_s = time.monotonic()
    say({"event": "start", "ns": int(start_s * 1e9)})
    worker = None
    if bulk:
        worker = threading.Thread(target=send_bulk, args=(bulk, start_s + seconds))
        worker.start()
    sent = send_control(control, start_s + after_s, start_s + seconds, per_s) if control else 0
    if worker:
        worker.join()
    end_ns = time.monotonic_ns()
    if bulk:
        bulk.close()
    if control:
        time.sleep(1)  # for the last messages to arrive
        control.close()
    say({"event": "end", "end_ns": end_ns, "control_messages": sent})


def main() -> None:
    # Blocked in every thread, so that the receiver's sigwait gets them.
    role, ip, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if role == "receive":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        receive(ip, port)
    else:
        send(ip, port, sys.argv[4], [float(word) for word in sys.argv[5:9]])


if __name__ == "__main__":
    main()
