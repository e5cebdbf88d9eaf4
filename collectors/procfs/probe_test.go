package procfs_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/collectors/procfs"
	"iapi/collectors/zone"
	"iapi/measure"
)

// known is a resolver whose zones a test sets.
type known map[uuid.UUID]zone.Zone

func (k known) Lookup(id uuid.UUID) (zone.Zone, bool) { z, found := k[id]; return z, found }

func definition(t testing.TB, metric string) *catalog.Definition {
	t.Helper()
	c, err := catalog.Embedded()
	require.NoError(t, err)
	d, found := c.DefinitionOf(metric)
	require.True(t, found)
	return d
}

func open(t testing.TB, e *procfs.Engine, r collect.Request, variant string) collect.Probe {
	t.Helper()
	for i := range r.Definition.Variants {
		if v := &r.Definition.Variants[i]; v.ID == variant {
			p, err := e.Open(t.Context(), r, v)
			require.NoError(t, err)
			t.Cleanup(func() { p.Close() })
			return p
		}
	}
	t.Fatalf("there is no variant %s", variant)
	return nil
}

func collectOnce(t testing.TB, p collect.Probe) collect.Result {
	t.Helper()
	r, err := p.Collect(t.Context(), time.Now())
	require.NoError(t, err)
	return r
}

func put(t testing.TB, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
}

// zoneIn makes a running zone with a v2 cgroup below root.
func zoneIn(t testing.TB, root, path string) zone.Zone {
	t.Helper()
	dir := filepath.Join(root, path)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	return zone.Zone{UUID: uuid.New(), State: zone.Running, Cgroups: zone.Cgroups{Unified: dir, Path: path}}
}

func cpuStat(user, system int) string {
	return fmt.Sprintf("usage_usec %d\nuser_usec %d\nsystem_usec %d\n", user+system, user, system)
}

func values(r collect.Result) map[uuid.UUID]float64 {
	out := map[uuid.UUID]float64{}
	for _, s := range r.Samples {
		out[s.Zone] += s.Value
	}
	return out
}

func TestOnlyTheZonesOfTheRequestAreMeasured(t *testing.T) {
	root := t.TempDir()
	a, b, c := zoneIn(t, root, "/docker/a"), zoneIn(t, root, "/docker/b"), zoneIn(t, root, "/docker/c")
	zones := known{a.UUID: a, b.UUID: b, c.UUID: c}
	for _, z := range zones {
		put(t, z.Cgroups.Unified+"/memory.max", "1000\n")
	}
	e := procfs.New(procfs.Options{Cgroup: root, Zones: zones})
	limit := definition(t, "memory.rss_limit")

	p := open(t, e, collect.Request{Definition: limit, Zones: []uuid.UUID{a.UUID, b.UUID, a.UUID, uuid.Nil}}, "linux-cgroup2")
	first := collectOnce(t, p)
	require.True(t, first.Primed)
	require.Empty(t, first.Samples)
	require.Equal(t, map[uuid.UUID]float64{a.UUID: 1000, b.UUID: 1000}, values(collectOnce(t, p)))

	put(t, a.Cgroups.Unified+"/memory.max", "max\n")
	require.Equal(t, map[uuid.UUID]float64{b.UUID: 1000}, values(collectOnce(t, p)), "no limit is no value")

	require.NoError(t, p.SetZones(t.Context(), []uuid.UUID{c.UUID}))
	require.Equal(t, map[uuid.UUID]float64{c.UUID: 1000}, values(collectOnce(t, p)))
	require.NoError(t, p.SetZones(t.Context(), nil))
	require.Empty(t, collectOnce(t, p).Samples)

	none := open(t, e, collect.Request{Definition: limit}, "linux-cgroup2")
	collectOnce(t, none)
	require.Empty(t, collectOnce(t, none).Samples, "an empty list means nothing")

	require.NoError(t, none.Close())
	_, err := none.Collect(t.Context(), time.Now())
	require.Error(t, err)
}

func TestZonesThatStayKeepTheirHistory(t *testing.T) {
	root := t.TempDir()
	a, b := zoneIn(t, root, "/docker/a"), zoneIn(t, root, "/docker/b")
	zones := known{a.UUID: a, b.UUID: b}
	e := procfs.New(procfs.Options{Cgroup: root, Zones: zones})
	put(t, a.Cgroups.Unified+"/cpu.stat", cpuStat(0, 0))
	put(t, b.Cgroups.Unified+"/cpu.stat", cpuStat(0, 0))
	p := open(t, e, collect.Request{Definition: definition(t, "cpu.usage"), Zones: []uuid.UUID{a.UUID}}, "linux-cgroup2")
	collectOnce(t, p)
	require.NoError(t, p.SetZones(t.Context(), []uuid.UUID{b.UUID, a.UUID}))
	put(t, a.Cgroups.Unified+"/cpu.stat", cpuStat(5000, 5000))
	got := collectOnce(t, p)
	require.Len(t, got.Samples, 1, "the new one primes")
	require.Equal(t, a.UUID, got.Samples[0].Zone)
	require.Positive(t, got.Samples[0].Value)
	require.Len(t, collectOnce(t, p).Samples, 2)
}

