#!/bin/sh
# The planner's figures: tests/bench/planner.sh [--json FILE]
# Builds nothing: binaries are taken from $EVAC_BIN (a folder), else build/release/tests. Each part
# runs in a process of its own, as peak memory is the process's. Exit 1 when a target is missed.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
bin=${EVAC_BIN:-$top/build/release/tests}
json=
case "${1:-}" in
    --json) json=${2:?"--json: a file"} ;;
    "") ;;
    *) echo "usage: planner.sh [--json FILE]" >&2; exit 2 ;;
esac
if [ ! -x "$bin/bench_planner_figures" ]; then
    echo "$bin/bench_planner_figures is missing: build it, or set EVAC_BIN" >&2
    exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for part in small gap time-10000 time-100000 replan rules; do
    echo "-- $part"
    "$bin/bench_planner_figures" "$part" --json "$work/$part.json"
done
# The simulator's own binary writes the same form.
if [ -x "$bin/bench_simulate" ]; then
    echo "-- simulate"
    "$bin/bench_simulate" --json "$work/simulate.json"
fi
/usr/bin/python3 - "$work" "$json" <<'PYTHON'
import json
import pathlib
import sys

figures = {}
for part in sorted(pathlib.Path(sys.argv[1]).glob("*.json")):
    figures.update(json.loads(part.read_text())["figures"])
if sys.argv[2]:
    pathlib.Path(sys.argv[2]).write_text(json.dumps({"figures": figures}, indent=2) + "\n")
missed = sorted(name for name, figure in figures.items() if figure.get("met") is False)
print(f"{len(figures)} figures, missed: {', '.join(missed) if missed else 'none'}")
sys.exit(1 if missed else 0)
PYTHON
