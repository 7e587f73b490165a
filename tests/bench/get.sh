#!/bin/sh
# Builds bench_get, starts one forebayd, memcached and redis on free loopback ports, and runs it: see bench_get.c.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
for tool in memcached redis-server; do
  command -v "$tool" >/dev/null || {
    echo "tests/bench/get.sh: $tool is missing: deploy/packages.sh bench" >&2
    exit 1
  }
done
log=$(mktemp)
if ! { [ -f build/build.ninja ] || cmake --preset release; } >"$log" 2>&1 ||
  ! ninja -C build bench_get forebayd forebay-cli >>"$log" 2>&1; then
  cat "$log" >&2
  rm -f "$log"
  exit 1
fi
rm -f "$log"
exec /usr/bin/python3 tests/bench/get.py "$@"
