"""What the screen shows while VMs are prestaged and while they are evacuated."""

from __future__ import annotations

from typing import Any

from display import bar, number, table


def prestage_lines(vms: list[dict[str, Any]]) -> tuple[list[str], str]:
    """The table and a one-line summary of `evacctl status`."""
    rows = []
    for vm in vms:
        staged, backlog = vm.get("staged_mib") or 0.0, vm.get("backlog_mib") or 0.0
        share = 1.0 if vm["state"] == "protected" else staged / max(staged + backlog, 1.0)
        figures = [
            number(value) for value in (staged, backlog, vm.get("wire_mib"), vm.get("rpo_s"))
        ]
        rows.append([vm["name"], vm["state"], bar(share), *figures])
    protected = sum(vm["state"] == "protected" for vm in vms)
    staged = sum(vm.get("staged_mib") or 0.0 for vm in vms)
    wire = sum(vm.get("wire_mib") or 0.0 for vm in vms)
    summary = f"{protected} of {len(vms)} protected, {staged:.0f} MiB staged, {wire:.0f} MiB sent"
    titles = ["VM", "state", "", "staged MiB", "backlog MiB", "wire MiB", "RPO s"]
    return [*table(titles, rows), summary], summary


def evacuation_lines(
    vms: list[dict[str, Any]], landed: int, expected: int
) -> tuple[list[str], str]:
    """The table and a one-line summary; `landed` is what the prover sees."""
    rows = []
    for vm in vms:
        figures = [number(vm.get(key), 2) for key in ("backlog_mib", "wire_mib", "away_s")]
        rows.append([vm["name"], vm["state"], *figures, number(vm.get("downtime_ms"), 0)])
    summary = f"{landed} of {expected} VMs run at site B"
    titles = ["VM", "state", "backlog MiB", "wire MiB", "away s", "downtime ms"]
    return [*table(titles, rows), summary], summary
