package dtrace

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors/collect"
)

// probesOf builds a program that has the probes of MySQL, Node.js and Apache's httpd, and gives its path.
func probesOf(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "usdt")
	out, err := exec.Command("cc", "-O1", "-o", path, "testdata/usdt/usdt.c").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// at is a definition with its first variant for a program's own probes, which are those of the program at the path.
func at(t *testing.T, metric, path string) (*catalog.Definition, *catalog.Variant) {
	t.Helper()
	d := definition(t, metric)
	v := variant(t, d, true)
	binary, _, _ := strings.Cut(v.When.USDT[0], ":")
	for i, name := range v.When.USDT {
		v.When.USDT[i] = strings.Replace(name, binary, path, 1)
		require.True(t, collect.HasUSDT(v.When.USDT[i]), v.When.USDT[i])
	}
	for _, c := range v.Source.Bpftrace.Clauses {
		for i, probe := range c.Probes {
			c.Probes[i] = strings.Replace(probe, binary, path, 1)
		}
	}
	return d, v
}

// The definitions for programs that bring probes along count exactly what a program does that has the same ones.
func TestProbesOfPrograms(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	path := probesOf(t)
	cases := []struct {
		metric, predicate string
		by                []string
		want              map[string]float64
		buckets           map[string]int64
		probe             collect.Probe
	}{
		{metric: "mysql.queries", predicate: `{"and":[{"eq":["client","client.example"]},{"or":[{"eq":["database","shop"]},{"eq":["querysubstr","INSERT"]}]}]}`, by: []string{"user", "status", "cputime"}, want: map[string]float64{"alice|0": 2, "bob|1": 1}},
		{metric: "mysql.commands", predicate: `{"ge":["latency",0]}`, by: []string{"command", "user"}, want: map[string]float64{"query|alice": 2, "query|bob": 1, "ping|bob": 1}},
		{metric: "mysql.connections", predicate: `{"eq":["client","client.example"]}`, by: []string{"user", "latency"}, want: map[string]float64{"alice": 1}},
		{metric: "mysql.filesort", predicate: `{"eq":["table","items"]}`, by: []string{"database", "latency"}, want: map[string]float64{"shop": 2, "stock": 1}},
		{
			metric: "mysql.statements", predicate: `{"or":[{"ge":["rowsmatched",2]},{"eq":["status","1"]}]}`, by: []string{"statement", "rowschanged"},
			want:    map[string]float64{"select": 1, "insert": 1, "insert-select": 1, "update": 1, "multi-update": 1, "delete": 1},
			buckets: map[string]int64{"select[0,0]": 1, "insert[6,6]": 1, "insert-select[0,0]": 1, "update[3,3]": 1, "multi-update[4,4]": 1, "delete[2,2]": 1},
		},
		{metric: "node.gc_ops", predicate: `{"gt":["latency",900000]}`, by: []string{"gctype", "execname", "latency"}, want: map[string]float64{"scavenge|usdt": 4, "mark and sweep|usdt": 1}},
		{metric: "apache.httpd_ops", predicate: `{"and":[{"gt":["latency",900000]},{"eq":["http_method","GET"]},{"ne":["http_path","/a?b"]}]}`, by: []string{"http_path", "latency"}, want: map[string]float64{"/": 2}},
	}
	for i, c := range cases {
		d, v := at(t, c.metric, path)
		p, err := e.Open(t.Context(), wish(d, c.predicate, c.by...), v)
		require.NoError(t, err, c.metric)
		t.Cleanup(func() { require.NoError(t, p.Close()) })
		_, err = p.Collect(t.Context(), time.Now())
		require.NoError(t, err)
		cases[i].probe = p
	}
	for _, program := range []string{"mysql", "node", "apache"} {
		out, err := exec.Command(path, program).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	for _, c := range cases {
		sum := drained(t, c.probe)
		require.Zero(t, sum.other, c.metric)
		if c.buckets != nil {
			require.Equal(t, c.buckets, sum.buckets, c.metric)
		}
		require.Equal(t, c.want, sum.sums, c.metric)
	}
}
