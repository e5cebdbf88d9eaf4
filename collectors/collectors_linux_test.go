package collectors_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors"
	"iapi/collectors/internal/cgrouptest"
	"iapi/collectors/zone"
	"iapi/measure"
)

// embedded parses the definitions once for all tests.
var embeddedOnce = sync.OnceValues(catalog.Embedded)

func embedded(t testing.TB) *catalog.Catalog {
	t.Helper()
	c, err := embeddedOnce()
	require.NoError(t, err)
	return c
}

func definition(t testing.TB, name string) *catalog.Definition {
	t.Helper()
	d, found := embedded(t).DefinitionOf(name)
	require.True(t, found, name)
	return d
}

// hostTicks reads the first line of /proc/stat by itself.
func hostTicks(t testing.TB) (user, kernel float64, at time.Time) {
	t.Helper()
	text, err := os.ReadFile("/proc/stat")
	require.NoError(t, err)
	at = time.Now()
	line, _, _ := strings.Cut(string(text), "\n")
	words := strings.Fields(line)
	column := func(i int) float64 {
		n, err := strconv.ParseFloat(words[i], 64)
		require.NoError(t, err)
		return n
	}
	return column(1) + column(2), column(3) + column(6) + column(7), at
}

func byField(samples []collectors.Sample, field string) map[string]float64 {
	out := map[string]float64{}
	for _, s := range samples {
		for _, f := range s.Fields {
			if f.Name == field {
				out[f.Value] += s.Value
			}
		}
	}
	return out
}

func TestCPUUsageOfTheHostAgreesWithProcStat(t *testing.T) {
	p, err := collectors.New(collectors.Options{}).Open(t.Context(), collectors.Request{
		ID: "host", Definition: definition(t, "cpu.usage"), Decompositions: []string{"cpumode"}, WholeHost: true,
	})
	require.NoError(t, err)
	defer p.Close()
	u0, k0, t0 := hostTicks(t)
	first, err := p.Collect(t.Context(), t0)
	require.NoError(t, err)
	require.True(t, first.Primed)
	require.Empty(t, first.Samples)
	spin(600 * time.Millisecond)
	u1, k1, t1 := hostTicks(t)
	result, err := p.Collect(t.Context(), t1)
	require.NoError(t, err)
	got := byField(result.Samples, "cpumode")
	seconds := t1.Sub(t0).Seconds()
	require.InDelta(t, (u1-u0)/seconds, got["user"], 12) // a few ticks of 10 ms between the two readings
	require.InDelta(t, (k1-k0)/seconds, got["kernel"], 12)
	require.Greater(t, got["user"], 40.0, "this test itself was busy")
}

func spin(d time.Duration) {
	x := 1.0
	for end := time.Now().Add(d); time.Now().Before(end); {
		for range 100_000 {
			x = math.Sqrt(x + 1)
		}
	}
}

// containers makes a resolver that knows the real cgroups of a test.
func resolver(t testing.TB) *zone.Resolver {
	t.Helper()
	r, err := zone.New(zone.Options{Sockets: []string{}, Run: t.TempDir()})
	require.NoError(t, err)
	require.NoError(t, r.Refresh(t.Context()))
	return r
}

func idOf(c *cgrouptest.Container) uuid.UUID { return uuid.NewSHA1(zone.Namespace, []byte(c.ID)) }

