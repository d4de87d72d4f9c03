#!/usr/bin/python3
"""Runs the main job several times and sums it up: times, bytes, prediction error, differing pages, guest pause.

    tests/bench/evacuation.py [--runs N] [--json FILE] [-- OPTIONS OF THE QUICKSTART]
    tests/bench/evacuation.py --runs 20 -- --verify
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parent.parent.parent
RUN_LIMIT_S = 900
STOCK_S = 105.0  # stock QEMU's best on such six guests (sequential, multifd zstd), for the ratio


def one_run(options: list[str]) -> dict[str, Any] | None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            "/usr/bin/python3", str(TOP / "deploy/quickstart/run.py"),
            "--bin", str(TOP / "build/release/bin"), "--report", str(report), *options,
        ]  # fmt: skip
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=RUN_LIMIT_S, check=False
        )
        if not report.exists():
            print(done.stdout[-1500:], file=sys.stderr)
            return None
        result: dict[str, Any] = json.loads(report.read_text())
        result["exit"] = done.returncode
        return result


def spread(values: list[float]) -> str:
    return f"{min(values):.2f} / {statistics.median(values):.2f} / {max(values):.2f}" if values else "-"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("options", nargs="*", help="for the quickstart, after --")
    arguments = parser.parse_args()
    results = []
    for number in range(arguments.runs):
        result = one_run([*arguments.options, "--seed", str(number + 1)])
        if result is None:
            print(f"run {number + 1}: failed")
            continue
        results.append(result)
        differing = [vm["proofs"]["differing_pages"] for vm in result["vms"]]
        print(
            f"run {number + 1}: {result['alert_to_last_running_s']:.2f} s, "
            f"{result['wire_mib_after_alert']:.2f} MiB after the alert, differing pages {differing}, "
            f"{'proved' if result['exit'] == 0 else 'NOT PROVED'}",
            flush=True,
        )
    failed = arguments.runs - sum(result["exit"] == 0 for result in results)
    total = [result["alert_to_last_running_s"] for result in results]
    predicted = [max(vm["predicted_away_s"] for vm in result["vms"]) for result in results]
    known = [vm["proofs"]["differing_pages"] for result in results for vm in result["vms"]]
    compared = [pages for pages in known if pages is not None]
    print(f"\nruns {arguments.runs}, failed {failed}; min / median / max of each:")
    print(f"alert to last guest running, s   {spread(total)}   (stock QEMU {STOCK_S:.0f} s)")
    print(f"wire after the alert, MiB        {spread([r['wire_mib_after_alert'] for r in results])}")
    print(f"downtime of one guest, ms        {spread([vm['downtime_ms'] for r in results for vm in r['vms']])}")
    print(f"prediction error, s              {spread([a - p for a, p in zip(total, predicted)])}")
    print(f"pages compared with the source: {len(compared)} guests, {sum(compared)} pages differ")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
