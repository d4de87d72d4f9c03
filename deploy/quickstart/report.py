"""The outcome of a run: its table on the screen and its JSON report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from display import number, table
from network import Link


@dataclass
class VmOutcome:
    """Figures of one VM; None where the gateway did not give one."""

    name: str
    staged_mib: float | None
    backlog_mib: float | None
    wire_mib: float | None
    downtime_ms: float | None
    predicted_away_s: float | None
    away_s: float | None
    proofs: dict[str, Any]
    passed: bool

    def report(self) -> dict[str, Any]:
        return {
            "name": self.name, "staged_mib": self.staged_mib, "backlog_mib": self.backlog_mib,
            "wire_mib": self.wire_mib, "downtime_ms": self.downtime_ms,
            "predicted_away_s": self.predicted_away_s, "away_s": self.away_s, "proofs": self.proofs,
        }  # fmt: skip


@dataclass
class Outcome:
    vms: list[VmOutcome]
    alert_to_last_running_s: float
    wire_mib_after_alert: float
    link: Link
    peer: dict[str, Any] | None
    stored: dict[str, Any] | None = None  # `evacctl report`

    @property
    def passed(self) -> bool:
        return all(vm.passed for vm in self.vms)

    def report(self) -> dict[str, Any]:
        return {
            "vms": [vm.report() for vm in self.vms],
            "alert_to_last_running_s": round(self.alert_to_last_running_s, 3),
            "wire_mib_after_alert": round(self.wire_mib_after_alert, 3),
            "link": {
                "rate_mbit": self.link.rate_mbit,
                "rtt_ms": self.link.rtt_ms,
                "loss_pct": self.link.loss_pct,
            },
            "peer": self.peer,
        }

    def lines(self) -> list[str]:
        rows = [
            [
                vm.name, number(vm.staged_mib), number(vm.backlog_mib, 2), number(vm.wire_mib, 2),
                number(vm.downtime_ms, 0), number(vm.predicted_away_s, 2), number(vm.away_s, 2),
                show_proofs(vm.proofs),
            ]
            for vm in self.vms
        ]  # fmt: skip
        titles = [
            "VM",
            "staged MiB",
            "backlog MiB",
            "wire MiB",
            "downtime ms",
            "predicted s",
            "away s",
            "proofs",
        ]
        lines = table(titles, rows)
        link_s = self.wire_mib_after_alert * 8 * 1.048576 / self.link.rate_mbit
        lines += [
            "",
            f"alert to last VM running away: {self.alert_to_last_running_s:.2f} s; "
            f"{self.wire_mib_after_alert:.2f} MiB sent after it, {link_s:.2f} s of this link",
        ]
        predicted = [vm.predicted_away_s for vm in self.vms if vm.predicted_away_s is not None]
        if predicted:
            error_s = self.alert_to_last_running_s - max(predicted)
            lines.append(f"predicted: {max(predicted):.2f} s; prediction error {error_s:+.2f} s")
        if self.stored and self.stored.get("error_s") is not None:
            lines.append(
                f"kept by the gateway (`evacctl report`): predicted {self.stored['predicted_makespan_s']:.2f} s, "
                f"actual {self.stored['actual_makespan_s']:.2f} s, a VM off by "
                f"{self.stored['vm_error_mean_s']:.2f} s on average"
            )
        if self.peer:
            time_ratio = self.peer["total_s"] / max(self.alert_to_last_running_s, 0.001)
            wire_ratio = self.peer["wire_mib"] / max(self.wire_mib_after_alert, 0.001)
            total_s, wire_mib = self.peer["total_s"], self.peer["wire_mib"]
            lines.append(
                f"{self.peer['method']}: {total_s:.1f} s, {wire_mib:.0f} MiB: "
                f"{time_ratio:.1f} times the time, {wire_ratio:.1f} times the bytes after the alert"
            )
        return lines


def show_proofs(proofs: dict[str, Any]) -> str:
    names = {
        "runs_only_at_away": "only-away",
        "counter": "counter",
        "memory_checksum": "memory",
        "disk": "disk",
    }
    failed = [short for key, short in names.items() if not proofs[key]]
    pages = proofs["differing_pages"]
    compared = "" if pages is None else f", {pages} pages differ"
    return ("FAILED: " + " ".join(failed) if failed else "ok") + compared
