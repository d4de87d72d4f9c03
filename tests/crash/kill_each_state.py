#!/usr/bin/env python3
"""Kills a daemon (SIGKILL) in each state of a handover, and of prestaging, starts it again, and
proves that the guest ends at exactly one site with nothing lost, and never ran at both.

A case is SIDE:STATE[:DOWN_S]: whose daemon dies, in which state, and for how long it stays away.
Away has no states `draining` and `frozen`: there the states are home's. `prestage` is the first copying.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from crash_lab import ROLES, TOP, CrashLab, Killer, Pair  # noqa: E402
from journal_reader import HOME  # noqa: E402

import checks  # noqa: E402
from checks import Verdict  # noqa: E402
from display import table  # noqa: E402
from guests import GuestSpec  # noqa: E402
from network import Link  # noqa: E402
from qmp import QmpError, run_state_of  # noqa: E402

STATES = ("armed", "draining", "frozen", "sealed", "committed", "running_away")
DOWN_S = 1.0
FULL = [
    *(f"home:{state}" for state in STATES), *(f"away:{state}" for state in STATES),
    "home:sealed:14", "home:committed:14", "away:frozen:18", "away:sealed:18",
    "home:prestage", "away:prestage",
]  # fmt: skip
QUICK = ["home:draining", "home:sealed", "away:sealed", "home:prestage"]
MIB = 1 << 20
RESENT_SHARE_MAX = 0.05  # of what had been sent before the kill
IN_FLIGHT_MIB = 2.0  # on the link and in the receiver when it died


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP."""


@dataclass(frozen=True)
class Case:
    side: str
    state: str
    down_s: float = DOWN_S

    @staticmethod
    def parse(text: str) -> Case:
        side, _, rest = text.partition(":")
        state, _, down = rest.partition(":")
        if side not in ROLES or state not in (*STATES, "prestage"):
            raise ValueError(
                f"case {text!r}: home or away, then one of {', '.join((*STATES, 'prestage'))}"
            )
        return Case(side, state, float(down) if down else DOWN_S)

    @property
    def name(self) -> str:
        return f"{self.side}:{self.state}" + (f":{self.down_s:g}" if self.down_s != DOWN_S else "")


@dataclass
class Result:
    """One row of the table."""

    case: Case
    hit: str = "-"
    ends_at: str = "-"
    silence_ms: float | None = None
    took_s: float = 0.0
    late: str = "-"
    note: str = ""
    problems: list[str] = field(default_factory=list)


def guest_of(index: int, role: str) -> GuestSpec:
    rate = 1 if role == "writer" else 0
    return GuestSpec(f"crash-{index}", role, 256, 16, 64, 905, rate_mib=rate)


