#!/usr/bin/env bash
# Installs what is needed, builds, and runs the main job: six VMs prestaged, an alert, an
# evacuation, proof. `./deploy/quickstart.sh --help` lists the options.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=/usr/bin/python3  # Debian's own: the scripts use its standard library only

for argument in "$@"; do
  case "$argument" in
    -h | --help)
      [ -x "$python" ] || "$here/setup.sh"
      exec "$python" "$here/quickstart/run.py" --help
      ;;
    --cleanup) exec "$python" "$here/quickstart/run.py" "$@" ;;
  esac
done
if [ "$(id -u)" -ne 0 ]; then
  echo "quickstart: run as root: it makes network namespaces" >&2
  exit 2
fi
"$here/setup.sh"
"$python" "$here/quickstart/run.py" --check "$@"  # options are checked before minutes of building
"$here/build.sh" release
exec "$python" "$here/quickstart/run.py" --bin "$here/../build/release/bin" "$@"
