#!/bin/bash
# run.sh - builds Forebay in every way it is built and runs every test there is, from a fresh clone of the repository on
# a Debian 12 with nothing installed. Each stage is a list of steps; a step's output goes to a log that is shown when the
# step fails; what was counted goes into one last line, "N passed, N failed", which is also the exit status.
set -uo pipefail

usage() {
  cat <<'TXT'
usage: sudo tests/run.sh [--quick] [STAGE...]

Stages, in the order in which they run (default: all):
  lint     dependency rule, formatting, leftovers, shell scripts
  release  gcc build, unit tests (ctest), system tests (pytest: tests/system, tests/cli, tests/fault)
  clang    clang build, compile only
  asan     AddressSanitizer + UndefinedBehaviorSanitizer: unit tests and system tests
  tsan     ThreadSanitizer: unit tests and system tests
  fuzz     each fuzz target over its corpus, then for FUZZ_SECONDS (default 10)
  tidy     clang-tidy

  --quick  lint and release alone, without the tests marked slow

Environment: FUZZ_SECONDS, JOBS (default: the number of processors), PYTEST_ADDOPTS, KEEP_LOGS=DIR (keeps all logs).
The last line is "N passed, N failed[, N skipped]"; the exit status is 0 only when nothing failed and every stage that
was asked for ran at least one test.
TXT
}

all_stages=(lint release clang asan tsan fuzz tidy)
quick=false
stages=()
for arg in "$@"; do
  case "$arg" in
  -h | --help)
    usage
    exit 0
    ;;
  --quick) quick=true ;;
  -*)
    echo "run.sh: no such option: $arg" >&2
    usage >&2
    exit 2
    ;;
  *)
    case " ${all_stages[*]} " in
    *" $arg "*) stages+=("$arg") ;;
    *)
      echo "run.sh: no such stage: '$arg' (${all_stages[*]})" >&2
      exit 2
      ;;
    esac
    ;;
  esac
