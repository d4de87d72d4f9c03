#!/usr/bin/env bash
# The WAN transport beside TCP cubic and TCP BBR, through the same emulated link, in one run.
#
#   tests/bench/wan.sh [--json FILE] [--quick] [--only TEXT] [--list] [--seconds N] [--bin DIR]
#
# Needs root (network namespaces) and a build. All options: --help. What is measured: wan/README.md.
set -euo pipefail
exec /usr/bin/python3 "$(dirname "$(readlink -f "$0")")/wan" "$@"
