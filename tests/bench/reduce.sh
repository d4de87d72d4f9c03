#!/usr/bin/env bash
# The figures of prestaging and dedup, each beside its baseline, in one run and one table.
#
#   tests/bench/reduce.sh [--json FILE] [--quick] [--only TEXT] [--list] [--fresh] [--bin DIR]
#
# Needs root, a build, and for the first run the network. What is measured: reduce/README.md.
set -euo pipefail
exec /usr/bin/python3 "$(dirname "$(readlink -f "$0")")/reduce" "$@"