func TestEachZoneFailsByItself(t *testing.T) {
	root := t.TempDir()
	fine, stopped, foreign, bare, broken := zoneIn(t, root, "/d/1"), zoneIn(t, root, "/d/2"), zoneIn(t, root, "/d/3"), zoneIn(t, root, "/d/4"), zoneIn(t, root, "/d/5")
	ending := zoneIn(t, root, "/d/6")
	require.NoError(t, os.Remove(ending.Cgroups.Unified))
	owner := uuid.New()
	stopped.State = zone.Stopped
	foreign.Owner, fine.Owner = uuid.New(), owner
	bare.Cgroups.Unified, bare.Cgroups.V1 = "", map[string]string{"cpu": t.TempDir()}
	put(t, fine.Cgroups.Unified+"/memory.max", "1\n")
	put(t, foreign.Cgroups.Unified+"/memory.max", "2\n")
	put(t, broken.Cgroups.Unified+"/memory.max", "a lot\n")
	missing := uuid.New()
	zones := known{fine.UUID: fine, stopped.UUID: stopped, foreign.UUID: foreign, bare.UUID: bare, broken.UUID: broken, ending.UUID: ending}
	e := procfs.New(procfs.Options{Cgroup: root, Zones: zones})
	p := open(t, e, collect.Request{
		Definition: definition(t, "memory.rss_limit"), Owner: owner,
		Zones: []uuid.UUID{fine.UUID, stopped.UUID, foreign.UUID, bare.UUID, broken.UUID, ending.UUID, missing},
	}, "linux-cgroup2")
	for range 2 {
		r := collectOnce(t, p)
		failures := map[uuid.UUID]string{}
		for _, f := range r.Failures {
			failures[f.Zone] = string(f.Code) + " " + f.Message
		}
		require.Equal(t, map[uuid.UUID]string{
			foreign.UUID: "FAILED the zone belongs to somebody else on this host",
			missing:      "FAILED there is no such zone on this host",
			bare.UUID:    "UNSUPPORTED the zone has no cgroup in the unified hierarchy",
			broken.UUID:  `FAILED column value holds "a lot", which is no number`,
		}, failures)
		if !r.Primed {
			require.Equal(t, map[uuid.UUID]float64{fine.UUID: 1}, values(r))
		}
	}
}

// process writes what the kernel tells of a process.
func process(t testing.TB, proc string, pid, ppid int, comm, args, cgroup string, pages int) {
	t.Helper()
	dir := filepath.Join(proc, fmt.Sprint(pid))
	put(t, dir+"/stat", fmt.Sprintf("%d (%s) S %d 1 1 0 -1 4194304 1 0 0 0 3 4 0 0 20 0 7 0 %d 409600 %d 18446744073709551615 1 1\n", pid, comm, ppid, 100+pid, pages))
	put(t, dir+"/cmdline", args)
	put(t, dir+"/cgroup", cgroup)
}

