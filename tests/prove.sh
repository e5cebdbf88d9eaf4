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
beside=collectors/procfs/bench
mkdir -p "$out"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'echo "-- stopped"; exit 130' INT TERM
failed=()
revision=$(git rev-parse --short HEAD 2>/dev/null)$(git diff --quiet HEAD -- . ":!$out" 2>/dev/null || echo ' and changes')

say() { echo "-- $(date -u +%H:%M:%S) $*"; }

took() { printf '%d:%02d' $((SECONDS / 60)) $((SECONDS % 60)); }

# page NAME TITLE: begins a page, with what it was measured on.
page() {
  {
    echo "# $2"
    echo
    echo "$(date -u +%F), $(nproc) cores ($(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -1)), $(awk '/MemTotal/ {printf "%.0f GiB", $2/1048576}' /proc/meminfo 2>/dev/null) of memory, $(uname -sr), $($GO version | cut -d' ' -f3), $(redis-server --version 2>/dev/null | grep -o 'v=[0-9.]*' | sed 's/v=/Redis /'), revision $revision."
    echo
  } > "$out/$1.md"
}

# shows PAGE WHAT FILTER COMMAND...: runs a command, keeps those lines of its output that match on the page, and notes a failure.
shows() {
  local page=$1 what=$2 filter=$3 result=passed
  shift 3
  SECONDS=0
  if ! "$@" > "$scratch/log" 2>&1; then
    result=FAILED
    failed+=("$what")
    tail -n 60 "$scratch/log"
  fi
  {
    echo "$what: $result, in $(took) minutes."
    echo
    echo '```'
    grep -E "$filter" "$scratch/log" | cut -c1-400
    echo '```'
    echo
  } >> "$out/$page.md"
}

# tests NAME TITLE PACKAGE TIMEOUT: the tests of a package at full counts, and what they log of how it went.
tests() {
  page "$1" "$2"
  shows "$1" "\`$3\`, with the race detector" '^ *(--- |[a-z_]+_test\.go:[0-9]+: )|^(ok|FAIL|PASS)' \
    $GO test -race -v -timeout "$4" -count 1 "$3"
}

# fuzzes PACKAGE TARGET: fuzzes, and writes a row of a table. An input that breaks it is kept in the package's testdata.
fuzzes() {
  local result=held
  if ! $GO test -run '^$' -fuzz "^$2\$" -fuzztime "$FUZZ_TIME" -fuzzminimizetime 10x "$1" > "$scratch/log" 2>&1; then
    result=FAILED
    failed+=("fuzzing $1 $2")
    tail -n 60 "$scratch/log"
  fi
  local last executions
  last=$(grep -E '^fuzz: elapsed: .* execs: ' "$scratch/log" | tail -n 1)
  executions=$(grep -oE 'execs: [0-9]+' <<< "$last" | cut -d' ' -f2)
  if [ -z "$executions" ] && [ "$result" = held ]; then # the time was over before the known inputs had been tried
    result="NOT TRIED"
    failed+=("fuzzing $1 $2: there was no time to")
  fi
  echo "| $1 | $2 | $executions | $(grep -oE 'total: [0-9]+' <<< "$last" | cut -d' ' -f2) | $result |" >> "$out/fuzz.md"
}

total=$(wc -w <<< "$STEPS") n=0 began=$(date +%s)
for step in $STEPS; do
  n=$((n + 1))
  say "step $n of $total: $step"
  case $step in
    faults) tests faults "Faults: ten minutes of churn, a store that is away for a minute" ./tests/faults 40m ;;
    kill) tests kill "Kills: twenty rounds of each process" ./tests/kill 60m ;;
    load)
      page load "Load: $AGENTS agents, beside a stock gqlgen server"
      shows load "\`load agents --count $AGENTS\`" '^([^0-9]|[0-9]+ agents)' $GO run ./tests/load agents --count "$AGENTS"
      light="--light --phases connect,idle,one,vm,all --peer gqlgen"
      shows load "\`load agents --count $AGENTS $light\`" '^([^0-9]|[0-9]+ light agents)' $GO run ./tests/load agents --count "$AGENTS" $light
      ;;
    benchmarks)
      page benchmarks "Benchmarks, beside their floors and peers, $COUNT runs each"
      for package in $($GO list ./...); do
        [ -n "$($GO test -list '^Benchmark' "$package" 2>/dev/null | grep '^Benchmark')" ] || continue
        say "benchmarks of $package"
        shows benchmarks "\`$package\`" '^(Benchmark|pkg:)|^ +[a-z_]+_test\.go:[0-9]+: ' \
          $GO test -run '^$' -bench . -benchmem -count "$COUNT" -timeout 60m "$package"
      done
      # A module of its own, so that IAPI does not depend on node_exporter.
      say "benchmarks of the module $beside"
      shows benchmarks "\`$beside\`, beside node_exporter's own collectors" '^(Benchmark|pkg:)' \
        $GO -C "$beside" test -run '^$' -bench . -benchmem -count "$COUNT" -timeout 60m ./...
      ;;
    tests)
      page tests "All other tests at full counts"
      shows tests "All that builds on Linux builds for darwin too" '.' env GOOS=darwin $GO build ./...
      shows tests "The module $beside builds against them" '.' $GO -C "$beside" vet ./...
      shows tests "All packages, with the race detector" '^(ok|FAIL|---)' \
        $GO test -race -timeout 2h -count 1 -p 1 $($GO list ./... | grep -Ev '/tests/(faults|kill)$')
      ;;
    fuzz)
      page fuzz "Fuzzing, $FUZZ_TIME for each target"
      printf '%s\n' '| package | target | executions | interesting inputs | |' '| --- | --- | ---: | ---: | --- |' >> "$out/fuzz.md"
      for package in $($GO list ./...); do
        for target in $($GO test -list '^Fuzz' "$package" 2>/dev/null | grep '^Fuzz'); do
          say "fuzzing $package $target"
          fuzzes "$package" "$target"
        done
      done
      ;;
    *) failed+=("$step: there is no such step") ;;
  esac
done

SECONDS=$(($(date +%s) - began))
say "that took $(took) minutes; the figures are in $out"
if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
