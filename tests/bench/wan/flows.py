"""One flow at a time (or two) through the lab: ours by wan-flow, TCP by tcp.py."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import A_PORT, B_PORT, KERNEL_A, KERNEL_B, Child, Wan, WanLab, faults_of
from series import WINDOW_NS, Histogram, Series

HERE = Path(__file__).resolve().parent
OURS_A, OURS_B, OURS_PORT = "10.77.0.1:4500", "10.77.0.2:4500", 4500
TCP_PORT = 5001
START_LIMIT_S = 25.0
END_LIMIT_S = 20.0
REPEATS_MAX = 24  # of distrusted flows in one run: on a machine that stays busy they would not help
OURS = "ours"


class BenchError(RuntimeError):
    """A run broke: no figure."""


@dataclass(frozen=True)
class Load:
    seconds: float
    bulk: bool = True
    control_per_s: float = 0.0
    control_after_s: float = 2.0
    scavenger: bool = False


@dataclass
class Flow:
    """One flow's two processes. `start_ns` is when its load began."""

    lab: WanLab
    kind: str
    sender: Child
    receiver: Child
    start_ns: int = 0
    sent: dict[str, Any] = field(default_factory=dict)
    got: dict[str, Any] = field(default_factory=dict)

    def await_start(self) -> None:
        self.start_ns = int(self._line(self.sender, "start", "send", START_LIMIT_S)["ns"])

    def finish(self, limit_s: float) -> None:
        """Waits for the sender to end, then asks the receiver for its count."""
        self.sent = self._line(self.sender, "end", "send", limit_s + END_LIMIT_S)
        self.receiver.terminate()
        self.got = self._line(self.receiver, "end", "receive", END_LIMIT_S)

    def _line(self, child: Child, event: str, role: str, limit_s: float) -> dict[str, Any]:
        """The next line with that event; others (what the transport said) are passed over."""
        deadline, said = time.monotonic() + limit_s, ""
        while (text := child.line(deadline)) is not None:
            line: dict[str, Any] = json.loads(text)
            if line["event"] == event:
                return line
            said = line.get("text", said)
        code, tail = child.process.poll(), child.log_tail()
        raise BenchError(f"{self.kind}, {role}: no '{event}' (exit {code}); {said} {tail}".strip())


def start_ours(lab: WanLab, binary: Path, keys: Path, load: Load) -> Flow:
    def command(role: str, port: str, local: str, peer: str, name: str, peer_name: str) -> list[str]:
        return [
            str(binary), "--role", role, "--port", f"dpdk:af_packet:{port}", "--local", local,
            "--peer", peer, "--cert", str(keys / f"{name}.pem"), "--key", str(keys / f"{name}.key"),
            "--ca", str(keys / "ca.pem"), "--peer-name", peer_name,
        ]  # fmt: skip

    receive = command("receive", B_PORT, OURS_B, OURS_A, "site-b", "site-a")
    receiver = lab.spawn(lab.site_b, [*receive, "--seconds", f"{load.seconds + 60:g}"], f"{OURS}-receive.log")
    send = command("send", A_PORT, OURS_A, OURS_B, "site-a", "site-b")
    send += ["--seconds", f"{load.seconds:g}", "--bulk-bytes", str(64 * 1024 if load.bulk else 0)]
    send += ["--control-per-s", f"{load.control_per_s:g}", "--control-after-s", f"{load.control_after_s:g}"]
    send += ["--scavenger"] if load.scavenger else []
    flow = Flow(lab, OURS, lab.spawn(lab.site_a, send, f"{OURS}-send.log"), receiver)
    flow.await_start()
    return flow


def start_tcp(lab: WanLab, algorithm: str, load: Load) -> Flow:
    program = ["/usr/bin/python3", str(HERE / "tcp.py")]
    receiver = lab.spawn(
        lab.site_b, [*program, "receive", KERNEL_B, str(TCP_PORT)], f"{algorithm}-receive.log"
    )
    flow = Flow(lab, algorithm, receiver, receiver)
    flow._line(receiver, "ready", "receive", START_LIMIT_S)
    send = [*program, "send", KERNEL_B, str(TCP_PORT), algorithm, f"{load.seconds:g}"]
    send += [str(int(load.bulk)), f"{load.control_per_s:g}", f"{load.control_after_s:g}"]
    flow.sender = lab.spawn(lab.site_a, send, f"{algorithm}-send.log")
    flow.await_start()
    return flow


