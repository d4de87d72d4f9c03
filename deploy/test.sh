#!/usr/bin/env bash
# Installs what is needed, builds, and runs all tests. .ci/run calls exactly this.
#
# Every test is a ctest entry, so ctest's last lines account for all of them. Unit tests run side by
# side; tests that start guests (label "integration") are RUN_SERIAL and so run alone. To add one,
# put an add_test() with these two properties into tests/CMakeLists.txt or its own folder's.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/setup.sh"
"$here/build.sh" release
"$here/../tests/guests/build.sh" > /dev/null  # once, before the tests that need it
cd "$here/.."
exec ctest --preset release --parallel "$(nproc)" "$@"
