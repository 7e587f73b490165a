#!/bin/bash
# packages.sh - the one list of Debian 12 packages that Forebay needs, by what they are for, and their installation.
# Everything that installs (quickstart, the tests, images) comes here, so that a package is named in one place.
set -euo pipefail

usage() {
  cat <<'TXT'
usage: deploy/packages.sh [--list] GROUP...
Installs what is missing of these groups on Debian 12. Quick when all is there; needs root only when something is not.

  build   compile forebayd, libforebay and the CLI
  run     run the quickstart and the built programs
  test    build and run the tests, the sanitizers, the fuzz targets and the linters
  bench   the programs that the benches compare with
  all     all of these

  --list  print the packages, install nothing
TXT
}

build=(
  gcc libc6-dev                      # compiler
  cmake ninja-build pkgconf          # build
  libgrpc-dev                        # gRPC C core: the API's transport
  libprotobuf-c-dev protobuf-c-compiler # messages and their generator
  libcyaml-dev libyaml-dev           # configuration files
  libxxhash-dev                      # placement hash
  libisal-dev                        # CRC32C
)
run=(
  python3-minimal libpython3-stdlib  # the quickstart's data set, hashes and table
  libssl3                            # hashlib's fast SHA-256
  procps util-linux coreutils        # ps, setsid, timeout
)
test=(
  libcmocka-dev                      # unit tests
  python3-pytest python3-grpcio      # system tests; calls from a client that is not ours
  curl                               # calls over an HTTP/2 that is not gRPC's
  clang libclang-rt-14-dev           # second compiler, libFuzzer
  clang-format clang-tidy shellcheck # linters
  groff-base                         # the manual pages' syntax
  mount iproute2 strace              # full disks (tmpfs), sockets, failing system calls
)
bench=(
  memcached redis-server             # what `bench get` is compared with
)

list_only=false
wanted=()
for arg in "$@"; do
  case "$arg" in
  build) wanted+=("${build[@]}") ;;
  run) wanted+=("${run[@]}") ;;
  test) wanted+=("${test[@]}") ;;
  bench) wanted+=("${bench[@]}") ;;
  all) wanted+=("${build[@]}" "${run[@]}" "${test[@]}" "${bench[@]}") ;;
  --list) list_only=true ;;
  -h | --help)
    usage
    exit 0
    ;;
  *)
    echo "packages.sh: no such group: '$arg' (build, run, test, bench, all)" >&2
    exit 2
    ;;
  esac
done
if [ ${#wanted[@]} -eq 0 ]; then
  usage >&2
  exit 2
fi
if $list_only; then
  printf '%s\n' "${wanted[@]}"
  exit 0
fi
if ! command -v dpkg-query >/dev/null 2>&1; then
  echo "packages.sh: not a Debian system: install by other means what 'deploy/packages.sh --list all' names" >&2
  exit 1
fi

# One dpkg-query for all: it prints a line for each package it knows and fails for those it does not.
installed=" $(dpkg-query -W -f='${db:Status-Status}=${Package} ' "${wanted[@]}" 2>/dev/null || true)"
missing=()
for package in "${wanted[@]}"; do
  case "$installed" in
  *" installed=$package "*) ;;
  *) missing+=("$package") ;;
  esac
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
  else
    echo "packages.sh: missing: ${missing[*]}" >&2
    echo "packages.sh: run as root to install them: sudo deploy/packages.sh $*" >&2
    exit 1
  fi
fi

# A data base server must not start only because a bench may want it later: it starts its own on a port of its own.
guard=/usr/sbin/policy-rc.d
remove_guard() { "${as_root[@]}" rm -f "$guard"; }
if [ ! -e "$guard" ]; then
  trap remove_guard EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$guard" >/dev/null
  "${as_root[@]}" chmod 755 "$guard"
fi

echo "packages.sh: installing ${missing[*]}"
apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get -q -o DPkg::Lock::Timeout=300 \
    -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@" </dev/null
}
apt update || echo 'packages.sh: apt-get update failed (see above); trying with the lists that are there' >&2
apt install -y --no-install-recommends "${missing[@]}"
