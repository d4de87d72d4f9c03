"""Each point of the benchmark: the link, the flows on it, the figure they make."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import Board, Figure
from flows import OURS, BenchError, Load, Result, Runner, result_of
from lab import Wan
from series import percentile_ms, share_within

BBR, CUBIC = "bbr", "cubic"
# The binary that measures CPU per packet through the whole stack; it has the form of our JSON.
PACKET_BENCH = "wan_packet_bench"
PACKET_BENCH_LIMIT_S = 300
CONTROL_PER_S = 50.0
ONE_RATE = 100.0  # Mbit/s of every point


@dataclass(frozen=True)
class Plan:
    """How long each part lasts, and what runs beside ours. Quick is for a first look."""

    quick: bool
    goodput_s: float = 18.0
    warm_up_s: float = 4.0  # not counted, for ours and for TCP alike
    edge_s: float = 2.0  # the window is so much shorter than what it slides over
    control_s: float = 60.0
    control_tcp_s: float = 30.0
    scavenger_s: float = 20.0
    has_bbr: bool = True  # this kernel; without it figures have no baseline, and say so

    def steady_pct(self, result: Result) -> float:
        start, end = result.at(self.warm_up_s), result.at(self.goodput_s)
        window_ns = end - start - round(self.edge_s * 1e9)
        return 100 * result.series.steady_mbit(start, end, window_ns) / ONE_RATE

    @property
    def baseline(self) -> list[str]:
        return [BBR] if self.has_bbr else []

    @property
    def peers(self) -> list[str]:
        return self.baseline if self.quick else [*self.baseline, CUBIC]


QUICK = Plan(quick=True, goodput_s=9.0, control_s=10.0, control_tcp_s=6.0, scavenger_s=6.0)
FIRST_S = 14.0  # also shown: all of the first seconds, start-up included
FULL = Plan(quick=False)


@dataclass(frozen=True)
class Point:
    name: str
    measure: Callable[[str, Runner, Board, Plan], None]
    quick: bool = False


def line_use(result: Result) -> dict[str, float]:
    """Where the missing share went, over the whole load: a line that stood idle, or packets that
    overran its queue; the rest was lost, sent twice, or headers."""
    line = result.emulator["a_to_b"]
    load_s = (result.sent["end_ns"] - result.start_ns) / 1e9
    dropped = line["dropped_queue"] / max(line["offered_packets"], 1)
    return {
        "line_idle_pct": round(max(0.0, 100 - 100 * line["link_busy_s"] / load_s), 2),
        "queue_drop_pct": round(100 * dropped, 2),
    }


def distrust(*results: Result) -> dict[str, Any]:
    """For the figure's entry: empty when every flow behind it can be trusted."""
    faults = {result.kind: "; ".join(result.faults) for result in results if result.faults}
    return {"distrusted": "; ".join(f"{kind}: {why}" for kind, why in faults.items())} if faults else {}


def noise(result: Result) -> dict[str, float]:
    """How far the machine was in the way: the emulator's mean lateness adds to every delay."""
    late_us = float(result.emulator["a_to_b"]["late_us_mean"])
    return {"late_us": late_us, "busy_pct": float(result.emulator["machine_busy_pct"])}


def beside(values: dict[str, float], results: dict[str, Result]) -> dict[str, Any]:
    """What an entry says of all its flows."""
    extra: dict[str, Any] = {"cubic": round(values[CUBIC], 2)} if CUBIC in values else {}
    extra |= {"note": "no TCP BBR in this kernel"} if BBR not in values else {}
    return extra | noise(results[OURS]) | distrust(*results.values())


def goodput(wan: Wan) -> Callable[[str, Runner, Board, Plan], None]:
    def measure(name: str, runner: Runner, board: Board, plan: Plan) -> None:
        load = Load(plan.goodput_s)
        kinds = [OURS, *plan.peers]
        results = {kind: runner.run(kind, wan, load) for kind in kinds}
        steady = {kind: plan.steady_pct(result) for kind, result in results.items()}
        first_s = min(FIRST_S, plan.goodput_s)
        first = {k: round(r.share(ONE_RATE, 0, first_s), 2) for k, r in results.items()}
        extra: dict[str, Any] = {f"first_{first_s:g}_s": first[OURS]}
        extra |= {f"first_{first_s:g}_s_{BBR}": first[BBR]} if BBR in first else {}
        extra |= line_use(results[OURS]) | beside(steady, results)
        target = 90.0 if wan.loss >= 3 else 93.0
        board.add(name, Figure(steady[OURS], "%", target, True, steady.get(BBR), True, extra))

    return measure