func TestProcessesBelongToTheirZones(t *testing.T) {
	proc, root := t.TempDir(), t.TempDir()
	a, b := zoneIn(t, root, "/docker/a"), zoneIn(t, root, "/docker/b")
	page := os.Getpagesize()
	process(t, proc, 1, 0, "init", "/sbin/init\x00splash\x00", "0::/\n", 10)
	process(t, proc, 20, 1, "odd) name (", "odd\x00"+strings.Repeat("x", 200), "9:memory:/\n0::/docker/a\n", 20)
	process(t, proc, 21, 20, "child", "", "9:memory:/docker/a/nested\n0::/\n", 30)
	process(t, proc, 22, 1, "\xff\xfe", "", "0::/docker/ab\n", 40)
	process(t, proc, 23, 1, "b", "", "0::/docker/b/x/y\n", 50)
	put(t, proc+"/stat", "cpu 1 2 3\n")
	put(t, proc+"/99/stat", "") // gone while it is read: no text
	require.NoError(t, os.Remove(proc+"/99/stat"))
	e := procfs.New(procfs.Options{Proc: proc, Cgroup: root, Zones: known{a.UUID: a, b.UUID: b}, Hostname: "here"})
	d := definition(t, "unix.processes")

	zones := open(t, e, collect.Request{Definition: d, Zones: []uuid.UUID{a.UUID, b.UUID}}, "linux-processes")
	collectOnce(t, zones)
	require.Equal(t, map[uuid.UUID]float64{a.UUID: 2, b.UUID: 1}, values(collectOnce(t, zones)))

	host := open(t, e, collect.Request{Definition: d, WholeHost: true, Decompositions: []string{"execname"}}, "linux-processes")
	collectOnce(t, host)
	got := map[string]float64{}
	for _, s := range collectOnce(t, host).Samples {
		got[s.Fields[0].Value] = s.Value
	}
	require.Equal(t, map[string]float64{"init": 1, "odd) name (": 1, "child": 1, "\ufffd": 1, "b": 1}, got)

	args := open(t, e, collect.Request{Definition: d, WholeHost: true, Decompositions: []string{"pid", "psargs"}}, "linux-processes")
	collectOnce(t, args)
	texts := map[string]string{}
	for _, s := range collectOnce(t, args).Samples {
		texts[s.Fields[0].Value] = s.Fields[1].Value
	}
	require.Equal(t, "/sbin/init splash", texts["1"])
	require.Equal(t, "odd "+strings.Repeat("x", 76), texts["20"])
	require.Equal(t, "child", texts["21"])

	predicate, err := measure.ParsePredicate(fmt.Appendf(nil, `{"and":[{"ge":["rss",%d]},{"ne":["execname","b"]}]}`, 30*page))
	require.NoError(t, err)
	large := open(t, e, collect.Request{Definition: d, WholeHost: true, Predicate: predicate, Decompositions: []string{"rss"}}, "linux-processes")
	collectOnce(t, large)
	r := collectOnce(t, large)
	require.Len(t, r.Samples, 1)
	require.Equal(t, 2.0, r.Samples[0].Value)
	require.EqualValues(t, 2, r.Samples[0].Distribution.Count())
	require.Equal(t, "bytes", r.Samples[0].Distribution.Unit)
}

func TestNetworkFilesAreReadOnlyOfANetworkOfTheZonesOwn(t *testing.T) {
	proc, root := t.TempDir(), t.TempDir()
	own, shared, reused := zoneIn(t, root, "/d/own"), zoneIn(t, root, "/d/shared"), zoneIn(t, root, "/d/reused")
	zones := known{}
	for i, z := range []*zone.Zone{&own, &shared, &reused} {
		pid := 10 + i
		process(t, proc, pid, 1, "init", "", "", 1)
		z.InitPID, z.InitTime = pid, uint64(100+pid)
		put(t, fmt.Sprintf("%s/%d/net/snmp", proc, pid), "Tcp: InSegs OutSegs\nTcp: 5 7\n")
		require.NoError(t, os.MkdirAll(fmt.Sprintf("%s/%d/ns", proc, pid), 0o755))
		target := fmt.Sprintf("net:[%d]", pid)
		if z == &shared {
			target = "net:[1]"
		}
		require.NoError(t, os.Symlink(target, fmt.Sprintf("%s/%d/ns/net", proc, pid)))
		if z == &reused {
			z.InitTime-- // somebody else has the pid now
		}
		zones[z.UUID] = *z
	}
	require.NoError(t, os.MkdirAll(proc+"/self/ns", 0o755))
	require.NoError(t, os.Symlink("net:[1]", proc+"/self/ns/net"))
	e := procfs.New(procfs.Options{Proc: proc, Cgroup: root, Zones: zones})
	d := definition(t, "tcp.segments")
	var variant string
	for _, v := range d.Variants {
		if v.Scope == catalog.ScopeNetns {
			variant = v.ID
		}
	}
	p := open(t, e, collect.Request{Definition: d, Zones: []uuid.UUID{own.UUID, shared.UUID, reused.UUID}}, variant)
	collectOnce(t, p)
	put(t, proc+"/10/net/snmp", "Tcp: InSegs OutSegs\nTcp: 8 11\n")
	r := collectOnce(t, p)
	require.Equal(t, map[uuid.UUID]float64{own.UUID: 7}, values(r))
	failures := map[uuid.UUID]collect.Code{}
	for _, f := range r.Failures {
		failures[f.Zone] = f.Code
	}
	require.Equal(t, map[uuid.UUID]collect.Code{shared.UUID: collect.Unsupported, reused.UUID: collect.Failed}, failures)
}

