#!/usr/bin/env python3
"""The secret of the pair is changed while a guest is staged: what is staged stays and is not sent again, recovery points
go on, and the guest moves whole afterwards. Real daemons, one real guest."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from crash_lab import TOP, CrashLab, CrashSite, Pair  # noqa: E402
from emergencies import ends_at_away, expect, staged_at  # noqa: E402
from kill_each_state import Interrupted, interrupt  # noqa: E402

from guests import GuestSpec  # noqa: E402
from network import Link  # noqa: E402
from qmp import QmpError  # noqa: E402

MIB = 1 << 20
QUIET_ROUNDS = 3  # of an idle guest, to know what it writes by itself
RESENT_MAX = 0.01  # of what was staged, and what the guest wrote
HANDSHAKE_BYTES = 64 * 1024  # a session's beginning, an enrolment


def hang_up(site: CrashSite) -> None:
    assert site._daemon
    os.kill(site._daemon.pid, signal.SIGHUP)


def wait_connected(pair: Pair, wanted: bool) -> None:
    deadline = time.monotonic() + 60
    while pair.a.evacctl("status")["peer_connected"] != wanted:
        expect(time.monotonic() < deadline, f"not {'' if wanted else 'dis'}connected within 60 s")
        time.sleep(0.1)


def change_the_secret(pair: Pair) -> str:
    began = pair.wire_bytes()
    pair.enrol()
    epoch = pair.wait_protected()
    staged = pair.wire_bytes() - began
    quiet = 0  # the largest round
    for _ in range(QUIET_ROUNDS):
        base = pair.wire_bytes()
        epoch = pair.wait_protected(epoch)
        quiet = max(quiet, pair.wire_bytes() - base)
    (pair.root / "keys" / "pair.secret").write_text(secrets.token_hex(32) + "\n")
    hang_up(pair.a)
    wait_connected(pair, False)
    point = staged_at(pair)["sealed_epoch"]
    expect(int(str(point)) >= epoch, f"away's recovery point went: {point} after {epoch}")
    base = pair.wire_bytes()
    hang_up(pair.b)
    wait_connected(pair, True)
    epoch = pair.wait_protected(max(epoch, int(str(point))))
    sent = pair.wire_bytes() - base
    accepted = RESENT_MAX * staged + 3 * quiet + HANDSHAKE_BYTES
    expect(sent <= accepted, f"{sent / MIB:.2f} MiB sent, {accepted / MIB:.2f} accepted")
    expect(staged > 16 * accepted, f"only {staged / MIB:.2f} MiB were staged: proves nothing")
    generation = pair.a.evacctl("status")["reduction"]["index"]["key_generation"]
    expect(generation == 1, f"the index is of generation {generation}")
    pair.wait_protected(epoch)
    pair.evacuate()
    ends_at_away(pair)
    return f"{staged / MIB:.1f} MiB staged, {sent / MIB:.2f} MiB sent after the change; moved and proven"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=Path, default=TOP / "build/release/bin")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("rekey.py: root is needed for network namespaces", file=sys.stderr)
        return 2
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for kind in signals:
        signal.signal(kind, interrupt)
    lab = CrashLab(f"k{os.getpid()}", arguments.bin, Link(100, 20, 0.1, 1))
    failed = 0
    try:
        lab.start()
        failed = run(lab)
    except Interrupted:
        failed = 1
    finally:
        for kind in signals:
            signal.signal(kind, signal.SIG_IGN)
        lab.close()
    return failed


def run(lab: CrashLab) -> int:
    pair = Pair(lab, "rekey", GuestSpec("rekey-1", "idle", 256, 8, 136, 907))
    try:
        pair.start()
        print(f"rekey: ok ({change_the_secret(pair)})", flush=True)
        return 0
    except (RuntimeError, OSError, ValueError, KeyError, StopIteration, json.JSONDecodeError,
            subprocess.SubprocessError, QmpError) as error:  # fmt: skip
        logs = Path(f"/tmp/evacgw-rekey-{os.getpid()}")
        pair.save_logs(logs)
        print(f"rekey: FAILED {type(error).__name__}: {error}; logs in {logs}", flush=True)
        return 1
    finally:
        pair.close()


if __name__ == "__main__":
    sys.exit(main())