@dataclass
class Result:
    """What one flow did on one link."""

    kind: str
    start_ns: int
    series: Series
    latency: Histogram
    control_offered: int
    emulator: dict[str, Any]
    faults: list[str]
    sent: dict[str, Any]
    got: dict[str, Any]
    line_back_ns: int = 0  # of a scripted outage

    def at(self, seconds: float) -> int:
        return self.start_ns + round(seconds * 1e9)

    def share(self, rate_mbit: float, from_s: float, to_s: float) -> float:
        """Percent of the link that was payload delivered in that part of the load."""
        return 100 * self.series.rate_mbit(self.at(from_s), self.at(to_s)) / rate_mbit


def result_of(flow: Flow, emulator: dict[str, Any]) -> Result:
    got = flow.got
    if not got["bulk_bytes"] and not got["control_messages"]:
        raise BenchError(f"{flow.kind}: nothing arrived")
    if got.get("out_of_order"):
        wrong = got["out_of_order"]
        raise BenchError(f"{flow.kind}: {wrong} bulk messages out of order: a fault of the transport")
    series = Series(got["base_ns"], got["bin_ns"], got["bins"])
    latency = [(int(edge), int(count)) for edge, count in got["latency_us"]]
    return Result(
        flow.kind, flow.start_ns, series, latency, flow.sent.get("control_messages", 0), emulator,
        faults_of(emulator), flow.sent, got,
    )  # fmt: skip


class Runner:
    """Runs flows one after the other; a distrusted one is run once more."""

    def __init__(self, lab: WanLab, binaries: Path, keys: Path, say: Callable[[str], None]) -> None:
        self.lab, self.keys, self.say = lab, keys, say
        self.binary = binaries / "wan-flow"
        self.account: list[dict[str, Any]] = []
        self.memory: list[dict[str, Any]] = []
        self._repeats = 0

    def start(self, kind: str, load: Load) -> Flow:
        if kind == OURS:
            return start_ours(self.lab, self.binary, self.keys, load)
        return start_tcp(self.lab, kind, load)

    def run(self, kind: str, wan: Wan, load: Load, outage: tuple[float, float] | None = None) -> Result:
        """One flow; `outage` is (seconds after the start, length)."""
        result = self._once(kind, wan, load, outage)
        if self.repeat(result):
            result = self._once(kind, wan, load, outage)
        return result

    def repeat(self, result: Result) -> bool:
        """Whether to run it again."""
        if not result.faults or self._repeats == REPEATS_MAX:
            return False
        self._repeats += 1
        self.say(f"    {result.kind}: distrusted ({'; '.join(result.faults)}), running it again")
        return True

    def _once(self, kind: str, wan: Wan, load: Load, outage: tuple[float, float] | None) -> Result:
        self.lab.set_kernel_addresses(kind != OURS)
        self.lab.begin(wan)
        back_ns = 0
        try:
            flow = self.start(kind, load)
            if outage:
                time.sleep(max(0.0, flow.start_ns / 1e9 + outage[0] - time.monotonic()))
                back_ns = self.lab.outage(outage[1])
            flow.finish(load.seconds)
            emulator = self.lab.end()
        finally:
            self.lab.end_children()
        result = result_of(flow, emulator)
        result.line_back_ns = back_ns
        self.note(result, wan)
        return result

    def note(self, result: Result, wan: Wan) -> None:
        """Into the JSON's account of all runs."""
        entry: dict[str, Any] = {"flow": result.kind, "wan": wan.text(), "seconds": _seconds(result)}
        entry["emulator"] = {way: result.emulator[way] for way in ("a_to_b", "b_to_a")}
        entry["mbit_each_100_ms"] = result.series.rates_mbit(result.start_ns, WINDOW_NS)
        entry["machine_busy_pct"] = result.emulator["machine_busy_pct"]
        entry["faults"] = result.faults
        if result.kind == OURS:
            entry["sender"] = {k: v for k, v in result.sent.items() if k != "event"}
            entry["receiver"] = {k: result.got[k] for k in ("stats", "port", "cpu_s", "packet_thread_cpu_s")}
            for role, end in (("sender", result.sent), ("receiver", result.got)):
                self.memory.append(
                    {"role": role, "growth": end["rss_growth_bytes"], "limit": end["memory_limit_bytes"]}
                )
        self.account.append(entry)


def _seconds(result: Result) -> float:
    return round((result.sent["end_ns"] - result.start_ns) / 1e9, 3)
