"""Who measures what: programs and scripts, and the figures that each of them owes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from merge import Expected

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[2]
PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Producer:
    """`program`: of the build, or a script of the tree. `quick`: arguments added by --quick."""

    name: str
    program: str | Path
    expected: list[Expected]
    arguments: list[str] = field(default_factory=list)
    quick: list[str] = field(default_factory=list)
    takes_bin: bool = False
    corpus: bool = False
    timeout_s: float = 900
    quick_leaves_out: tuple[str, ...] = ()

    def command(self, binaries: Path, json_file: Path, quick: bool) -> list[str]:
        script = isinstance(self.program, Path)
        command = [PYTHON, str(self.program)] if script else [str(binaries / str(self.program))]
        command += self.arguments + (self.quick if quick else [])
        if self.takes_bin:
            command += ["--bin", str(binaries)]
        return [*command, "--json", str(json_file)]

    def missing(self, binaries: Path) -> str:
        """Why it cannot be run, or nothing."""
        if isinstance(self.program, Path):
            return "" if self.program.exists() else f"no {self.program.relative_to(TOP)}"
        return "" if (binaries / self.program).exists() else f"{self.program} is not built"


RATES = ("10mbit", "100mbit", "1gbit", "2500mbit", "unlimited")


def producers() -> list[Producer]:
    return [
        Producer(
            "reduce_corpus", "reduce_corpus",
            [Expected("mariadb_rw_times_fewer", "times", "5"),
             Expected("postgresql_times_fewer", "times", "8"),
             Expected("innodb_page_wire_bytes_median", "B", "300"),
             Expected("corpus_pages_differing", "pages", "0")],
            corpus=True, timeout_s=1800, quick_leaves_out=("postgresql_times_fewer",)),
        Producer(
            "six_guest_bound", HERE / "six_guest_bound.py",
            [Expected("six_guest_first_staging", "of the bound", "<= 1.05")],
            quick=["--vms", "2"], takes_bin=True, quick_leaves_out=("six_guest_first_staging",)),
        Producer(
            "bench_partial_dedup", "bench_partial_dedup",
            [Expected(f"partial_dedup_{rate}_over_{what}", "ratio", target)
             for rate in RATES for what, target in (("best_fixed", "1.05"), ("no_reduction", "1"))],
            quick=["--repeat", "3"]),
        Producer(
            "bench_pipeline", "bench_pipeline",
            [Expected("parser_unchanged_gb_s", "GB/s", "3")]),
        Producer(
            "bench_mapped", "bench_mapped",
            [Expected("mapped_unchanged_gb_s", "GB/s", "5")]),
        Producer(
            "bench_mixed", "bench_mixed",
            [Expected("mixed_reduction_mb_s", "MB/s", "400")]),
        Producer(
            "bench_dirty_queue", "bench_dirty_queue",
            [Expected("dirty_queue_flatness", "ratio", "1.5")]),
        Producer(
            "guest_cost", HERE / "guest_cost.py",
            [Expected("guest_work_rate", "of the rate without", ">= 0.97")],
            quick=["--windows", "1"], takes_bin=True),
        Producer(
            "guest_cost_mapped", HERE / "guest_cost.py",
            [Expected("guest_work_rate_mapped", "of the rate without", ">= 0.97")],
            arguments=["--shared"], quick=["--windows", "1"], takes_bin=True),
        Producer(
            "kill_rounds", TOP / "tests/crash/kill_rounds.py",
            [Expected("kills", "kills", "50"),
             Expected("resent_share_max", "%", "< 1"),
             Expected("pages_differing", "pages", "0")],
            quick=["--quick"], takes_bin=True, timeout_s=5400),
    ]  # fmt: skip