class Runner:
    """Runs cases one after the other."""

    def __init__(self, lab: CrashLab, role: str) -> None:
        self._lab, self._role = lab, role
        self._count = 0
        self._staging_mib: float | None = None  # what an idle guest's first staging takes
        self.logs = Path(tempfile.mkdtemp(prefix="evacgw-crash-failed-"))

    def run(self, case: Case) -> Result:
        result = Result(case)
        began_s = time.monotonic()
        pair: Pair | None = None
        try:
            if case.state == "prestage" and self._staging_mib is None:
                self._measure_staging()
            # Idle where bytes are counted: what a writer changes is sent rightly.
            pair = self._pair("idle" if case.state == "prestage" else self._role)
            pair.start()
            if case.state == "prestage":
                self._prestage_case(case, pair, result)
            else:
                self._handover_case(case, pair, result)
        except (RuntimeError, OSError, ValueError, KeyError, QmpError,
                subprocess.SubprocessError) as error:  # fmt: skip
            result.problems.append(f"{type(error).__name__}: {error}")
        finally:
            if pair is not None:
                if result.problems:
                    pair.save_logs(self.logs / case.name.replace(":", "-"))
                pair.close()
        result.took_s = time.monotonic() - began_s
        return result

    def _pair(self, role: str) -> Pair:
        self._count += 1
        return Pair(self._lab, f"case-{self._count}", guest_of(self._count, role))

    def _stage(self, pair: Pair) -> float:
        """Enrols and waits for the first recovery point. MiB on the link for it."""
        before = pair.wire_bytes()
        pair.enrol()
        pair.wait_protected()
        return (pair.wire_bytes() - before) / MIB

    def _measure_staging(self) -> None:
        pair = self._pair("idle")
        try:
            pair.start()
            self._staging_mib = self._stage(pair)
        finally:
            pair.close()

    # ------------------------------------------------------------------------- handovers

    def _handover_case(self, case: Case, pair: Pair, result: Result) -> None:
        self._stage(pair)
        victim = pair.sites[case.side]
        watched, role = victim.journal, ROLES[case.side]
        if case.side == "away" and case.state in ("draining", "frozen"):
            watched, role = pair.a.journal, HOME
        killer = Killer(watched, role, case.state, victim).start()
        only_armed = case.side == "home" and case.state == "armed"
        if only_armed:
            pair.arm()
        else:
            pair.evacuate()
        try:
            kill = killer.wait(60)
        except RuntimeError as error:
            raise RuntimeError(f"{error}; site A answered: {pair.last_answer}") from error
        result.hit = kill.at_death
        time.sleep(case.down_s)
        victim.start()
        if only_armed:
            pair.wait_protected()
            pair.evacuate()
        result.ends_at = pair.wait_end()
        ended_s = time.monotonic()
        self._prove(pair, result, ended_s)

    def _prove(self, pair: Pair, result: Result, ended_s: float) -> None:
        if result.ends_at == "B":
            pair.prover.wait_for_evidence()
        else:
            has_evidence = lambda: min(  # noqa: E731
                checks.memory_evidence(_since(pair, ended_s))
            ) >= 2  # fmt: skip
            checks.wait_for(has_evidence, 40.0, 0.2)
        states = pair.stop_sampling()
        result.problems += states.overlaps()
        gap_ms = max(states.home.longest_gap_s, states.away.longest_gap_s) * 1000
        late = states.home.late + states.away.late
        samples = states.home.samples + states.away.samples
        result.late = f"{late}/{samples}, {gap_ms:.0f}"
        name = pair.spec.name
        if result.ends_at == "B":
            proofs = pair.prover.prove({name: None})[name]
            result.problems += proofs.problems
            result.silence_ms = proofs.counter.facts.get("silence_ms")
        else:
            verdict = prove_at_home(pair, ended_s)
            result.problems += verdict.problems
            result.silence_ms = verdict.facts.get("longest_silence_ms")

    # ------------------------------------------------------------------------ prestaging

    def _prestage_case(self, case: Case, pair: Pair, result: Result) -> None:
        assert self._staging_mib
        victim = pair.sites[case.side]
        base = pair.wire_bytes()
        pair.enrol()
        self._wait_wire(pair, base + int(self._staging_mib * MIB / 2))
        victim.kill()
        victim.reap()
        before_mib = (pair.wire_bytes() - base) / MIB
        time.sleep(case.down_s)
        base = pair.wire_bytes()
        victim.start()
        epoch = pair.wait_protected()
        after_mib = (pair.wire_bytes() - base) / MIB
        resent_mib = before_mib + after_mib - self._staging_mib
        limit_mib = RESENT_SHARE_MAX * before_mib + IN_FLIGHT_MIB
        result.note = (
            f"{before_mib:.1f} + {after_mib:.1f} MiB sent, {self._staging_mib:.1f} undisturbed"
        )
        if resent_mib > limit_mib:
            result.problems.append(f"{resent_mib:.1f} MiB sent again, {limit_mib:.1f} accepted")
        self._kill_staged(case, pair, result, epoch)
        result.hit, result.ends_at = "first staging, then staged", "A"
        self._prove(pair, result, time.monotonic())

    def _kill_staged(self, case: Case, pair: Pair, result: Result, epoch: int) -> None:
        """With everything staged, a restart costs no more than one ordinary round."""
        base = pair.wire_bytes()
        epoch = pair.wait_protected(epoch)
        round_mib = (pair.wire_bytes() - base) / MIB
        victim = pair.sites[case.side]
        victim.kill()
        victim.reap()
        time.sleep(case.down_s)
        base = pair.wire_bytes()
        victim.start()
        pair.wait_protected(epoch)
        again_mib = (pair.wire_bytes() - base) / MIB
        limit_mib = round_mib * 2 + RESENT_SHARE_MAX * (self._staging_mib or 0)
        result.note += f"; staged: a round {round_mib:.1f}, after the kill {again_mib:.1f} MiB"
        if again_mib > limit_mib:
            result.problems.append(f"{again_mib:.1f} MiB after a kill, {limit_mib:.1f} accepted")

    def _wait_wire(self, pair: Pair, bytes_wanted: int) -> None:
        deadline = time.monotonic() + 60
        while pair.wire_bytes() < bytes_wanted:
            pair.check_alive()
            if time.monotonic() > deadline:
                raise RuntimeError("prestaging does not get on")
            time.sleep(0.02)


