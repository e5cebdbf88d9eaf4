#!/usr/bin/env bash
# Runs the tests with what is on this machine, and says what they leave out for want of a part. With CI=true nothing may be
# left out: a test whose part is missing fails.
set -uo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v redis-server >/dev/null || missing+=("redis-server: the tests on a real Redis")
command -v docker >/dev/null && docker info >/dev/null 2>&1 || missing+=("a Docker engine: the tests in containers")
command -v npm >/dev/null || missing+=("npm: the GraphQL-over-HTTP audit and the graphql-ws client")
[ "$(id -u)" = 0 ] || missing+=("root: the tests that make cgroups")

"$@"
status=$?
if [ ${#missing[@]} -gt 0 ]; then
  echo
  echo "Not on this machine, so left out:"
  printf '  %s\n' "${missing[@]}"
fi
exit $status
