#!/usr/bin/env bash
# Runs the tests at full counts, fuzzes every target, and writes the figures of the benchmarks and of the load tool, dated,
# into docs/measured. Takes hours; wants a quiet machine. FUZZ_TIME and COUNT shorten it.
set -euo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
FUZZ_TIME=${FUZZ_TIME:-5m}
COUNT=${COUNT:-3}
out=docs/measured/$(date -u +%Y-%m-%d).md
mkdir -p docs/measured

echo "-- tests at full counts"
IAPI_PROVE=1 $GO test -race -timeout 2h -p 1 ./...

echo "-- fuzzing, $FUZZ_TIME for each target"
$GO list -f '{{.ImportPath}}' ./... | while read -r package; do
  $GO test -list '^Fuzz' "$package" | grep '^Fuzz' | while read -r target; do
    echo "$package $target"
    $GO test -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZ_TIME" -fuzzminimizetime 10x "$package"
  done
done

echo "-- benchmarks, $COUNT runs each, into $out"
{
  echo "# Measured on $(date -u +%Y-%m-%d)"
  echo
  echo "$(nproc) cores, $(uname -sr), $($GO version | cut -d' ' -f3), revision $(git rev-parse --short HEAD)."
  echo
  echo '```'
  $GO test -run '^$' -bench . -benchmem -count "$COUNT" -timeout 4h -p 1 ./...
  echo '```'
  echo
  echo "## Load: 10,000 agents, beside a stock gqlgen server"
  echo
  echo '```'
  $GO run ./tests/load agents --count 10000 --peer gqlgen
  echo '```'
} > "$out"
echo "$out"
