#!/usr/bin/env bash
# Runs the tests with what is on this machine, and says what they leave out for want of a part. With CI=true nothing may be
# left out: a test whose part is missing fails.
set -uo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
TIMEOUT=${TIMEOUT:-15m}

missing=()
command -v redis-server >/dev/null || missing+=("redis-server: the tests on a real Redis")
docker info >/dev/null 2>&1 || missing+=("a Docker engine: the tests with containers")
command -v npm >/dev/null || missing+=("npm: the GraphQL-over-HTTP audit and the graphql-ws client")
command -v bpftrace >/dev/null || missing+=("bpftrace: the tests of tracing")
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=("PostgreSQL: the tests that trace its queries")
[ "$(id -u)" = 0 ] || missing+=("root: the tests that make cgroups or trace")

# What runs whole processes comes last and one package at a time, so that they do not starve each other. Most of what such
# tests do is waiting, so that several run beside each other. Full counts, and the load tool, are in "make prove".
status=0
# The tests of tracing take longest, most of it waiting, so they begin first.
packages=$($GO list ./... | grep -v '^iapi/tests/')
$GO test -race -timeout "$TIMEOUT" -p 3 $(grep dtrace <<<"$packages") $(grep -v dtrace <<<"$packages") || status=1
$GO test -race -timeout "$TIMEOUT" -p 1 -parallel 4 ./tests/api ./tests/e2e ./tests/faults ./tests/kill ./tests/schema ./tests/yardstick || status=1

if [ ${#missing[@]} -gt 0 ]; then
  echo
  echo "Not on this machine, so left out:"
  printf '  %s\n' "${missing[@]}"
fi
exit $status
