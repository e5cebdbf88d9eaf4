package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

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
	for _, format := range []string{"json", "yaml"} {
		code, out, _ = runCLI(t, "", "metrics", "lint", fine, filepath.Join(dir, "bad.yaml"), "-o", format)
		require.Equal(t, exitFailed, code)
		var issues []lintIssue
		if format == "json" {
			require.NoError(t, json.Unmarshal([]byte(out), &issues))
		} else {
			require.NoError(t, yaml.Unmarshal([]byte(out), &issues))
		}
		require.Len(t, issues, 2)
		require.Equal(t, lintIssue{File: filepath.Join(dir, "bad.yaml"), Path: "version", Message: "it starts at 1"}, issues[0])
		code, out, _ = runCLI(t, "", "metrics", "lint", fine, "-o", format)
		require.Zero(t, code)
		require.Equal(t, "[]", strings.TrimSpace(out), "nothing is wrong")
	}
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
		require.NotEmpty(t, m.Why)
		require.NotEmpty(t, m.Places)
		if m.Name == "cpu.loadavg1" && runtime.GOOS == "linux" {
			require.Equal(t, []catalog.Place{catalog.Zone}, m.Places, "the host has one")
			require.False(t, m.Whole)
		}
	}
	code, out, errs = runCLI(t, "", "metrics", "--missing")
	require.Zero(t, code, errs)
	if runtime.GOOS == "linux" {
		require.Regexp(t, `(?m)^cpu\.loadavg1 +zone +all +1-minute load average +the kernel keeps one`, out)
		require.Regexp(t, `(?m)^ldapjs\.ops +host zone +all `, out)
		require.Regexp(t, `(?m)^zfs\.arc_ops +zone +all `, out)
	}
	require.Regexp(t, `\n\d+ of the 77 metrics of Cloud Analytics 1\.0 cannot be had here, and \d+ only of a host or only of a zone\.`, out)
	code, _, _ = runCLI(t, "", "metrics", "cpu.usage", "--missing")
	require.Equal(t, exitUsage, code)
}

func TestTheShortFormStillShowsAMetric(t *testing.T) {
	for _, args := range [][]string{{"metrics"}, {"metrics", "cpu.usage"}, {"metrics", "show", "cpu.usage"}, {"metrics", "--module", "cpu"}} {
		code, _, errs := runCLI(t, "", append(args, "--server", "http://127.0.0.1:1")...)
		require.Equal(t, exitUnreachable, code, "%v: %s", args, errs)
	}
}
