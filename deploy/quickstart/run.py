#!/usr/bin/env python3
"""The main job: six VMs at site A are prestaged to site B through a WAN, an alert arrives, the site
is evacuated, and a program that shares no code with the gateway proves that nothing was lost."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parent))

from display import Display  # noqa: E402
from job import CLEANUP_FILE, TOP, Quickstart  # noqa: E402
from network import destroy_netns, parse_rate  # noqa: E402
from qmp import QmpError  # noqa: E402


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP."""


def parse_options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="quickstart.sh", description=__doc__)
    parser.add_argument(
        "--vms", type=int, default=6, metavar="N", help="guests, 1 to 6 (default 6)"
    )
    parser.add_argument("--rate", default="100mbit", help="of the link, each way (default 100mbit)")
    parser.add_argument("--rtt-ms", type=float, default=20.0, help="round-trip time (default 20)")
    parser.add_argument(
        "--loss", type=float, default=0.1, metavar="PERCENT", help="each way (default 0.1)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of guests and WAN (default 1)")
    parser.add_argument("--verify", action="store_true",
                        help="hold each landing until its memory was compared")  # fmt: skip
    parser.add_argument(
        "--compare", action="store_true", help="run stock QEMU on the same guests and link first"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE.json", help="write the outcome as JSON"
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end")
    parser.add_argument(
        "--cleanup", type=Path, metavar="FOLDER", help="clean up after --keep, and stop"
    )
    parser.add_argument(
        "--bin", type=Path, default=TOP / "build/release/bin", help=argparse.SUPPRESS
    )
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        options.rate_mbit = parse_rate(options.rate)
    except ValueError as error:
        parser.error(str(error))
    if not 1 <= options.vms <= 6:
        parser.error(f"--vms {options.vms}: 1 to 6 are accepted")
    if not 0 <= options.rtt_ms <= 2000:
        parser.error(f"--rtt-ms {options.rtt_ms:g}: 0 to 2000 are accepted")
    if not 0 <= options.loss <= 30:
        parser.error(f"--loss {options.loss:g}: 0 to 30 percent are accepted")
    if not 0 <= options.seed <= 1_000_000:
        parser.error(f"--seed {options.seed}: 0 to 1000000 are accepted")
    if options.report and not options.report.resolve().parent.is_dir():
        parser.error(f"--report {options.report}: the folder does not exist")
    return options


def clean_up_kept(folder: Path) -> int:
    try:
        made = json.loads((folder / CLEANUP_FILE).read_text())
    except (OSError, ValueError) as error:
        print(f"quickstart: {folder} was not kept by a quickstart: {error}", file=sys.stderr)
        return 2
    destroy_netns(made["netns"])
    for path in made["folders"]:
        shutil.rmtree(path, ignore_errors=True)
    return 0


def interrupt(number_: int, _frame: FrameType | None) -> None:
    raise Interrupted(signal.Signals(number_).name)


def main() -> int:
    options = parse_options(sys.argv[1:])
    if options.check:
        return 0
    if options.cleanup:
        return clean_up_kept(options.cleanup)
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for kind in signals:
        signal.signal(kind, interrupt)
    display = Display()
    quickstart = Quickstart(options, display)
    code, kept = 1, False
    try:
        outcome = quickstart.run()
        display.heading("result")
        for line in outcome.lines():
            display.say(line)
        if options.report:
            options.report.write_text(json.dumps(outcome.report(), indent=2) + "\n")
        code = 0 if outcome.passed else 1
        display.say("all proofs hold" if outcome.passed else "A PROOF FAILED")
        kept = options.keep
    except Interrupted as reason:
        display.say(f"\ninterrupted ({reason}): cleaning up")
        code = 130
    except (
        RuntimeError,
        OSError,
        ValueError,
        KeyError,
        subprocess.SubprocessError,
        QmpError,
    ) as error:
        display.say(f"\nquickstart failed: {type(error).__name__}: {error}")
        kept = options.keep
    finally:
        for kind in signals:
            signal.signal(kind, signal.SIG_IGN)  # cleaning up is not interrupted
        try:
            if code == 1:
                quickstart.save_logs()
        finally:
            if kept:
                quickstart.keep()
            else:
                quickstart.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
