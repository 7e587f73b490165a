#!/bin/bash
# tidy.sh - clang-tidy with .clang-tidy over the product's sources, assertions included (they tell the analyzer what holds).
# usage: tidy.sh [JOBS [FILE...]]
set -euo pipefail
cd "$(dirname "$0")/../.."
jobs=${1:-$(nproc)}
shift || true
[ -f build-clang/compile_commands.json ] || cmake --preset clang >/dev/null
# The generated messages must exist for the sources that include them.
cmake --build --preset clang -j "$jobs" --target fb_pb >/dev/null
if [ $# -gt 0 ]; then files=("$@"); else mapfile -t files < <(find common proto server client -name '*.c' | sort); fi
[ ${#files[@]} -gt 0 ]
printf '%s\0' "${files[@]}" |
  xargs -0 -n 4 -P "$jobs" clang-tidy --quiet -p build-clang --extra-arg=-UNDEBUG --warnings-as-errors='*' 2> >(grep -v 'warnings\? generated\|Suppressed\|Use -header-filter' >&2)
