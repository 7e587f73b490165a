#!/bin/bash
# quickstart.sh - a cluster of three peers on this machine, and a dataset read through it, in one command: installs what
# is missing, builds, and hands over to deploy/quickstart/run.py, which tells the rest of the story.
set -euo pipefail

usage() {
  cat <<'TXT'
usage: sudo deploy/quickstart.sh [DATASET_DIR] [--keep] [--json FILE]

Installs what is missing (Debian 12), builds, starts three peers on the loopback, prestages a dataset, reads all of it
back through two different peers and compares SHA-256 with the origin, kills one peer with kill -9 in the middle of a
further read and reads everything again, and prints one table of what was measured.

  DATASET_DIR  a directory of your own that is to be served (never written to). It must fit into memory.
               Without it a dataset is made of files found on this machine: at least 1 GiB of tar shards in
               WebDataset form and a few thousand small files
  --keep       leave the cluster (and the dataset) up, and say how to talk to it and how to stop it
  --json FILE  also write the result as one JSON object

Temporary files go to ${TMPDIR:-/var/tmp} and are removed at the end, however that comes. Exit status: 0 when every byte
was right and no read failed, 1 when not, 2 for a wrong command line.
TXT
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
args=()
while [ $# -gt 0 ]; do
  case "$1" in
  -h | --help)
    usage
    exit 0
    ;;
  --keep) args+=("$1") ;;
  --json)
    [ $# -ge 2 ] || {
      echo "quickstart.sh: --json wants a file's name" >&2
      exit 2
    }
    args+=("$1" "$2")
    shift
    ;;
  -*)
    echo "quickstart.sh: no such option: $1" >&2
    usage >&2
    exit 2
    ;;
  *)
    [ -d "$1" ] || {
      echo "quickstart.sh: $1 is not a directory: give one to serve, or none to have one made" >&2
      exit 2
    }
    args+=("$1")
    ;;
  esac
  shift
done

log=
child=
stop() {
  trap - EXIT INT TERM HUP
  [ -z "$child" ] || kill -TERM -- "-$child" 2>/dev/null || true
  [ -z "$child" ] || wait "$child" 2>/dev/null || true
  [ -z "$log" ] || rm -f "$log"
}
trap stop EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs a command in a process group of its own, so that a signal to us can end all that it started.
run() {
  local status=0
  set -m
  "$@" </dev/null &
  child=$!
  set +m
  wait "$child" || status=$?
  child=
  return $status
}

# Two quickstarts that start together build one after the other. The tests want more packages: they turn themselves on.
build() {
  local options=()
  mkdir -p "$root/build"
  exec 9>"$root/build/.quickstart-lock"
  flock 9
  [ -f "$root/build/CMakeCache.txt" ] || options=(-DFOREBAY_TESTS=OFF)
  cd "$root"
  cmake --preset release "${options[@]}" && cmake --build --preset release -j "$(nproc)" --target forebayd forebay-cli forebay
}

run "$root/deploy/packages.sh" build run
log=$(mktemp "${TMPDIR:-/var/tmp}/forebay-quickstart-build.XXXXXX")
echo "building in $root/build"
if ! run build >"$log" 2>&1; then
  tail -n 60 "$log" >&2
  echo "quickstart.sh: the build failed (above)" >&2
  exit 1
fi
stop
exec /usr/bin/python3 -B "$root/deploy/quickstart/run.py" "${args[@]}"
