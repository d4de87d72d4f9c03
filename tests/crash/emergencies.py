#!/usr/bin/env python3
"""What an operator meets on the day: the alert comes while the line is down; home is gone without an
evacuation; a guest was paused on purpose. Real daemons and one real guest per scenario."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from crash_lab import TOP, CrashLab, Pair  # noqa: E402

import checks  # noqa: E402
from guests import GuestSpec  # noqa: E402
from kill_each_state import Interrupted, interrupt  # noqa: E402
from network import Link  # noqa: E402
from qmp import Qmp, QmpError, run_state_of  # noqa: E402

USAGE, PARTIAL = 2, 4


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise RuntimeError(what)


def staged_at(pair: Pair) -> dict[str, object]:
    staged = pair.b.evacctl("status")["staged"]
    return next(vm for vm in staged if vm["name"] == pair.spec.name)


def last_heartbeat(chunks: list[checks.Chunk]) -> int:
    beats = [int(line.text.split()[1]) for line in checks.lines_of(chunks) if line.text.startswith("HB ")]
    return beats[-1] if beats else 0


def ends_at_away(pair: Pair) -> None:
    expect(pair.wait_end() == "B", "it did not move when the line returned")
    pair.prover.wait_for_evidence()
    expect(not (overlaps := pair.stop_sampling().overlaps()), f"{overlaps}")
    proofs = pair.prover.prove({pair.spec.name: None})[pair.spec.name]
    expect(not proofs.problems, f"{proofs.problems}")


def runs_at_home(pair: Pair) -> bool:
    """By its heartbeats: the prover's socket is the sampler's."""
    before = last_heartbeat(pair.prover.home(pair.spec.name))
    time.sleep(1)
    return last_heartbeat(pair.prover.home(pair.spec.name)) > before + 3


def alert_while_the_line_is_down(pair: Pair) -> str:
    """The line goes a moment before the alert: the guest runs on at home until the line is back."""
    pair.enrol()
    pair.wait_protected()
    pair.cut_line()
    try:
        pair.a.text("evacuate", "--no-wait", "--reason", "the earth shakes", accept=(0, PARTIAL))
        time.sleep(5)
        expect(runs_at_home(pair), "the guest was stopped without a line to send it over")
    finally:
        pair.mend_line()
    mended_s = time.monotonic()
    ends_at_away(pair)
    return f"proven {time.monotonic() - mended_s:.0f} s after the line's return"


def order_without_a_session(pair: Pair) -> str:
    """No session at all: the order stands, also over a restart, and is carried out in the end."""
    pair.enrol()
    pair.wait_protected()
    pair.cut_line()
    try:
        restart(pair)
        told = pair.a.evacctl_result("evacuate", "--no-wait", "--reason", "the earth shakes")
        expect(told.returncode == PARTIAL and "waits: the peer" in told.stderr, f"{told}")
        restart(pair)
        checks.wait_for(lambda: has_reason(pair), 5)
        standing = pair.a.evacctl("evacuation")
        expect(standing["stage"] == "standing", f"after a restart: {standing}")
        expect("not connected" in standing["waits_for"], f"it waits for: {standing['waits_for']}")
        expect(standing["left"][0]["name"] == pair.spec.name, f"left: {standing['left']}")
        expect(runs_at_home(pair), "the guest does not run meanwhile")
    finally:
        pair.mend_line()
    ends_at_away(pair)
    return told.stderr.strip()


def alert_before_the_first_copy(pair: Pair) -> str:
    """A VM that has no recovery point yet follows as soon as it has one."""
    pair.enrol()
    pair.a.text("evacuate", "--no-wait", "--reason", "the earth shakes", accept=(0, PARTIAL))
    standing = pair.a.evacctl("evacuation")
    expect(standing["stage"] == "standing", f"it had a copy already: {standing}")
    ends_at_away(pair)
    return str(standing["left"][0]["why"])


def order_called_off_before_it_began(pair: Pair) -> str:
    """Cancelled while it waits: nothing moves when the line returns."""
    pair.enrol()
    epoch = pair.wait_protected()
    name = pair.spec.name
    dropped = pair.b.evacctl_result("vm", "force", "drop", name, "--confirm", name)
    expect(dropped.returncode == 1 and "prestages it" in dropped.stderr, f"{dropped}")
    pair.cut_line()
    try:
        restart(pair)
        pair.a.text("evacuate", "--no-wait", accept=(PARTIAL,))
        told = pair.a.text("abort")
    finally:
        pair.mend_line()
    pair.wait_protected(epoch)
    expect(pair.states() == ("protected", "protected"), f"states: {pair.states()}")
    expect(pair.a.evacctl("status")["order"] is None, "the order still stands")
    return told.strip()


def has_reason(pair: Pair) -> bool:
    told = pair.a.evacctl("evacuation")
    return isinstance(told, dict) and bool(told.get("waits_for"))


def restart(pair: Pair) -> None:
    pair.a.kill()
    pair.a.reap()
    pair.a.start()
    answers = lambda: pair.a.evacctl_result("status").returncode == 0  # noqa: E731
    expect(checks.wait_for(answers, 30, 0.1), "site A's daemon does not answer after a restart")


def home_is_gone(pair: Pair) -> str:
    """Daemon and guest of site A die without an evacuation. Away runs the last recovery point when
    an operator says so twice, and not before."""
    pair.enrol()
    pair.wait_protected()
    name = pair.spec.name
    pair.a.kill()
    pair.a.reap()
    pair.guest.stop()
    lost_at = last_heartbeat(pair.prover.home(name))
    explained = pair.b.evacctl_result("vm", "force", "run", name)
    expect(explained.returncode == USAGE, f"without --confirm: exit {explained.returncode}")
    expect("s old" in explained.stderr and "gone for good" in explained.stderr, explained.stderr)
    expect(staged_at(pair)["state"] == "protected", "it began without a confirmation")
    wrong = pair.b.evacctl_result("vm", "force", "give-back", name, "--confirm", name)
    expect(wrong.returncode == 1, f"an act that the state forbids: exit {wrong.returncode}")
    pair.b.text("vm", "force", "run", name, "--confirm", name)
    runs = lambda: staged_at(pair)["state"] == "running_away"  # noqa: E731
    expect(checks.wait_for(runs, 30, 0.2), f"it does not run at B: {staged_at(pair)}")
    dropped = pair.b.evacctl_result("vm", "force", "drop", name, "--confirm", name)
    expect(dropped.returncode == 1, f"a running VM's copy was dropped: {dropped}")
    pair.prover.wait_for_evidence()
    home, away = pair.prover.home(name), pair.prover.away(name)
    memory = checks.memory_checksum(home, away, pair.spec.fill_mib > 0)
    expect(memory.ok, f"{memory.problems}")
    beats = [line.text for line in checks.lines_of(away) if line.text.startswith("HB ")]
    first = int(beats[0].split()[1])
    expect(0 < first <= lost_at, f"it goes on at heartbeat {first}; {lost_at} was the last at home")
    pair.b.text("vm", "force", "release", name, "--confirm", name)
    expect(bool(staged_at(pair)["own"]), "it is not site B's own after `release`")
    return f"went on {(lost_at - first) / 10:.1f} s before the loss"


def forced_by_mistake(pair: Pair) -> str:
    """The line is down, home is well, and somebody at away forces a run. When the line is back both
    sites say so, nothing is prestaged or evacuated over the running copy, and `yield` ends it."""
    pair.enrol()
    pair.wait_protected()
    name = pair.spec.name
    pair.cut_line()
    try:
        pair.b.text("vm", "force", "run", name, "--confirm", name)
        runs = lambda: staged_at(pair)["state"] == "running_away"  # noqa: E731
        expect(checks.wait_for(runs, 30, 0.2), f"it does not run at B: {staged_at(pair)}")
        again = pair.b.evacctl_result("vm", "force", "run", name, "--confirm", name)
        expect(again.returncode == 1 and "nothing to force" in again.stderr, f"{again}")
    finally:
        pair.mend_line()
    said = lambda: "it runs at site-b" in str(pair.vm_status()["detail"])  # noqa: E731
    expect(checks.wait_for(said, 60, 0.5), f"home does not say it: {pair.vm_status()}")
    expect(pair.a.evacctl("status")["protected"] == 0, "home calls it protected")
    told = pair.a.evacctl_result("evacuate", "--no-wait")
    expect(told.returncode == PARTIAL and "no VM is protected" in told.stderr, f"{told}")
    pair.a.text("abort")
    expect(pair.states() == ("protected", "running_away"), f"states: {pair.states()}")
    pair.a.text("vm", "force", "yield", name, "--confirm", name)
    ended = lambda: pair.states() == ("released", "released")  # noqa: E731
    expect(checks.wait_for(ended, 30, 0.2), f"after yield: {pair.states()}")
    gone = lambda: not pair.guest.alive()  # noqa: E731
    expect(checks.wait_for(gone, 10), "the copy at home was not destroyed")
    expect(bool(staged_at(pair)["own"]), "it is not site B's own")
    return str(pair.vm_status()["detail"])


def a_pause_on_purpose_stays(pair: Pair) -> str:
    """A guest that an operator paused stays paused when the daemon is killed and comes back."""
    pair.stop_sampling()
    pair.enrol()
    pair.wait_protected()
    with Qmp(pair.guest.paths.prover) as qmp:
        expect(checks.wait_for(lambda: paused_now(qmp), 10, 0.3), "it cannot be paused")
    restart(pair)
    said = lambda: "paused" in str(pair.vm_status()["detail"])  # noqa: E731
    expect(checks.wait_for(said, 60, 0.5), f"status does not say it: {pair.vm_status()}")
    expect(run_state_of(pair.guest.paths.prover) == "paused", "the daemon resumed it")
    told = str(pair.vm_status()["detail"])
    with Qmp(pair.guest.paths.prover) as qmp:
        qmp.command("cont")
    pair.wait_protected(int(str(pair.vm_status()["sealed_epoch"])))
    return told


def paused_now(qmp: Qmp) -> bool:
    """A round that has just begun resumes the guest, so this may take more than one try."""
    qmp.command("stop")
    time.sleep(2)
    return qmp.run_state() == "paused"


SCENARIOS: dict[str, Callable[[Pair], str]] = {
    "line-down": alert_while_the_line_is_down,
    "no-session": order_without_a_session,
    "no-copy": alert_before_the_first_copy,
    "called-off": order_called_off_before_it_began,
    "home-gone": home_is_gone,
    "forced": forced_by_mistake,
    "paused": a_pause_on_purpose_stays,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=Path, default=TOP / "build/release/bin")
    parser.add_argument("--only", choices=SCENARIOS, help="one scenario")
    options = parser.parse_args()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for kind in signals:
        signal.signal(kind, interrupt)
    chosen = [options.only] if options.only else list(SCENARIOS)
    lab = CrashLab(f"e{os.getpid()}", options.bin, Link(100, 20, 0.1, 1))
    failed = 0
    try:
        lab.start()
        for index, name in enumerate(chosen):
            failed += run_one(lab, name, index)
    except Interrupted as reason:
        print(f"interrupted ({reason}): cleaning up")
        failed += 1
    finally:
        for kind in signals:
            signal.signal(kind, signal.SIG_IGN)
        lab.close()
    return 1 if failed else 0


def run_one(lab: CrashLab, name: str, index: int) -> int:
    began_s = time.monotonic()
    spec = GuestSpec(f"day-{index}", "writer", 256, 16, 64, 906, rate_mib=1)
    pair = Pair(lab, f"{name}-{index}", spec)
    told = "ok"
    try:
        pair.start()
        text = SCENARIOS[name](pair)
        print(f"{name}: ok ({text}) in {time.monotonic() - began_s:.0f} s", flush=True)
    except (RuntimeError, OSError, ValueError, KeyError, StopIteration, json.JSONDecodeError,
            subprocess.SubprocessError, QmpError) as error:  # fmt: skip
        told = f"{type(error).__name__}: {error}"
        logs = Path(f"/tmp/evacgw-emergency-{os.getpid()}")
        pair.save_logs(logs / name)
        print(f"{name}: FAILED {told}; logs in {logs / name}", flush=True)
    finally:
        pair.close()
    return 0 if told == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
