"""The figures of prestaging and dedup in one run: builds the corpus, runs every program that
measures one, and prints all in one table.

Exit codes: 0 every figure that was to be measured is met; 1 one is missed, a program broke or is
missing; 2 usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from merge import Merged, read_figures
from producers import TOP, Producer, producers

import corpus
from image import CorpusError


def say(text: str) -> None:
    print(text, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/bench/reduce.sh", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    parser.add_argument("--quick", action="store_true",
                        help="idle and MariaDB only, fewer and shorter runs")  # fmt: skip
    parser.add_argument("--only", metavar="TEXT", help="programs whose name contains it")
    parser.add_argument("--list", action="store_true", help="name the programs and end")
    parser.add_argument("--fresh", action="store_true", help="capture the corpus anew")
    default = os.environ.get("EVAC_BIN", str(TOP / "build/release/bin"))
    parser.add_argument("--bin", type=Path, default=Path(default), help=f"programs ({default})")
    arguments = parser.parse_args()
    arguments.producers = [p for p in producers() if not arguments.only or arguments.only in p.name]
    if not arguments.producers:
        parser.error(f"--only {arguments.only}: no program has such a name; see --list")
    return arguments


def run_one(command: list[str], timeout_s: float) -> str:
    """Runs a program in a session of its own; why it broke, or nothing. Status 1 with figures only
    says that one of them is missed."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        status = process.wait(timeout_s)
    except BaseException as error:
        # SIGTERM lets the scripts take down their networks and guests.
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            return f"not done after {timeout_s:.0f} s"
        raise
    return "" if status in (0, 1) else f"ended with status {status}"


def run_producer(producer: Producer, options: argparse.Namespace, work: Path, merged: Merged) -> None:
    trouble = producer.missing(options.bin)
    file = work / f"{producer.name}.json"
    command = producer.command(options.bin, file, options.quick)
    if not trouble and producer.corpus:
        try:
            folder, names = corpus.build(options.quick, options.fresh)
            command += ["--corpus", str(folder)]
            for name in names:
                command += ["--workload", name]
        except CorpusError as error:
            trouble = f"no corpus: {error}"
    found: dict[str, dict[str, object]] = {}
    if not trouble:
        trouble = run_one(command, producer.timeout_s)
        found, unreadable = read_figures(file)
        trouble = trouble or unreadable
    left_out = [e for e in producer.expected
                if options.quick and e.name in producer.quick_leaves_out and e.name not in found]  # fmt: skip
    for expected in left_out:
        merged.fail(expected, "left out by --quick", left_out=True)
    merged.take(producer.name, [e for e in producer.expected if e not in left_out], found, trouble)


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    if options.list:
        for producer in options.producers:
            say(f"{producer.name}: {', '.join(e.name for e in producer.expected)}")
        return 0
    merged = Merged()
    with tempfile.TemporaryDirectory(prefix="evacgw-reduce-") as work:
        for producer in options.producers:
            began = time.monotonic()
            say(f"== {producer.name}")
            run_producer(producer, options, Path(work), merged)
            say(f"   {time.monotonic() - began:.0f} s\n")
    say(merged.table())
    missed = merged.missed()
    say(f"\nmissed: {', '.join(missed)}" if missed else "\nall met")
    if options.json:
        options.json.write_text(json.dumps(merged.to_json(), indent=2) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        sys.exit(130)
