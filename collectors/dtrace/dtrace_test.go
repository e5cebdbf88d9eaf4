package dtrace

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/collectors/zone"
)

// fakeDTrace prints what DTrace would for the first zone that it finds in its program, and keeps the program.
const fakeDTrace = `#!/bin/sh
[ "$1 $2 $3" = "-q -Z -s" ] || { echo "dtrace: wrong arguments: $*" >&2; exit 2; }
cat "$4" > %[1]s/program.d
zone=$(grep -o 'zonename == "[0-9a-f-]*"' "$4" | head -n 1 | cut -d '"' -f 2)
if grep -q refuse-me "$4"; then echo 'dtrace: failed to compile script: line 9: probe description does not match any probes' >&2; exit 1; fi
printf 'S\n'
while :; do
  printf 'B\t%%d\nN\t%%s\t7\nR\t%%s\t1100\tcaf\\303\\251\t4\nR\t%%s\t0\ta\\tb\t2\nE\n' "$(date +%%s)" "$zone" "$zone" "$zone"
  sleep 0.2
done
`

// fixedZones knows zones by name of their cgroups.
type fixedZones struct {
	mu    sync.Mutex
	zones map[uuid.UUID]zone.Zone
}

func (f *fixedZones) Lookup(id uuid.UUID) (zone.Zone, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	z, found := f.zones[id]
	return z, found
}

func (f *fixedZones) put(z zone.Zone) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.zones == nil {
		f.zones = map[uuid.UUID]zone.Zone{}
	}
	f.zones[z.UUID] = z
}

func TestDTraceIsDriven(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "dtrace")
	require.NoError(t, os.WriteFile(script, fmt.Appendf(nil, fakeDTrace, dir), 0o700))
	zones := &fixedZones{}
	a, b := uuid.New(), uuid.New()
	zones.put(zone.Zone{UUID: a, State: zone.Running})
	zones.put(zone.Zone{UUID: b, State: zone.Running})
	e, err := New(Options{DTrace: script, Zones: zones})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	d := definition(t, "syscall.syscalls")
	v := variant(t, d, false)
	opened, err := e.Open(t.Context(), collect.Request{Definition: d, Decompositions: []string{"execname", "latency"}, Zones: []uuid.UUID{a}}, v)
	require.NoError(t, err)
	p := opened.(*probe)
	program, err := os.ReadFile(filepath.Join(dir, "program.d"))
	require.NoError(t, err)
	require.Contains(t, string(program), `(zonename == "`+a.String()+`")`)

	collected := func(id uuid.UUID) {
		t.Helper()
		_, err := p.Collect(t.Context(), time.Now())
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			res, err := p.Collect(t.Context(), time.Now().Truncate(time.Second).Add(time.Second))
			require.NoError(t, err)
			for _, s := range res.Samples {
				require.Equal(t, id, s.Zone)
			}
			if len(res.Samples) != 3 {
				return false
			}
			require.Equal(t, "café", res.Samples[0].Fields[0].Value)
			require.Equal(t, 2*res.Samples[1].Value, res.Samples[0].Value)
			require.Equal(t, "a\tb", res.Samples[1].Fields[0].Value)
			require.Equal(t, int64(1100), res.Samples[0].Distribution.Buckets[0].Low)
			require.True(t, res.Samples[2].Other)
			require.Equal(t, res.Samples[0].Value, 4*res.Samples[2].Value, "what the rows lack of the total")
			return true
		}, time.Minute, time.Millisecond)
	}
	collected(a)

	first := p.run.proc.pid
	require.NoError(t, p.SetZones(t.Context(), []uuid.UUID{b}))
	require.NotEqual(t, first, p.run.proc.pid, "the zones are in the text")
	collected(b)
	require.NoError(t, p.Close())
	require.Empty(t, e.alive)

	refused := d
	refused.Variants[len(d.Variants)-1].Source.DTrace.Clauses[0].Probes = []string{"refuse-me"}
	_, err = e.Open(t.Context(), collect.Request{Definition: refused, Decompositions: []string{"latency"}, WholeHost: true}, v)
	require.Equal(t, collect.Unsupported, collect.Refusal(err).Code, "%v", err)
	require.ErrorContains(t, err, "does not match any probes")
}

func TestDevicesAreNamedBySysfs(t *testing.T) {
	sys := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(sys, "class/block/sdb"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(sys, "dev/block"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(sys, "class/block/sdb/dev"), []byte("8:16\n"), 0o644))
	require.NoError(t, os.Symlink("../../devices/x/block/sdb", filepath.Join(sys, "dev/block/8:16")))
	d := devices{sys}
	n, found := d.Number("sdb")
	require.True(t, found)
	require.Equal(t, uint64(8<<20|16), n)
	name, found := d.Name(n)
	require.True(t, found)
	require.Equal(t, "sdb", name)
	for _, bad := range []string{"", "sda", "../sdb", "."} {
		_, found := d.Number(bad)
		require.False(t, found, bad)
	}
	_, found = d.Name(1)
	require.False(t, found)
}

