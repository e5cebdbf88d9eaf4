#!/usr/bin/env bash
# Runs everything at full counts, one thing after the other, and writes what was measured into docs/measured, a page for each.
# It takes hours, says how far it is, and ends by itself; what fails does not keep the rest from running, and is told in the
# end. It wants a quiet machine.
#
#   STEPS      which of: faults kill load benchmarks tests fuzz (all of them)
#   COUNT      runs of each benchmark (3)
#   FUZZ_TIME  for each fuzz target (5m)
#   AGENTS     of the load tool (10000)
set -uo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
STEPS=${STEPS:-faults kill load benchmarks tests fuzz}
COUNT=${COUNT:-3}
FUZZ_TIME=${FUZZ_TIME:-5m}
AGENTS=${AGENTS:-10000}
export IAPI_PROVE=1
out=docs/measured
mkdir -p "$out"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'echo "-- stopped"; exit 130' INT TERM
failed=()

say() { echo "-- $(date -u +%H:%M:%S) $*"; }

# page NAME TITLE: begins a page, with what it was measured on.
page() {
  {
    echo "# $2"
    echo
    echo "$(nproc) cores ($(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -1)), $(awk '/MemTotal/ {printf "%.0f GiB", $2/1048576}' /proc/meminfo 2>/dev/null) of memory, $(uname -sr), $($GO version | cut -d' ' -f3), $(redis-server --version 2>/dev/null | grep -o 'v=[0-9.]*' | sed 's/v=/Redis /'), revision $(git rev-parse --short HEAD 2>/dev/null)$(git diff --quiet HEAD 2>/dev/null || echo ' and changes')."
    echo
  } > "$out/$1.md"
}

# shows PAGE FILTER COMMAND...: runs a command, keeps those lines of its output that match on the page, and notes a failure.
shows() {
  local page=$1 filter=$2
  shift 2
  if "$@" > "$scratch/log" 2>&1; then
    echo "$*: passed." >> "$out/$page.md"
  else
    failed+=("$*")
    echo "$*: FAILED." >> "$out/$page.md"
    tail -n 60 "$scratch/log"
  fi
  { echo; echo '```'; grep -E "$filter" "$scratch/log" | cut -c1-400; echo '```'; echo; } >> "$out/$page.md"
}

# tests NAME TITLE PACKAGE TIMEOUT: the tests of a package at full counts, and what they log of how it went.
tests() {
  say "$2"
  page "$1" "$2"
  shows "$1" '^ *(--- |[a-z_]+_test\.go:[0-9]+: )|^(ok|FAIL|PASS)' $GO test -race -v -timeout "$4" -count 1 "$3"
}

total=$(wc -w <<< "$STEPS") n=0
for step in $STEPS; do
  n=$((n + 1))
  say "step $n of $total: $step"
  case $step in
    faults) tests faults "Faults: ten minutes of churn, a store that is away for a minute" ./tests/faults 40m ;;
    kill) tests kill "Kills: twenty rounds of each process" ./tests/kill 60m ;;
    load)
      page load "Load: $AGENTS agents, beside a stock gqlgen server"
      shows load '.' $GO run ./tests/load agents --count "$AGENTS" --peer gqlgen
      ;;
    benchmarks)
      page benchmarks "Benchmarks, beside their floors and peers, $COUNT runs each"
      for package in $($GO list ./...); do
        $GO test -list '^Benchmark' "$package" 2>/dev/null | grep -q '^Benchmark' || continue
        say "benchmarks of $package"
        shows benchmarks '^(Benchmark|pkg:)|^ +[a-z_]+_test\.go:[0-9]+: ' $GO test -run '^$' -bench . -benchmem -count "$COUNT" -timeout 60m "$package"
      done
      ;;
    tests)
      page tests "All other tests at full counts, with the race detector"
      shows tests '^(ok|FAIL|---)' $GO test -race -timeout 2h -p 1 $($GO list ./... | grep -Ev '/tests/(faults|kill)$')
      ;;
    fuzz)
      page fuzz "Fuzzing, $FUZZ_TIME for each target"
      for package in $($GO list ./...); do
        for target in $($GO test -list '^Fuzz' "$package" 2>/dev/null | grep '^Fuzz'); do
          say "fuzzing $package $target"
          shows fuzz '^(ok|FAIL|---)|execs: .*\(.*new interesting' $GO test -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZ_TIME" -fuzzminimizetime 10x "$package"
        done
      done
      ;;
    *) failed+=("$step: there is no such step") ;;
  esac
done

say "the figures are in $out"
if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