func TestRealContainersAreMeasuredEachByItself(t *testing.T) {
	busy, idle := cgrouptest.NewContainer(t), cgrouptest.NewContainer(t)
	busy.Run(t, "while :; do :; done")
	idle.Run(t, "sleep 600 & sleep 600 & wait")
	zones := resolver(t)
	registry := collectors.New(collectors.Options{Zones: zones, Hostname: "here"})
	open := func(metric string, by ...string) collectors.Probe {
		p, err := registry.Open(t.Context(), collectors.Request{
			ID: metric, Definition: definition(t, metric), Decompositions: by, Zones: []uuid.UUID{idOf(busy), idOf(idle)}, Owner: uuid.New(),
		})
		require.NoError(t, err, metric)
		t.Cleanup(func() { p.Close() })
		result, err := p.Collect(t.Context(), time.Now())
		require.NoError(t, err, metric)
		require.Empty(t, result.Failures, metric)
		return p
	}
	collect := func(p collectors.Probe) map[uuid.UUID]float64 {
		result, err := p.Collect(t.Context(), time.Now())
		require.NoError(t, err)
		require.Empty(t, result.Failures)
		out := map[uuid.UUID]float64{}
		for _, s := range result.Samples {
			out[s.Zone] += s.Value
		}
		return out
	}
	usage, rss, processes := open("cpu.usage"), open("memory.rss"), open("unix.processes")
	names := open("unix.processes", "execname")

	var cpu map[uuid.UUID]float64
	require.Eventually(t, func() bool { // the idle one has started its processes in the first interval
		cpu = collect(usage)
		return cpu[idOf(busy)] > 20 && cpu[idOf(idle)] < 5
	}, time.Minute, 300*time.Millisecond)
	require.Len(t, cpu, 2)
	memory := collect(rss)
	require.Len(t, memory, 2)
	require.Contains(t, memory, idOf(busy))
	require.Eventually(t, func() bool { n := collect(processes); return n[idOf(busy)] == 1 && n[idOf(idle)] == 3 }, time.Minute, 200*time.Millisecond)
	require.Eventually(t, func() bool {
		result, err := names.Collect(t.Context(), time.Now())
		require.NoError(t, err)
		return byField(result.Samples, "execname")["sleep"] == 2
	}, time.Minute, 200*time.Millisecond)
}

func TestEveryMetricThatWorksHereGivesData(t *testing.T) {
	c := cgrouptest.NewContainer(t)
	c.Run(t, "while :; do :; done")
	zones := resolver(t)
	registry := collectors.New(collectors.Options{Zones: zones, Hostname: "here"})
	measured := map[string]bool{}
	for _, m := range embedded(t).Metrics() {
		for _, host := range []bool{true, false} {
			combinations := [][]string{nil}
			for _, f := range m.Fields {
				combinations = append(combinations, []string{f.Name})
			}
			for _, by := range combinations {
				q := collectors.Request{ID: m.Name, Definition: definition(t, m.Name), Decompositions: by, WholeHost: host, Zones: []uuid.UUID{idOf(c)}}
				p, err := registry.Open(t.Context(), q)
				if err != nil {
					refusal, isOne := err.(*collectors.Error)
					require.True(t, isOne, "%s by %v: %v", m.Name, by, err)
					require.Equal(t, collectors.Unsupported, refusal.Code, "%s by %v: %v", m.Name, by, err)
					continue
				}
				collectTwice(t, p, m, by)
				measured[m.Name] = true
				require.NoError(t, p.Close())
			}
		}
	}
	for _, name := range []string{
		"cpu.cpus", "cpu.loadavg1", "cpu.usage", "disk.disks", "disk.physio_bytes", "disk.physio_ops", "memory.rss", "nic.bytes",
		"nic.nics", "nic.packets", "tcp.segments", "tcp.errors", "unix.processes",
	} {
		require.True(t, measured[name], name)
	}
}

func collectTwice(t *testing.T, p collectors.Probe, m *catalog.Metric, by []string) {
	t.Helper()
	for i := range 2 {
		result, err := p.Collect(t.Context(), time.Now())
		if err != nil {
			refusal, isOne := err.(*collectors.Error)
			require.True(t, isOne && refusal.Code == collectors.Unsupported, "%s by %v: %v", m.Name, by, err)
			return
		}
		for _, f := range result.Failures {
			require.Equal(t, collectors.Unsupported, f.Code, "%s by %v: %s", m.Name, by, f.Message)
		}
		require.Equal(t, i == 0, result.Primed)
		for _, s := range result.Samples {
			require.False(t, math.IsNaN(s.Value) || math.IsInf(s.Value, 0), "%s by %v", m.Name, by)
			require.GreaterOrEqual(t, s.Value, 0.0, "%s by %v", m.Name, by)
			if len(by) == 0 {
				require.Empty(t, s.Fields)
				continue
			}
			f, _ := m.Field(by[0])
			if f.Arity == catalog.Numeric {
				require.NotNil(t, s.Distribution)
				require.EqualValues(t, s.Value, s.Distribution.Count(), "%s by %v", m.Name, by)
			} else if !s.Other {
				require.Len(t, s.Fields, 1)
				require.Equal(t, by[0], s.Fields[0].Name)
			}
		}
	}
}

