#!/usr/bin/env bash
# Checks that need no running part: formatting, vet, staticcheck, generated code is current, known vulnerabilities.
set -euo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}

say() { printf -- '-- %s\n' "$*"; }

say gofmt
unformatted=$(git ls-files '*.go' | xargs gofmt -l)
if [ -n "$unformatted" ]; then
  printf 'gofmt would change:\n%s\n' "$unformatted" >&2
  exit 1
fi

say go vet
$GO vet ./...

say staticcheck
$GO tool staticcheck ./...

say "builds for illumos (the agent and the client)"
GOOS=illumos GOARCH=amd64 $GO vet ./cmd/iapi ./agent/... ./collectors/... ./targets ./catalog ./identity
program=$(mktemp)
trap 'rm -f "$program"' EXIT
CGO_ENABLED=0 GOOS=illumos GOARCH=amd64 $GO build -o "$program" ./cmd/iapi
$GO run ./tests/illumos "$program"

say "go.mod is tidy"
$GO mod tidy -diff

say "generated code is current"
work=$(mktemp -d)
trap 'rm -rf "$work" "$program"' EXIT
git ls-files -z -co --exclude-standard | xargs -0 cp --parents -t "$work" 2>/dev/null || true
(cd "$work" && $GO generate ./...)
changed=$(git ls-files -co --exclude-standard '*.go' '*.json' '*.graphql' '*.md' | while read -r f; do
  if [ -f "$f" ] && ! cmp -s "$f" "$work/$f"; then echo "$f"; fi
done)
if [ -n "$changed" ]; then
  printf 'go generate would change:\n%s\n' "$changed" >&2
  exit 1
fi

say govulncheck
if output=$($GO tool govulncheck ./... 2>&1); then
  echo "$output" | tail -n 1
elif grep -qE 'vulnerabilit(y|ies) from|Vulnerability #' <<<"$output"; then
  echo "$output" >&2
  exit 1
else
  echo "left out: the vulnerability database cannot be reached"
fi
