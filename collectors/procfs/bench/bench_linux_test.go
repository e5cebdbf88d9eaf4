package bench

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	exporter "github.com/prometheus/node_exporter/collector"
	"github.com/prometheus/procfs"
	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors/collect"
	ours "iapi/collectors/procfs"
	"iapi/collectors/zone"
)

const (
	processes = 1000
	cgroups   = 200
)

type zones map[uuid.UUID]zone.Zone

func (z zones) Lookup(id uuid.UUID) (zone.Zone, bool) { found, ok := z[id]; return found, ok }

func put(b *testing.B, path, text string) {
	b.Helper()
	require.NoError(b, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(b, os.WriteFile(path, []byte(text), 0o644))
}

// machine is what /proc and the cgroups of a machine with many containers are like, in memory.
func machine(b *testing.B) (proc, root string, all zones, ids []uuid.UUID) {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "iapi-bench-")
	require.NoError(b, err)
	b.Cleanup(func() { os.RemoveAll(dir) })
	proc, root, all = dir+"/proc", dir+"/cgroup", zones{}
	for _, name := range []string{"stat", "meminfo", "diskstats", "loadavg", "net/dev", "vmstat", "uptime"} {
		text, err := os.ReadFile("/proc/" + name)
		require.NoError(b, err)
		put(b, proc+"/"+name, string(text))
	}
	put(b, proc+"/self/mounts", "")
	put(b, proc+"/1/net/dev", "")
	put(b, proc+"/sys/kernel/threads-max", "100000\n")
	put(b, proc+"/sys/kernel/pid_max", "4194304\n")
	require.NoError(b, os.RemoveAll(proc+"/1"))
	for i := range cgroups {
		path := fmt.Sprintf("/docker/%d", i)
		z := zone.Zone{UUID: uuid.NewSHA1(uuid.NameSpaceURL, fmt.Append(nil, i)), State: zone.Running, Cgroups: zone.Cgroups{Unified: root + path, Path: path}}
		put(b, z.Cgroups.Unified+"/cpu.stat", fmt.Sprintf("usage_usec %d\nuser_usec %d\nsystem_usec %d\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n", 3*i, i, 2*i))
		all[z.UUID] = z
		ids = append(ids, z.UUID)
	}
	for i := range processes {
		pid := 100 + i
		stat := fmt.Sprintf("%d (proc%d) S 1 %d %d 0 -1 4194560 1000 0 0 0 %d %d 0 0 20 0 1 0 100 10000000 500 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n", pid, i%50, pid, pid, i, i)
		put(b, fmt.Sprintf("%s/%d/stat", proc, pid), stat)
		put(b, fmt.Sprintf("%s/%d/task/%d/stat", proc, pid, pid), stat)
		put(b, fmt.Sprintf("%s/%d/cmdline", proc, pid), "program\x00argument\x00")
		put(b, fmt.Sprintf("%s/%d/cgroup", proc, pid), fmt.Sprintf("0::/docker/%d\n", i%cgroups))
	}
	return proc, root, all, ids
}

func definition(b *testing.B, name string) *catalog.Definition {
	b.Helper()
	c, err := catalog.Embedded()
	require.NoError(b, err)
	d, ok := c.DefinitionOf(name)
	require.True(b, ok)
	return d
}

func open(b *testing.B, e *ours.Engine, r collect.Request, variant string) collect.Probe {
	b.Helper()
	i := slices.IndexFunc(r.Definition.Variants, func(v catalog.Variant) bool { return v.ID == variant })
	require.GreaterOrEqual(b, i, 0)
	p, err := e.Open(b.Context(), r, &r.Definition.Variants[i])
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, p.Close()) })
	_, err = p.Collect(b.Context(), time.Now())
	require.NoError(b, err)
	return p
}

func each(b *testing.B, n func() int) {
	b.Helper()
	require.Positive(b, n())
	b.ReportAllocs()
	count := 0
	for b.Loop() {
		count = n()
	}
	b.ReportMetric(float64(count), "samples")
}

func samples(b *testing.B, probes ...collect.Probe) func() int {
	return func() int {
		n := 0
		for _, p := range probes {
			res, err := p.Collect(b.Context(), time.Now())
			require.NoError(b, err)
			n += len(res.Samples)
		}
		return n
	}
}