func TestWildcardsAndAlternatives(t *testing.T) {
	d, err := catalog.Parse([]byte(`
schema: iapi.metric/1
metric: {module: nic, stat: test}
version: 1
label: bytes received
kind: interval
value: {type: size}
visibility: operator
fields:
  hostname: {builtin: host, label: host name, visibility: operator}
  nic: {type: string, label: NIC, max_len: 32}
variants:
  - id: sysfs
    cost: 1
    places: [host]
    scope: none
    when: {os: [linux]}
    fields: [nic]
    source:
      file:
        - paths: ["/sys/class/net/old*/statistics/rx_bytes", "/sys/class/net/eth*/statistics/rx_bytes"]
          parser: single
          from:
            nic: {column: path.1}
          rows:
            - value: {delta: value}
`))
	require.NoError(t, err)
	sys := t.TempDir()
	for i := range 3 {
		put(t, fmt.Sprintf("%s/class/net/eth%d/statistics/rx_bytes", sys, i), "5\n")
	}
	put(t, sys+"/class/net/lo/statistics/rx_bytes", "5\n")
	e := procfs.New(procfs.Options{Sys: sys})
	p := open(t, e, collect.Request{Definition: d, WholeHost: true, Decompositions: []string{"nic"}}, "sysfs")
	collectOnce(t, p)
	put(t, sys+"/class/net/eth1/statistics/rx_bytes", "9\n")
	secret := filepath.Join(t.TempDir(), "secret")
	put(t, secret, "77\n")
	require.NoError(t, os.Remove(sys+"/class/net/eth2/statistics/rx_bytes"))
	require.NoError(t, os.Symlink(secret, sys+"/class/net/eth2/statistics/rx_bytes"))
	_, err = p.Collect(t.Context(), time.Now())
	require.Error(t, err, "a link in a file's place is not followed")
	require.NoError(t, os.Remove(sys+"/class/net/eth2/statistics/rx_bytes"))
	collectOnce(t, p)
	put(t, sys+"/class/net/eth1/statistics/rx_bytes", "19\n")
	got := map[string]float64{}
	for _, s := range collectOnce(t, p).Samples {
		got[s.Fields[0].Value] = s.Value
	}
	require.Equal(t, map[string]float64{"0": 0, "1": 10}, got)

	require.NoError(t, os.WriteFile(sys+"/class/net/eth0/statistics/rx_bytes", make([]byte, 5<<20), 0o644))
	_, err = p.Collect(t.Context(), time.Now())
	require.ErrorContains(t, err, "more than")
}

func TestAHostWithoutTheFileIsUnsupported(t *testing.T) {
	e := procfs.New(procfs.Options{Proc: t.TempDir()})
	p := open(t, e, collect.Request{Definition: definition(t, "cpu.usage"), WholeHost: true}, "linux-host")
	_, err := p.Collect(t.Context(), time.Now())
	require.Equal(t, collect.Unsupported, collect.Refusal(err).Code)
	require.Error(t, p.SetZones(t.Context(), nil))
}

func BenchmarkProcfs(b *testing.B) {
	proc, root := b.TempDir(), b.TempDir()
	zones := known{}
	for i := range 200 {
		z := zoneIn(b, root, fmt.Sprintf("/docker/%d", i))
		put(b, z.Cgroups.Unified+"/cpu.stat", cpuStat(i, i))
		zones[z.UUID] = z
	}
	for i := range 1000 {
		process(b, proc, 100+i, 1, fmt.Sprintf("proc%d", i%50), "arg\x00", fmt.Sprintf("0::/docker/%d\n", i%200), i)
	}
	var ids []uuid.UUID
	for id := range maps.Keys(zones) {
		ids = append(ids, id)
	}
	e := procfs.New(procfs.Options{Proc: proc, Cgroup: root, Zones: zones})
	perSample := func(b *testing.B, p collect.Probe) {
		collectOnce(b, p)
		n := 0
		b.ReportAllocs()
		for b.Loop() {
			n = len(collectOnce(b, p).Samples)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/sample")
		b.ReportMetric(float64(n), "samples")
	}
	b.Run("cpu of 200 zones", func(b *testing.B) {
		perSample(b, open(b, e, collect.Request{Definition: definition(b, "cpu.usage"), Decompositions: []string{"cpumode"}, Zones: ids}, "linux-cgroup2"))
	})
	processes := definition(b, "unix.processes")
	b.Run("1000 processes by name in 200 zones, one reading for all", func(b *testing.B) {
		perSample(b, open(b, e, collect.Request{Definition: processes, Decompositions: []string{"execname"}, Zones: ids}, "linux-processes"))
	})
	b.Run("1000 processes read anew", func(b *testing.B) {
		d := *processes
		d.Variants = []catalog.Variant{processes.Variants[0]}
		source := *d.Variants[0].Source.Process
		source.Refresh = 0
		d.Variants[0].Source.Process = &source
		perSample(b, open(b, e, collect.Request{Definition: &d, Decompositions: []string{"execname"}, Zones: ids}, "linux-processes"))
	})
}
