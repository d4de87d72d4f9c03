#!/usr/bin/python3
"""Bytes of the first full staging of the six guests against a bound that shares no code with the
gateway: every distinct page that is not zero, once, through zstd.

    tests/bench/reduce/six_guest_bound.py [--vms 6] [--json FILE]

The guests are real, and so is the staging, over the emulated 100 Mbit/s line. When each has its
first recovery point, the bound is computed from the staged files at site B, which hold what was
staged, and the bytes are those that site A's gateway put into its messages until then. Pages that a
guest rewrote while it was staged count for us, not for the bound.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

sys.path.insert(0, str(Path(__file__).resolve().parent))

from reduce_lab import MIB, TOP, ReduceLab, write_figures  # noqa: E402  (knows where the others are)

import guests  # noqa: E402
from network import Link  # noqa: E402

PAGE = 4096
LEVELS = (1, 3, 6, 9)  # those that the gateway chooses from; the bound that counts is the smallest
TARGET = 1.05


def distinct_pages(files: list[Path]) -> Iterator[bytes]:
    """Pages that are not zero, each content once, in the order of the files."""
    zero = bytes(PAGE)
    seen: set[bytes] = set()
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                for at in range(0, len(block), PAGE):
                    page = block[at : at + PAGE]
                    if page == zero or page in seen:
                        continue
                    seen.add(page)
                    yield page


def zstd_bytes(pages: Path, level: int, batch: int = 65536) -> int:
    """zstd's own program on independent blocks of 64 KiB, the unit that can be sent and applied alone."""
    done = subprocess.run(
        ["zstd", f"-b{level}", f"-e{level}", "-i0", f"-B{batch}", "-q", str(pages)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True,
    )  # fmt: skip
    return parse_benchmark(done.stdout)


def parse_benchmark(text: str) -> int:
    """The compressed size in a report of `zstd -b`: "-1   4438823 (2.253) 112.91 MB/s ..."."""
    for line in text.replace("\r", "\n").splitlines():
        words = line.split()
        for position, word in enumerate(words):
            if word.startswith("(") and position > 0 and words[position - 1].isdigit():
                return int(words[position - 1])
    raise RuntimeError(f"zstd reported no size: {text!r}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vms", type=int, default=6, choices=range(1, 7), metavar="1..6")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--bin", type=Path, default=TOP / "build/release/bin")
    options = parser.parse_args()
    specs = guests.six_guests()[: options.vms]
    with ReduceLab("bound", Link(100, 20, 0.1, 1), default_budget=False, binaries=options.bin) as lab:
        lab.start_guests(specs)
        time.sleep(1)
        for guest in lab.guests:
            lab.enrol(guest)
        wire: dict[str, float] = {}
        deadline = time.monotonic() + 900
        while len(wire) < len(specs):  # the counter at each guest's first recovery point
            for vm in lab.vms():
                if vm["sealed_epoch"] > 0 and vm["name"] not in wire:
                    wire[vm["name"]] = vm["wire_mib"]
            if time.monotonic() > deadline:
                raise RuntimeError(f"only {sorted(wire)} have a recovery point after 900 s")
            time.sleep(0.1)
        roots = [lab.ram_dir / "site-b", lab.layout_b.folder / "state"]
        files = sorted(path for root in roots for kind in ("ram", "blk", "img") for path in root.rglob(f"*.{kind}"))
        if len([path for path in files if path.suffix == ".ram"]) != len(specs):
            raise RuntimeError(f"the staged files at site B are not where they are looked for: {files}")
        pages = lab.work / "distinct.pages"
        with open(pages, "wb") as out:
            for page in distinct_pages(files):
                out.write(page)
        reduction = lab.a.evacctl("status")["reduction"]
        print("settings:", ", ".join(f"{name} {mib:.0f} MiB"
              for name, mib in reduction["content_mib_by_setting"].items() if mib >= 1))  # fmt: skip
        for kind in ("memory", "disk"):
            rungs = ", ".join(f"{name} {r['pages']} pages {r['raw_mib']:.1f} -> {r['wire_mib']:.1f} MiB"
                              for name, r in reduction[kind].items() if r["pages"])  # fmt: skip
            print(f"{kind}: {rungs}")
        bounds = {level: zstd_bytes(pages, level) / MIB for level in LEVELS}
        distinct_mib = pages.stat().st_size / MIB
    total = sum(wire.values())
    bound = min(bounds.values())
    print(f"{len(files)} staged files, {distinct_mib:.1f} MiB of distinct pages; zstd " +
          ", ".join(f"{level}: {size:.1f} MiB" for level, size in bounds.items()))  # fmt: skip
    print("sent: " + ", ".join(f"{name} {size:.1f}" for name, size in wire.items()) + f": {total:.1f} MiB")
    ratio = total / bound
    write_figures(options.json, {
        "six_guest_first_staging" if len(specs) == 6 else f"{len(specs)}_guest_first_staging": {
            "value": round(ratio, 4), "unit": "of the bound", "target": f"<= {TARGET}",
            "met": ratio <= TARGET, "baseline": f"bound {bound:.1f} MiB, sent {total:.1f} MiB"},
    })  # fmt: skip
    return 0 if ratio <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