def short_outage(name: str, runner: Runner, board: Board, plan: Plan) -> None:
    """2 s without a line from the 6th second of 14; all 14 count."""
    results = {k: runner.run(k, Wan(20), Load(14), (6.0, 2.0)) for k in [OURS, *plan.peers]}
    share = {kind: result.share(ONE_RATE, 0, 14) for kind, result in results.items()}
    extra = beside(share, results)
    board.add(name, Figure(share[OURS], "%", 78.0, True, share.get(BBR), True, extra))


def recovery_ms(result: Result, outage_at_s: float, end_s: float) -> float | None:
    before = result.series.rate_mbit(result.at(outage_at_s - 2), result.at(outage_at_s))
    back = result.line_back_ns
    found = result.series.recovered_ns(back, result.at(end_s), before)
    return None if found is None else (found - back) / 1e6


def long_outage(wan: Wan) -> Callable[[str, Runner, Board, Plan], None]:
    """10 s without a line from the 5th second of 25."""

    def measure(name: str, runner: Runner, board: Board, plan: Plan) -> None:
        kinds = [OURS, *plan.baseline]
        results = {k: runner.run(k, wan, Load(25), (5.0, 10.0)) for k in kinds}
        times = {kind: recovery_ms(result, 5, 25) for kind, result in results.items()}
        extra = beside({kind: 0.0 for kind in times}, results)
        extra["sessions"] = results[OURS].got["sessions"]
        if BBR in times and times[BBR] is None:
            extra["bbr"] = "not within 10 s"
        target = 300 + 2 * wan.rtt_ms
        board.add(name, Figure(times[OURS], "ms", target, False, times.get(BBR), False, extra))

    return measure


def control(wan: Wan, margin_ms: float) -> Callable[[str, Runner, Board, Plan], None]:
    """1 KiB messages at 50/s under saturating bulk. The peer is TCP BBR for both, with a
    connection of its own for the messages."""

    def measure(name: str, runner: Runner, board: Board, plan: Plan) -> None:
        ours = runner.run(OURS, wan, Load(plan.control_s, control_per_s=CONTROL_PER_S))
        load = Load(plan.control_tcp_s, control_per_s=CONTROL_PER_S)
        tcp = [runner.run(kind, wan, load) for kind in plan.baseline]
        limit = wan.rtt_ms / 2 + margin_ms
        within = share_within(ours.latency, ours.control_offered, limit)
        extra: dict[str, Any] = {
            "p50": percentile_ms(ours.latency, ours.control_offered, 0.5),
            "within_target_pct": round(100 * within, 2),
            "messages": ours.control_offered,
            "bulk_pct": round(ours.share(ONE_RATE, plan.warm_up_s, plan.control_s), 1),
            "late_us_max": ours.emulator["a_to_b"]["late_us_max"],
        } | noise(ours)
        p99 = [percentile_ms(r.latency, r.control_offered, 0.99) for r in (ours, *tcp)]
        extra |= distrust(ours, *tcp)
        board.add(name, Figure(p99[0], "ms", limit, False, (p99[1:] or [None])[0], False, extra))

    return measure


def scavenger(name: str, runner: Runner, board: Board, plan: Plan) -> None:
    """Cubic alone, then cubic beside ours in scavenger mode, which had the line before it."""
    seconds, lead_s = plan.scavenger_s, 5.0
    wan = Wan(20)
    alone = runner.run(CUBIC, wan, Load(seconds))
    ours, cubic = beside_cubic(runner, wan, lead_s, seconds)
    if runner.repeat(ours):
        ours, cubic = beside_cubic(runner, wan, lead_s, seconds)
    share = 100 * cubic.share(ONE_RATE, 0, seconds) / alone.share(ONE_RATE, 0, seconds)
    left_ns = int(cubic.sent["end_ns"])
    before = ours.series.rate_mbit(ours.at(lead_s - 2), cubic.start_ns)
    until_ns = ours.at(2 * lead_s + seconds)
    taken = ours.series.recovered_ns(left_ns, until_ns, before)
    yielded = ours.series.yielded_ns(cubic.start_ns, left_ns, 0.2 * ONE_RATE)
    extra = {
        "alone_pct": round(alone.share(ONE_RATE, 0, seconds), 2),
        "ours_alone_pct": round(before / ONE_RATE * 100, 2),
        "ours_beside_pct": round(ours.series.rate_mbit(cubic.start_ns, left_ns), 2),
        "yielded_ms": _since_ms(yielded, cubic.start_ns),
        "took_back_ms": _since_ms(taken, left_ns),
        "mode": "scavenger" if ours.sent["scavenger"] else "NOT in this build",
    }
    extra |= noise(ours)
    figure = Figure(share, "%", 90.0, True, extra=extra | distrust(alone, ours))
    board.add(name, figure)


