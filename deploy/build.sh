#!/usr/bin/env bash
# Configures and builds one preset with short output: build.sh release
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
preset=${1:-release}
cd "$top"
printf 'build: preset %s\n' "$preset"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! cmake --preset "$preset" > "$log" 2>&1; then
  cat "$log" >&2
  exit 1
fi
# At least 2 GB of memory for each compiler: the heavy headers need it.
jobs=$(nproc)
memory_jobs=$(awk '/MemAvailable/ {n = int($2 / 2000000); print (n < 1 ? 1 : n)}' /proc/meminfo)
if [ "$memory_jobs" -lt "$jobs" ]; then jobs=$memory_jobs; fi
NINJA_STATUS='build: [%f/%t] ' cmake --build --preset "$preset" -j "$jobs"