done
if [ ${#stages[@]} -eq 0 ]; then
  stages=("${all_stages[@]}")
  $quick && stages=(lint release)
fi

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit 1
jobs=${JOBS:-$(nproc)}
fuzz_seconds=${FUZZ_SECONDS:-10}
export LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
# A proxy of the surroundings has no business between processes on the loopback.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY grpc_proxy

tmp=$(mktemp -d "${TMPDIR:-/tmp}/forebay-tests.XXXXXX")
child=
# shellcheck disable=SC2317,SC2329 # reached by the traps
finish() {
  local status=$?
  trap - EXIT INT TERM HUP
  if [ -n "$child" ]; then
    kill -TERM "$child" 2>/dev/null # `timeout` passes it on to all that it started
    wait "$child" 2>/dev/null
  fi
  if [ -n "${KEEP_LOGS:-}" ]; then
    mkdir -p "$KEEP_LOGS" && cp -r "$tmp"/*.log "$tmp"/*.xml "$KEEP_LOGS"/ 2>/dev/null
  fi
  rm -rf "$tmp"
  exit "$status"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

passed=0
failed=0
skipped=0
stage_tests=0
stage=
failures=()

# step NAME TIMEOUT_S KIND COMMAND...: runs one command with its output in a log. KIND says how its tests are counted:
# `one` (the step is one test), or the JUnit file that it writes.
step() {
  local name=$1 limit=$2 kind=$3 log started=$SECONDS status counts
  shift 3
  log=$tmp/$stage-${name//[^a-z0-9]/_}.log
  timeout -k 10 "$limit" "$@" >"$log" 2>&1 </dev/null &
  child=$!
  wait "$child"
  status=$?
  child=
  local p=0 f=0 s=0 note=
  if [ "$kind" = one ]; then
    if [ $status -eq 0 ]; then p=1; else f=1; fi
  else
    counts=$(python3 "$root/tests/lib/count.py" "$kind" 2>>"$log") || counts="0 1 0"
    read -r p f s <<<"$counts"
    if [ $status -ne 0 ] && [ "$f" -eq 0 ]; then
      f=1
    fi
    if [ $((p + f)) -eq 0 ]; then
      f=1
      note=" (no test ran)"
    fi
  fi
  [ $status -eq 124 ] && note=" (stopped after $limit s)"
  passed=$((passed + p))
  failed=$((failed + f))
  skipped=$((skipped + s))
  stage_tests=$((stage_tests + p + f))
  local verdict=ok
  [ "$f" -gt 0 ] && verdict=FAIL
  printf '%-4s %-8s %-28s %5d passed %3d failed %3d skipped %5d s%s\n' "$verdict" "$stage" "$name" "$p" "$f" "$s" \
    $((SECONDS - started)) "$note"
  if [ "$f" -gt 0 ]; then
    failures+=("$stage: $name")
    echo "---- the last 300 lines of its log:"
    tail -n 300 "$log"
    echo "---- end of $stage: $name"
    return 1
  fi
}

# Sanitizers want the shadow's address ranges free: with more than 28 random bits an executable may be mapped into them.
norandom=()
check_randomness() {
  local bits
  bits=$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 28)
  if [ "$bits" -gt 28 ]; then
    if setarch -R true 2>/dev/null; then
      norandom=(setarch -R)
    else
      echo "note: vm.mmap_rnd_bits is $bits and setarch -R is not allowed here: sanitizers may fail to start." \
        "As root: sysctl vm.mmap_rnd_bits=28"
    fi
  fi
}

# build PRESET: configures and compiles one preset of CMakePresets.json.
build() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  step "build" 1200 one bash -c 'cmake --preset "$1" -DFOREBAY_TESTS=ON && cmake --build --preset "$1" -j "$2"' build "$1" "$jobs"
}

# unit FOLDER [COMMAND...]: ctest in a build folder, under COMMAND.
unit() {
  local folder=$1
  shift
  step "unit tests" 900 "$tmp/$stage-unit.xml" "$@" ctest --test-dir "$folder" -j "$jobs" --output-on-failure \
    --no-tests=error --timeout 300 --test-output-size-passed 1000000 --output-junit "$tmp/$stage-unit.xml"
}

# system FOLDER MARKS [COMMAND...]: pytest against the binaries of a build folder.
system() {
  local folder=$1 marks=$2 places=() place
  shift 2
  for place in tests/system tests/cli tests/fault; do
    if compgen -G "$place/test_*.py" >/dev/null; then places+=("$place"); fi
  done
  if $quick; then marks="${marks:+($marks) and }not slow"; fi
  step "system tests" 1200 "$tmp/$stage-system.xml" "$@" env FOREBAY_BUILD="$folder" /usr/bin/python3 -m pytest -q -ra \
    -p no:cacheprovider --basetemp "$tmp/$stage-pytest" -m "$marks" --junitxml "$tmp/$stage-system.xml" "${places[@]:-tests/system}"
}

stage_lint() {
  step "include check finds" 60 one tests/lint/includes.py --self-test
  step "includes" 60 one tests/lint/includes.py
  step "leftover check finds" 60 one tests/lint/leftovers.py --self-test
  step "leftovers" 60 one tests/lint/leftovers.py
  step "format" 120 one tests/lint/format.sh
  step "shell scripts" 120 one tests/lint/shell.sh
}

stage_release() {
  build release || return
  unit build
  system build ""
}

stage_clang() {
  build clang
}

# The tests' own interpreter loads libforebay, and cannot load a sanitized one: it takes the release build's.
plain_library() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  step "plain library" 600 one bash -c 'cmake --preset release -DFOREBAY_TESTS=ON && cmake --build --preset release --target forebay -j "$1"' \
    plain "$jobs"
}

stage_asan() {
  export ASAN_OPTIONS="detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1:abort_on_error=0"
  export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1"
  export LSAN_OPTIONS="suppressions=$root/tests/lib/lsan.supp:print_suppressions=0"
  build asan && plain_library || return
  unit build-asan "${norandom[@]}"
  system build-asan "not release_only" "${norandom[@]}"
}

stage_tsan() {
  export TSAN_OPTIONS="suppressions=$root/tests/lib/tsan.supp:halt_on_error=1:second_deadlock_stack=1:history_size=4:ignore_noninstrumented_modules=1"
  build tsan && plain_library || return
  unit build-tsan "${norandom[@]}"
  system build-tsan "not release_only and not no_tsan" "${norandom[@]}"
}

stage_fuzz() {
  export LSAN_OPTIONS="suppressions=$root/tests/lib/lsan.supp:print_suppressions=0"
  build fuzz && step "targets" 900 "$tmp/fuzz.xml" "${norandom[@]}" python3 tests/fuzz/run.py --build build-fuzz \
    --seconds "$fuzz_seconds" --jobs "$jobs" --junit "$tmp/fuzz.xml"
}

stage_tidy() {
  step "clang-tidy" 900 one tests/lint/tidy.sh "$jobs"
}

echo "Forebay tests: ${stages[*]} on $(nproc) processors, $(date -u +%FT%TZ)"
stage=setup
if ! step "packages" 1200 one deploy/packages.sh build run test; then
  printf '\n%d passed, %d failed\n' "$passed" "$failed"
  exit 1
fi
passed=0 # packages are no test
check_randomness

for stage in "${stages[@]}"; do
  stage_tests=0
  started=$SECONDS
  printf '\n== %s\n' "$stage"
  unset ASAN_OPTIONS UBSAN_OPTIONS LSAN_OPTIONS TSAN_OPTIONS # each stage sets its own
  "stage_$stage"
  if [ $stage_tests -eq 0 ]; then
    failed=$((failed + 1))
    failures+=("$stage: ran no test")
  fi
  printf '== %s: %d tests in %d s\n' "$stage" $stage_tests $((SECONDS - started))
done

printf '\n%d s in all\n' $SECONDS
for failure in "${failures[@]}"; do
  echo "failed: $failure"
done
line="$passed passed, $failed failed"
[ $skipped -gt 0 ] && line="$line, $skipped skipped"
echo "$line"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
