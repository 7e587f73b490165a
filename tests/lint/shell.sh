#!/bin/bash
# shell.sh - shellcheck over every shell script, found by its first line; and every Python file must compile.
set -euo pipefail
cd "$(dirname "$0")/../.."
mapfile -d '' files < <(find . -type f -not -path './build*' -not -path './.git/*' -not -path '*/corpus/*' -print0 | sort -z)
shells=()
pythons=()
for file in "${files[@]}"; do
  case "$file" in
  *.py) pythons+=("$file") ;;
  *)
    if IFS= read -r first 2>/dev/null <"$file" && [[ $first =~ ^\#!.*(/|\ )(ba|da)?sh ]]; then shells+=("$file"); fi
    ;;
  esac
done
shellcheck "${shells[@]}"
python3 - "${pythons[@]}" <<'PY'
import ast, sys
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as f:
        ast.parse(f.read(), path)
PY