// updates runs node_exporter's own collectors, as a scrape does.
func updates(b *testing.B, node *exporter.NodeCollector) func() int {
	return func() int {
		metrics := make(chan prometheus.Metric, 4096)
		go func() {
			node.Collect(metrics)
			close(metrics)
		}()
		n := 0
		for range metrics {
			n++
		}
		return n
	}
}

func node(b *testing.B, proc string, names ...string) *exporter.NodeCollector {
	b.Helper()
	_, err := kingpin.CommandLine.Parse([]string{"--path.procfs=" + proc, "--collector.processes"})
	require.NoError(b, err)
	c, err := exporter.NewNodeCollector(slog.New(slog.DiscardHandler), names...)
	require.NoError(b, err)
	return c
}

func BenchmarkProcesses(b *testing.B) {
	proc, root, all, ids := machine(b)
	e := ours.New(ours.Options{Proc: proc, Cgroup: root, Zones: all})
	d := *definition(b, "unix.processes")
	d.Variants = slices.Clone(d.Variants)
	source := *d.Variants[0].Source.Process
	source.Refresh = 0 // node_exporter reads anew, too
	d.Variants[0].Source.Process = &source
	b.Run("iapi: of 1,000 by name and rss in 200 zones", func(b *testing.B) {
		each(b, samples(b, open(b, e, collect.Request{Definition: &d, Decompositions: []string{"execname", "rss"}, Zones: ids}, d.Variants[0].ID)))
	})
	b.Run("iapi: of 1,000 by name on the host", func(b *testing.B) {
		each(b, samples(b, open(b, e, collect.Request{Definition: &d, Decompositions: []string{"execname"}, WholeHost: true}, d.Variants[0].ID)))
	})
	b.Run("node_exporter: processes", func(b *testing.B) { each(b, updates(b, node(b, proc, "processes"))) })
	b.Run("procfs library: AllProcs and Stat", func(b *testing.B) {
		fs, err := procfs.NewFS(proc)
		require.NoError(b, err)
		each(b, func() int {
			list, err := fs.AllProcs()
			require.NoError(b, err)
			for _, p := range list {
				_, err := p.Stat()
				require.NoError(b, err)
			}
			return len(list)
		})
	})
	b.Run("floor: os.ReadFile of each stat", func(b *testing.B) {
		each(b, func() int {
			for i := range processes {
				_, err := os.ReadFile(fmt.Sprintf("%s/%d/stat", proc, 100+i))
				require.NoError(b, err)
			}
			return processes
		})
	})
}

func BenchmarkCgroups(b *testing.B) {
	proc, root, all, ids := machine(b)
	e := ours.New(ours.Options{Proc: proc, Cgroup: root, Zones: all})
	b.Run("iapi: cpu of 200 zones", func(b *testing.B) {
		each(b, samples(b, open(b, e, collect.Request{Definition: definition(b, "cpu.usage"), Decompositions: []string{"cpumode"}, Zones: ids}, "linux-cgroup2")))
	})
	b.Run("floor: os.ReadFile of each cpu.stat", func(b *testing.B) { // node_exporter does not read them
		each(b, func() int {
			for i := range cgroups {
				_, err := os.ReadFile(fmt.Sprintf("%s/docker/%d/cpu.stat", root, i))
				require.NoError(b, err)
			}
			return cgroups
		})
	})
}

func BenchmarkHost(b *testing.B) {
	proc, root, all, _ := machine(b)
	e := ours.New(ours.Options{Proc: proc, Cgroup: root, Zones: all})
	host := func(b *testing.B, name, variant string, by ...string) collect.Probe {
		return open(b, e, collect.Request{Definition: definition(b, name), Decompositions: by, WholeHost: true}, variant)
	}
	b.Run("iapi: cpu, memory, disks, NICs, load", func(b *testing.B) {
		each(b, samples(b, host(b, "cpu.usage", "linux-host", "cpumode"), host(b, "memory.rss", "linux-host"),
			host(b, "disk.physio_ops", "linux-diskstats", "disk", "optype"), host(b, "nic.bytes", "linux-host", "nic", "direction"), host(b, "cpu.loadavg1", "linux-loadavg")))
	})
	b.Run("node_exporter: cpu, meminfo, diskstats, netdev, loadavg", func(b *testing.B) {
		each(b, updates(b, node(b, proc, "cpu", "meminfo", "diskstats", "netdev", "loadavg")))
	})
}
