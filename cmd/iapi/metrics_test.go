package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/catalog"
)

func TestLintSaysWhatIsWrongLineByLine(t *testing.T) {
	own, err := catalog.Embedded()
	require.NoError(t, err)
	good, ok := own.DefinitionOf("cpu.usage")
	require.True(t, ok)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	fine := write("good.yaml", string(good.Document))
	code, out, errs := runCLI(t, "", "metrics", "lint", fine)
	require.Zero(t, code, errs)
	require.Empty(t, out)
	bad := strings.Replace(string(good.Document), "kind: point", "kind: always", 1)
	bad = strings.Replace(bad, "version: ", "version: -", 1)
	code, out, _ = runCLI(t, "", "metrics", "lint", fine, write("bad.yaml", bad))
	require.Equal(t, exitFailed, code)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 2, out)
	require.Contains(t, lines[0], "bad.yaml: version: it starts at 1")
	require.Contains(t, lines[1], "bad.yaml: kind: ")
	code, _, _ = runCLI(t, "", "metrics", "lint", filepath.Join(dir, "none.yaml"))
	require.Equal(t, exitUsage, code)
}

func TestMissingNeedsNoServer(t *testing.T) {
	code, out, errs := runCLI(t, "", "metrics", "--missing", "-o", "json", "--server", "http://127.0.0.1:1")
	require.Zero(t, code, errs)
	var missing []catalog.MissingMetric
	require.NoError(t, json.Unmarshal([]byte(out), &missing))
	require.NotEmpty(t, missing)
	for _, m := range missing {
		require.NotEqual(t, "cpu.loadavg1", m.Name)
		require.NotEmpty(t, m.Why)
	}
	code, _, _ = runCLI(t, "", "metrics", "cpu.usage", "--missing")
	require.Equal(t, exitUsage, code)
}

func TestTheShortFormStillShowsAMetric(t *testing.T) {
	for _, args := range [][]string{{"metrics"}, {"metrics", "cpu.usage"}, {"metrics", "show", "cpu.usage"}, {"metrics", "--module", "cpu"}} {
		code, _, errs := runCLI(t, "", append(args, "--server", "http://127.0.0.1:1")...)
		require.Equal(t, exitUnreachable, code, "%v: %s", args, errs)
	}
}