// recorded is a machine with the v2 tree only, as a distribution of today has it.
func recorded(t *testing.T, id string) (collectors.Options, func(user, pgsteal int)) {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "system.slice/docker-"+id+".scope")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte("cpu io memory pids\n"), 0o644))
	write("cgroup.procs", "")
	write("memory.max", "1048576\n")
	write("memory.current", "524288\n")
	write("memory.swap.current", "4096\n")
	write("memory.swap.max", "max\n")
	write("io.stat", "8:0 rbytes=0 wbytes=0 rios=0 wios=0 dbytes=0 dios=0\n")
	change := func(user, pgsteal int) {
		write("cpu.stat", fmt.Sprintf("usage_usec %d\nuser_usec %d\nsystem_usec 0\n", user, user))
		write("memory.stat", fmt.Sprintf("anon 1000\nfile 5000\nfile_mapped 24\npgsteal %d\npgmajfault %d\n", pgsteal, pgsteal))
	}
	change(0, 0)
	zones, err := zone.New(zone.Options{Cgroup: root, Sockets: []string{}, Run: t.TempDir(), Proc: t.TempDir()})
	require.NoError(t, err)
	require.NoError(t, zones.Refresh(t.Context()))
	return collectors.Options{Cgroup: root, Zones: zones}, change
}

func TestAMachineWithTheV2TreeOnly(t *testing.T) {
	id := cgrouptest.RandomID()
	o, change := recorded(t, id)
	registry := collectors.New(o)
	vm := uuid.NewSHA1(zone.Namespace, []byte(id))
	metrics := []string{"cpu.usage", "memory.rss", "memory.rss_limit", "memory.swap", "memory.swap_limit", "memory.reclaimed_bytes", "memory.pageins", "disk.physio_bytes"}
	probes := map[string]collectors.Probe{}
	for _, m := range metrics {
		p, err := registry.Open(t.Context(), collectors.Request{ID: m, Definition: definition(t, m), Zones: []uuid.UUID{vm}})
		require.NoError(t, err, m)
		defer p.Close()
		probes[m] = p
		_, err = p.Collect(t.Context(), time.Now())
		require.NoError(t, err)
	}
	change(1_000_000, 3)
	got := map[string]float64{}
	for m, p := range probes {
		r, err := p.Collect(t.Context(), time.Now())
		require.NoError(t, err)
		require.Empty(t, r.Failures, m)
		for _, s := range r.Samples {
			require.Equal(t, vm, s.Zone)
			got[m] += s.Value
		}
	}
	require.Greater(t, got["cpu.usage"], 100.0, "a second of CPU in much less than one")
	delete(got, "cpu.usage")
	require.Equal(t, map[string]float64{
		"memory.rss": 1024, "memory.rss_limit": 1 << 20, "memory.swap": 4096, "memory.reclaimed_bytes": float64(3 * os.Getpagesize()),
		"memory.pageins": 3, "disk.physio_bytes": 0,
	}, got, "no limit of swap is no value")
}

func TestUnsupportedSaysWhyForEachVariant(t *testing.T) {
	_, err := collectors.New(collectors.Options{}).Open(t.Context(), collectors.Request{
		ID: "x", Definition: definition(t, "cpu.loadavg1"), Zones: []uuid.UUID{uuid.New()},
	})
	refusal, isOne := err.(*collectors.Error)
	require.True(t, isOne)
	require.Equal(t, collectors.Unsupported, refusal.Code)
	require.Contains(t, refusal.Message, "linux-loadavg: ")
	require.Contains(t, refusal.Message, "illumos-zones: ")
}

func TestTenantsAreDeniedWhatIsForOperators(t *testing.T) {
	registry := collectors.New(collectors.Options{})
	tenant := uuid.New()
	for name, q := range map[string]collectors.Request{
		"whole host":     {Definition: definition(t, "cpu.usage"), WholeHost: true},
		"metric":         {Definition: definition(t, "disk.disks")},
		"decomposition":  {Definition: definition(t, "cpu.usage"), Decompositions: []string{"hostname"}},
		"in a predicate": {Definition: definition(t, "cpu.usage"), Predicate: measure.Predicate{Op: measure.Eq, Field: "hostname", Value: measure.String("x")}},
	} {
		q.Owner = tenant
		_, err := registry.Open(context.Background(), q)
		refusal, isOne := err.(*collectors.Error)
		require.True(t, isOne, name)
		require.Equal(t, collectors.Denied, refusal.Code, name)
	}
}