func TestQuarantineEndsByItself(t *testing.T) {
	dir := t.TempDir()
	quiet := slog.New(slog.DiscardHandler)
	q, err := openQuarantine(dir, time.Hour, quiet)
	require.NoError(t, err)
	require.NoError(t, q.put("one", "too much"))
	q.term = -time.Second
	require.NoError(t, q.put("two", "long ago"))
	again, err := openQuarantine(dir, time.Hour, quiet)
	require.NoError(t, err)
	_, reason, held := again.held("one")
	require.True(t, held)
	require.Equal(t, "too much", reason)
	_, _, held = again.held("two")
	require.False(t, held)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

// What is held is what was traced, with its budget, for its owner: no other name, label, version or comment frees it.
func TestQuarantineKnowsADefinitionByWhatItTraces(t *testing.T) {
	owner := uuid.New()
	of := func(owner uuid.UUID, changes ...string) string {
		d := definition(t, "syscall.syscalls", changes...)
		name, err := convict(d, variant(t, d, true), owner)
		require.NoError(t, err)
		return name
	}
	first := of(owner)
	for _, same := range [][]string{
		{"stat: syscalls", "stat: calls"}, {"label: system calls", "label: calls"}, {"max_keys: ", "max_keys: 1"}, {"schema:", "# a comment\nschema:"},
		{"max_runtime_s: 3600", "max_runtime_s: 3601"},
	} {
		require.Equal(t, first, of(owner, same...), same)
	}
	for _, other := range [][]string{{"expr: comm", "expr: curtask->comm"}, {"cpu_budget_pct: 2.0", "cpu_budget_pct: 4.0"}} {
		require.NotEqual(t, first, of(owner, other...), other)
	}
	require.NotEqual(t, first, of(uuid.New()), "another's wish is another program")
	require.NotEqual(t, first, of(uuid.Nil))
}

func TestADamagedQuarantineIsPutAside(t *testing.T) {
	for _, damage := range []string{"{", "", "null", `["x"]`, "\x00\x00"} {
		dir := t.TempDir()
		path := filepath.Join(dir, quarantineFile)
		require.NoError(t, os.WriteFile(path, []byte(damage), 0o600))
		e, err := New(Options{Dir: dir})
		require.NoError(t, err, "what is not traced is measured all the same")
		kept, err := os.ReadFile(path + ".damaged")
		require.NoError(t, err)
		require.Equal(t, damage, string(kept))
		require.NoError(t, e.quarantine.put("one", "too much"))
		require.NoError(t, e.Close())
		again, err := openQuarantine(dir, time.Hour, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		_, _, held := again.held("one")
		require.True(t, held)
	}
}

// Nobody keeps the others from tracing: one tenant has at most half of the programs, and one is kept for operators.
func TestEveryoneHasRoomToTrace(t *testing.T) {
	a, b := uuid.New(), uuid.New()
	for _, c := range []struct {
		most               int
		operators, as, bs  int
		operator, ofA, ofB bool
	}{
		{8, 0, 0, 0, true, true, true},
		{8, 0, 3, 0, true, true, true},
		{8, 0, 4, 0, true, false, true},
		{8, 0, 4, 3, true, false, false},
		{8, 4, 3, 0, true, true, true},
		{8, 8, 0, 0, false, false, false},
		{8, 5, 3, 0, false, false, false},
		{2, 0, 1, 0, true, false, false},
		{2, 1, 0, 0, true, true, true},
		{1, 0, 0, 0, true, true, true},
		{1, 0, 1, 0, false, false, false},
	} {
		e := &Engine{opts: Options{MaxPrograms: c.most}, alive: map[uuid.UUID]int{uuid.Nil: c.operators, a: c.as, b: c.bs}}
		for owner, want := range map[uuid.UUID]bool{uuid.Nil: c.operator, a: c.ofA, b: c.ofB} {
			err := e.room(owner)
			require.Equal(t, want, err == nil, "%+v %s: %v", c, owner, err)
			if err != nil {
				require.Equal(t, collect.OverBudget, collect.Refusal(err).Code)
			}
		}
	}
}

func TestOnlyThePlatformsTracerIsOffered(t *testing.T) {
	e, err := New(Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	require.Equal(t, runtime.GOOS == "illumos", e.opts.DTrace != "")
	require.NoError(t, e.Close(), "closing twice is no error")
	_, err = e.acquire(t.Context(), &probe{engine: e, request: collect.Request{Definition: definition(t, "syscall.syscalls"), WholeHost: true}, variant: variantIn(t, true)})
	require.ErrorContains(t, err, "ended tracing")
}

func variantIn(t *testing.T, bpftrace bool) *catalog.Variant {
	return variant(t, definition(t, "syscall.syscalls"), bpftrace)
}
