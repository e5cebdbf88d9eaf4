package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

// complete asks what may stand next, without any server.
func complete(t *testing.T, parser *kong.Kong, shell string, words ...string) []string {
	t.Helper()
	var out bytes.Buffer
	c := completeCmd{Shell: shell, Words: words, clientFlags: clientFlags{Server: "http://127.0.0.1:1", DataDir: t.TempDir()}}
	require.NoError(t, c.Run(t.Context(), streams{out: &out}, parser))
	return strings.Fields(out.String())
}

func TestCompletionKnowsCommandsFlagsAndValues(t *testing.T) {
	parser, err := newParser(t.TempDir())
	require.NoError(t, err)
	for _, c := range []struct {
		words []string
		want  []string // all of them, in this order
	}{
		{[]string{"cre"}, []string{"create"}},
		{[]string{"metrics", "l"}, []string{"lint"}},
		{[]string{"list", "-o", ""}, []string{"table", "json", "yaml"}},
		{[]string{"list", "--output", "j"}, []string{"json"}},
		{[]string{"list", "--output="}, []string{"table", "json", "yaml"}},
		{[]string{"list", "--output", "=", "y"}, []string{"yaml"}}, // as bash splits it
		{[]string{"list", "--output", "="}, []string{"table", "json", "yaml"}},
		{[]string{"list", "--state", "d"}, []string{"degraded", "deleting"}},
		{[]string{"list", "--met"}, []string{"--metric"}},
		{[]string{"notify", "--kind", "tag"}, []string{"tags-updated"}},
		{[]string{"create", "cpu.us"}, []string{"cpu.usage"}},
		{[]string{"preview", "--every-host", "cpu.us"}, []string{"cpu.usage"}},
		{[]string{"list", "--metric", "cpu.us"}, []string{"cpu.usage"}},
		{[]string{"metrics", "cpu.us"}, []string{"cpu.usage"}},
		{[]string{"metrics", "show", "cpu.us"}, []string{"cpu.usage"}},
		{[]string{"create", "cpu.usage", "--by", "cpu"}, []string{"cpumode"}},
		{[]string{"create", "--tag", "a", "=", "b", "cpu.usage", "--by", "cpu"}, []string{"cpumode"}},
		{[]string{"create", "--target", "statsd", ":", "//x", "cpu.usage", "--by", "cpu"}, []string{"cpumode"}},
		{[]string{"apply", "-f", ""}, []string{":files"}},
		{[]string{"agent", "--tls-key", "x"}, []string{":files"}},
		{[]string{"completion", "z"}, []string{"zsh"}},
		{[]string{"create", "cpu.usage", "--where", ""}, nil},
		{[]string{"get", ""}, nil}, // no server, no ids
		{[]string{"nonsense", "--x", ""}, nil},
	} {
		require.ElementsMatch(t, c.want, complete(t, parser, "bash", c.words...), c.words)
	}
	for _, hidden := range []string{"complete", "docs"} {
		require.NotContains(t, complete(t, parser, "bash", ""), hidden)
	}
}

func TestCompletionAsksTheServer(t *testing.T) {
	url := answer{
		"List": func(map[string]any) string {
			return `{"data":{"instrumentations":{"nodes":[` + standing + `],"pageInfo":{"hasNextPage":false,"endCursor":null}}}}`
		},
		"Fleet": func(map[string]any) string {
			return `{"data":{"hosts":{"nodes":[{"uuid":"b0910f1d-bf8d-5599-b260-2852684a7e6b","name":"h1"}],"pageInfo":{"hasNextPage":false,"endCursor":null}}}}`
		},
		"Guards": func(map[string]any) string {
			return `{"data":{"guards":[{"id":"sweep-vms","reason":"r: 5 VMs","wouldRemove":5,"since":"2026-01-01T00:00:00.000Z"}]}}`
		},
		"Metrics": func(map[string]any) string {
			return `{"data":{"metrics":[{"name":"own.metric","label":"x","fields":[{"name":"f1","label":"y"}]}]}}`
		},
	}.serve(t)
	server := []string{"--server", url, "--data-dir", t.TempDir()}
	ask := func(shell, command string, words ...string) string {
		t.Helper()
		code, out, errs := runCLI(t, "", append(append([]string{"complete", shell, command}, server...), words...)...)
		require.Zero(t, code, errs)
		return out
	}
	require.Equal(t, "i-1\n", ask("bash", "get", ""))
	require.Equal(t, "i-1\n", ask("bash", "pause", "i-0", ""))
	require.Equal(t, "i-1:cpu.usage web-cpu\n", ask("zsh", "get", ""))
	require.Equal(t, "i-1\tcpu.usage web-cpu\n", ask("fish", "get", ""))
	require.Equal(t, "b0910f1d-bf8d-5599-b260-2852684a7e6b\n", ask("bash", "explain", "i-1", "--host", "b"))
	require.Equal(t, "sweep-vms:r: 5 VMs\n", ask("zsh", "confirm", ""))
	require.Equal(t, "own.metric\n", ask("bash", "create", "own"))
	require.Equal(t, "f1\n", ask("bash", "create", "own.metric", "--by", ""))
	require.Equal(t, "--output=json\n", ask("zsh", "get", "--output=j"))
}
