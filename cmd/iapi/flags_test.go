package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

func TestValuesThatMeanNothingAreRefusedAndTheFlagNamed(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"worker", "--guard-share=0"}, `--guard-share: "0" is not a share: want more than 0`},
		{[]string{"worker", "--guard-share=1.5"}, "--guard-share:"},
		{[]string{"worker", "--guard-share=NaN"}, "--guard-share:"},
		{[]string{"worker", "--concurrency=0"}, "--concurrency: 0 is too little"},
		{[]string{"worker", "--sweep-every=0s"}, "--sweep-every: 0s is too short"},
		{[]string{"worker", "--sweep-every=-1m"}, "--sweep-every:"},
		{[]string{"worker", "--delta-every=-1m"}, "--delta-every:"},
		{[]string{"api", "--rate=-1"}, "--rate:"},
		{[]string{"api", "--rate-burst=0"}, "--rate-burst:"},
		{[]string{"api", "--admit=-1"}, "--admit:"},
		{[]string{"api", "--drain=0s"}, "--drain:"},
		{[]string{"api", "--max-tags=0"}, "--max-tags:"},
		{[]string{"api", "--max-tags=99999999999"}, "--max-tags:"},
		{[]string{"api", "--tracing-ttl=100ms"}, "--tracing-ttl:"},
		{[]string{"dev", "--max-targets=-1"}, "--max-targets:"},
		{[]string{"dev", "--tracing-ttl=2h", "--max-tracing-ttl=1h"}, "--tracing-ttl 2h is more than --max-tracing-ttl 1h"},
		{[]string{"dev", "--max-predicate-depth=99"}, "--max-predicate-depth: agents take"},
		{[]string{"dev", "--default-target=ftp://x"}, "--default-target:"},
		{[]string{"dev", "--listen=127.0.0.1:0", "--redis=nonsense"}, "--redis:"},
		{[]string{"vmapi", "--feed-latency=0s"}, "--feed-latency:"},
		{[]string{"list", "--limit=-1"}, "--limit: -1 is too little"},
		{[]string{"list", "--timeout=0s"}, "--timeout:"},
		{[]string{"list", "--state=gone"}, "--state:"},
		{[]string{"list", "--owner=me"}, `--owner: "me" is not a uuid`},
		{[]string{"list", "--server=here"}, "--server"},
		{[]string{"create", "cpu.usage", "--every-host", "--ttl=0s"}, "--ttl: 0s"},
		{[]string{"create", "cpu.usage", "--every-host", "--granularity=1000000h"}, "--granularity: 1000000h0m0s is too long"},
		{[]string{"create", "cpu.usage", "--every-host", "--header=a=b"}, "--header goes with"},
		{[]string{"join", "930896af-bf8c-48d4-885c-6573a94b1853", "--ttl=soon"}, `--ttl: "soon" is not a time`},
		{[]string{"update", "i-x"}, "say what to change"},
		{[]string{"delete"}, "give ids, or a filter"},
		{[]string{"delete", "--text=x"}, "--expect is missing"},
		{[]string{"delete", "i-x", "--expect=1"}, "--expect goes with a filter"},
		{[]string{"preview", "--every-host", "--show=501"}, "--show 501"},
	} {
		if c.args[0] == "api" || c.args[0] == "worker" {
			c.args = append(c.args, "--redis=redis://127.0.0.1:1", "--vmapi=http://127.0.0.1:1")
		}
		if c.args[0] == "dev" {
			c.args = append(c.args, "--data-dir="+t.TempDir())
		}
		code, _, errs := runCLI(t, "", c.args...)
		require.Equal(t, exitUsage, code, "%v: %s", c.args, errs)
		require.Contains(t, errs, c.want, c.args)
	}
}

func TestAVariableOfTheEnvironmentIsCheckedLikeItsFlag(t *testing.T) {
	t.Setenv("IAPI_LIMIT", "-3")
	code, _, errs := runCLI(t, "", "list", "--server", "http://127.0.0.1:1")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "-3 is too little")
	require.Contains(t, errs, "IAPI_LIMIT")
}

func TestDurationsAreShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", 90 * time.Second: "1m30s", time.Minute: "1m", time.Hour: "1h", 24 * time.Hour: "24h",
		time.Hour + 5*time.Second: "1h0m5s", 90 * time.Minute: "1h30m", 10 * time.Minute: "10m", 100 * time.Second: "1m40s",
	} {
		require.Equal(t, want, shortDuration(d))
		back, err := time.ParseDuration(want)
		require.NoError(t, err)
		require.Equal(t, d, back)
	}
}

// leaves are all commands that can be run.
func leaves(t *testing.T) []*kong.Node {
	t.Helper()
	parser, err := newParser(t.TempDir())
	require.NoError(t, err)
	return parser.Model.Leaves(true)
}

func TestEveryClientCommandHasExamplesThatParse(t *testing.T) {
	examples := 0
	for _, node := range leaves(t) {
		if g := node.ClosestGroup(); g == nil || (g.Key != "client" && g.Key != "operator") || node.Parent.Name == "metrics" {
			continue
		}
		found := 0
		for _, l := range strings.Split(node.Detail, "\n") {
			if !strings.HasPrefix(l, "  iapi ") {
				continue
			}
			found++
			parser, err := newParser(t.TempDir()) // one for each: what was given stays in it
			require.NoError(t, err)
			_, err = parser.Parse(shellWords(strings.TrimPrefix(l, "  iapi ")))
			require.NoError(t, err, l)
		}
		require.NotZero(t, found, "%s has no example in its help", node.Name)
		examples += found
	}
	require.Greater(t, examples, 40)
}

// shellWords splits a line as a shell does, where it has single and double quotes and a redirection at most.
func shellWords(line string) []string {
	line, _, _ = strings.Cut(line, " < ")
	var words []string
	var word strings.Builder
	quote := rune(0)
	for _, r := range line + " " {
		switch {
		case quote == 0 && (r == '\'' || r == '"'):
			quote = r
		case r == quote && quote != 0:
			quote = 0
		case r == ' ' && quote == 0:
			words = append(words, word.String())
			word.Reset()
		default:
			word.WriteRune(r)
		}
	}
	return words
}

func TestTheReferenceNamesEveryCommandAndFlag(t *testing.T) {
	code, page, errs := runCLI(t, "", "docs")
	require.Zero(t, code, errs)
	home, err := os.UserHomeDir()
	require.NoError(t, err)
	require.NotContains(t, page, home+"/", "it must be the same wherever it is made")
	for _, node := range leaves(t) {
		require.Contains(t, page, "\n## "+commandPath(node)+"\n")
		for _, flags := range node.AllFlags(true) {
			for _, f := range flags {
				if f.Name != "help" {
					require.True(t, strings.Contains(page, "--"+f.Name) || strings.Contains(page, "--[no-]"+f.Name), f.Name)
				}
			}
		}
	}
	path := t.TempDir() + "/commands.md"
	code, out, errs := runCLI(t, "", "docs", path)
	require.Zero(t, code, errs)
	require.Empty(t, out)
	written, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, page, string(written))
	require.False(t, bytes.Contains(written, []byte("${")), "an unresolved variable")
}
