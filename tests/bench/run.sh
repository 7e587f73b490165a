#!/bin/sh
# Runs one bench: tests/bench/run.sh NAME [--quick] [--json FILE]. Without a name, lists the names.
# A bench is tests/bench/NAME.sh where there is one, otherwise the program build/bench_NAME.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

names() {
  for file in "$here"/bench_*.c "$here"/*.sh; do
    name=$(basename "$file")
    name=${name%.*}
    if [ -e "$file" ] && [ "$name" != run ]; then
      echo "  ${name#bench_}"
    fi
  done | sort -u
}

if [ $# -eq 0 ]; then
  echo "usage: tests/bench/run.sh NAME [--quick] [--json FILE]"
  echo "names:"
  names
  exit 0
fi
name=$1
shift
if [ -f "$here/$name.sh" ] && [ "$name" != run ]; then
  exec "$here/$name.sh" "$@"
fi
if [ ! -f "$here/bench_$name.c" ]; then
  echo "tests/bench/run.sh: no bench \"$name\"; there are:" >&2
  names >&2
  exit 2
fi
# The build speaks to stderr, and only when it fails: stdout is the bench's.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! (cd "$root" && { [ -f build/build.ninja ] || cmake --preset release; } && ninja -C build "bench_$name") \
  >"$log" 2>&1; then
  cat "$log" >&2
  echo "tests/bench/run.sh: cannot build bench_$name" >&2
  exit 1
fi
rm -f "$log"
trap - EXIT
exec "$root/build/bench_$name" "$@"