def _since(pair: Pair, at_s: float) -> list[checks.Chunk]:
    return [chunk for chunk in pair.prover.home(pair.spec.name) if chunk.time_s >= at_s]


def prove_at_home(pair: Pair, ended_s: float) -> Verdict:
    """It runs at A, has never run at B, and its memory is whole."""
    name = pair.spec.name
    chunks = pair.prover.home(name)
    before = [chunk for chunk in chunks if chunk.time_s < ended_s]
    after = _since(pair, ended_s)
    verdict = checks.counter(before, after, None)
    verdict.problems += checks.memory_checksum(before, after, pair.spec.fill_mib > 0).problems
    if (state := run_state_of(pair.guest.paths.prover)) != "running":
        verdict.problems.append(f"the guest at A is {state or 'gone'}, not running")
    if run_state_of(pair.away_paths.prover) == "running":
        verdict.problems.append("a copy runs at B")
    if pair.prover.away(name):
        verdict.problems.append("a copy has printed at B")
    times = [line.time_s for line in checks.lines_of(chunks) if line.text.startswith("HB ")]
    gaps = [(later - earlier) * 1000 for earlier, later in zip(times, times[1:])]
    verdict.facts["longest_silence_ms"] = round(max(gaps, default=0.0), 1)
    return verdict


def show(results: list[Result]) -> None:
    rows = []
    for r in results:
        silence = "-" if r.silence_ms is None else f"{r.silence_ms:.0f}"
        verdict = "FAILED" if r.problems else "ok"
        rows.append([r.case.name, verdict, r.hit, r.ends_at, silence, r.late, f"{r.took_s:.0f}"])
    titles = ["killed", "", "state at death", "ends at", "silence ms", "late samples, max ms", "s"]
    print("\n".join(table(titles, rows)))
    for r in results:
        for text in ([r.note] if r.note else []) + [f"FAILED {p}" for p in r.problems]:
            print(f"  {r.case.name}: {text}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bin", type=Path, default=TOP / "build/release/bin")
    parser.add_argument("--only", help="cases, such as home:sealed,away:committed:14")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--guest", choices=("idle", "writer"), default="writer")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="each case N times")
    options = parser.parse_args()
    try:
        names = options.only.split(",") if options.only else QUICK if options.quick else FULL
        options.cases = [Case.parse(name) for name in names] * options.repeat
    except ValueError as error:
        parser.error(str(error))
    return options


def interrupt(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(signal.Signals(number).name)


def main() -> int:
    options = parse_options()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for kind in signals:
        signal.signal(kind, interrupt)
    lab = CrashLab(str(os.getpid()), options.bin, Link(100, 20, 0.1, 1))
    runner = Runner(lab, options.guest)
    results: list[Result] = []
    try:
        lab.start()
        for case in options.cases:
            result = runner.run(case)
            results.append(result)
            told = "; ".join(result.problems) or "ok"
            print(f"{case.name}: hit {result.hit}, ends at {result.ends_at}: {told}", flush=True)
    except Interrupted as reason:
        print(f"interrupted ({reason}): cleaning up")
    finally:
        for kind in signals:
            signal.signal(kind, signal.SIG_IGN)
        lab.close()
    print()
    show(results)
    failed = [result for result in results if result.problems]
    if failed:
        print(f"logs: {runner.logs}")
    else:
        shutil.rmtree(runner.logs, ignore_errors=True)
    return 1 if failed or len(results) < len(options.cases) else 0


if __name__ == "__main__":
    sys.exit(main())