def _since_ms(at_ns: int | None, from_ns: int) -> float | str:
    return "never" if at_ns is None else round((at_ns - from_ns) / 1e6, 1)


def beside_cubic(runner: Runner, wan: Wan, lead_s: float, seconds: float) -> tuple[Result, Result]:
    """Ours for `lead_s`, then cubic beside it for `seconds`, then ours alone for `lead_s` again."""
    lab = runner.lab
    lab.set_kernel_addresses(True)
    lab.begin(wan)
    try:
        ours = runner.start(OURS, Load(2 * lead_s + seconds, scavenger=True))
        time.sleep(max(0.0, ours.start_ns / 1e9 + lead_s - time.monotonic()))
        cubic = runner.start(CUBIC, Load(seconds))
        cubic.finish(seconds)
        ours.finish(2 * lead_s + seconds)
        emulator = lab.end()
    finally:
        lab.end_children()
    results = result_of(ours, emulator), result_of(cubic, emulator)
    for result in results:
        runner.note(result, wan)
    return results


def cpu(name: str, runner: Runner, board: Board, plan: Plan) -> None:
    """Another program measures it; its figures are taken over."""
    del plan
    folders = [runner.binary.parent, runner.binary.parent.parent / "tests"]
    found = [folder / PACKET_BENCH for folder in folders if (folder / PACKET_BENCH).exists()]
    if not found:
        for way, target in (("sent", 3.5), ("received", 3.0)):
            missing = {"note": f"{PACKET_BENCH} is not built"}
            board.add(f"{name}_{way}", Figure(None, "us", target, False, extra=missing))
        return
    report = Path(runner.keys).parent / "packet-bench.json"
    done = subprocess.run([str(found[0]), "--json", str(report)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=PACKET_BENCH_LIMIT_S,
                          check=False)  # fmt: skip
    if done.returncode != 0 or not report.exists():
        raise BenchError(f"{PACKET_BENCH}: exit {done.returncode}: {done.stdout[-500:].strip()}")
    for key, entry in json.loads(report.read_text())["figures"].items():
        if "met" not in entry:  # told for comparison, nothing is promised
            continue
        board.add_foreign(f"{name}_{key}", entry)


def memory(name: str, runner: Runner, board: Board, plan: Plan) -> None:
    """The most that any connection of this run grew by, against what its limits add up to."""
    del plan
    mib = 1 << 20
    if not runner.memory:
        raise BenchError("memory: no flow of ours ran before")
    worst = max(runner.memory, key=lambda entry: int(entry["growth"]))
    extra = {"role": worst["role"], "flows": len(runner.memory) // 2}
    board.add(name, Figure(worst["growth"] / mib, "MiB", worst["limit"] / mib, False, extra=extra))


def goodput_points() -> Iterator[Point]:
    quick = {"goodput_rtt20_loss0", "goodput_rtt20_loss1", "goodput_rtt100_ge3"}
    for rtt in (20, 100, 200):
        for kind, loss, burst in (
            ("loss0", 0.0, 0.0), ("loss0.1", 0.1, 0.0), ("loss1", 1.0, 0.0), ("loss3", 3.0, 0.0),
            ("ge1", 1.0, 4.0), ("ge3", 3.0, 4.0),
        ):  # fmt: skip
            name = f"goodput_rtt{rtt}_{kind}"
            yield Point(name, goodput(Wan(rtt, loss, burst)), name in quick)


def all_points() -> list[Point]:
    return [
        *goodput_points(),
        Point("outage_2s_goodput", short_outage, True),
        Point("outage_10s_recovery_rtt20", long_outage(Wan(20))),
        Point("outage_10s_recovery_rtt100", long_outage(Wan(100))),
        Point("control_p99_rtt20_loss0", control(Wan(20), 8)),
        Point("control_p99_rtt20_loss3", control(Wan(20, 3.0), 15), True),
        Point("control_p99_rtt100_loss0", control(Wan(100), 8)),
        Point("control_p99_rtt100_loss3", control(Wan(100, 3.0), 15)),
        Point("scavenger_leaves_cubic", scavenger, True),
        Point("cpu_us_per_packet", cpu),
        Point("memory_per_connection", memory, True),
    ]
