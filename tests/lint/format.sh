#!/bin/bash
# format.sh - every C file reads as .clang-format says. `format.sh --fix` rewrites those that do not.
set -euo pipefail
cd "$(dirname "$0")/../.."
mode=(--dry-run -Werror)
[ "${1:-}" = --fix ] && mode=(-i)
find client common proto server tests deploy -type f \( -name '*.c' -o -name '*.h' \) -not -name '*.pb-c.*' -print0 |
  sort -z | xargs -0 clang-format "${mode[@]}"
