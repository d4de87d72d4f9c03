#!/usr/bin/env bash
# Installs the Debian 12 packages that building, testing and the quickstart need. Run as root.
# A second run only checks, needs no network, and prints one line.
set -euo pipefail

packages=(
  # compilers and build
  g++ cmake ninja-build ccache pkg-config clang-14 libclang-rt-14-dev clang-format
  # data plane, storage, crypto, formats
  libdpdk-dev librte-net-af-packet23 librte-net-af-xdp23 librte-net-memif23 libxdp1
  librocksdb-dev libzstd-dev libxxhash-dev libssl-dev libnbd-dev
  nlohmann-json3-dev libtomlplusplus-dev libpugixml-dev libcli11-dev libspdlog-dev libfmt-dev
  libisal-dev libmicrohttpd-dev libgnutls28-dev libcurl4-openssl-dev libsystemd-dev
  # tests
  libgtest-dev libgmock-dev jq libsimgrid-dev
  # guests, namespaces and proofs of the quickstart
  qemu-system-x86 qemu-utils iproute2 ethtool e2fsprogs python3 busybox-static cpio openssl
  kmod procps gzip
)

say() { printf 'setup: %s\n' "$*"; }

missing=()
installed=$(dpkg-query -W -f='${Package} ${db:Status-Abbrev}\n' | awk '$2 == "ii" {print $1}')
for package in "${packages[@]}"; do
  grep -qxF -- "$package" <<< "$installed" || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  say "all ${#packages[@]} packages are installed"
  exit 0
fi

if [ "$(id -u)" -ne 0 ]; then
  say "run as root: these packages are missing: ${missing[*]}" >&2
  exit 1
fi
# shellcheck disable=SC1091
. /etc/os-release
if [ "${ID:-}" != debian ] || [ "${VERSION_ID:-}" != 12 ]; then
  say "made for Debian 12; this is ${PRETTY_NAME:-unknown}. Going on." >&2
fi

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() {  # runs a command; shows its output only when it fails
  if ! "$@" > "$log" 2>&1; then
    say "failed: $*" >&2
    tail -n 30 "$log" >&2
    return 1
  fi
}
install_missing() {
  quietly apt-get -q -y --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 \
    install "${missing[@]}"
}

say "installing ${#missing[@]} packages: ${missing[*]}"
lists_known() {  # how many of the missing packages apt could install right now
  apt-cache policy "${missing[@]}" 2>/dev/null | awk '/Candidate:/ && $2 != "(none)"' | wc -l
}
if [ "$(lists_known)" -lt ${#missing[@]} ]; then
  say "reading the package lists"
  quietly apt-get -q -o DPkg::Lock::Timeout=300 update
fi
if ! install_missing; then  # lists that are old name versions that are gone
  say "reading the package lists again"
  quietly apt-get -q -o DPkg::Lock::Timeout=300 update
  install_missing
fi
say "done"
