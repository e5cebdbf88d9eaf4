package kstat

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/collectors/zone"
	"iapi/measure"
)

type known map[uuid.UUID]zone.Zone

func (k known) Lookup(id uuid.UUID) (zone.Zone, bool) { z, found := k[id]; return z, found }

var (
	vm    = uuid.MustParse("2f1dc911-6401-4fa4-8e9d-67ea2e39c271")
	other = uuid.MustParse("4b5a4f7c-0a1a-4e7d-a4a8-5a2f8d6b1c3e")
)

// fake is a kstat command that prints the recording of a class, the later one once it is told to.
func fake(t *testing.T) (command func(string) string, later func()) {
	t.Helper()
	dir := t.TempDir()
	recorded, err := filepath.Abs("testdata")
	require.NoError(t, err)
	script := "#!/bin/sh\nwhich=first\n[ -e " + dir + "/later ] && which=later\n" +
		`case "$*" in
"-p -m zones -c zone_misc") cat ` + recorded + `/zones.$which.txt ;;
"-p -m zone_vfs -c zone_vfs") cat ` + recorded + `/vfs.$which.txt ;;
"-p -c disk") cat ` + recorded + `/disk.$which.txt ;;
"-p -m memory_cap -c zone_memory_cap") cat ` + recorded + `/smartos.txt | grep ^memory_cap: ;;
"-p -m kvm -c misc") exit 1 ;;
*) echo "unexpected: $*" >&2; exit 2 ;;
esac
`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "kstat"), []byte(script), 0o755))
	return func(name string) string { return filepath.Join(dir, name) }, func() {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "later"), nil, 0o644))
	}
}

var embedded = sync.OnceValues(catalog.Embedded)

func open(t *testing.T, e *Engine, metric, variant string, r collect.Request) collect.Probe {
	t.Helper()
	c, err := embedded()
	require.NoError(t, err)
	d, found := c.DefinitionOf(metric)
	require.True(t, found)
	r.Definition = d
	for i := range d.Variants {
		if d.Variants[i].ID == variant {
			p, err := e.Open(t.Context(), r, &d.Variants[i])
			require.NoError(t, err)
			t.Cleanup(func() { p.Close() })
			first, err := p.Collect(t.Context(), time.Now())
			require.NoError(t, err)
			require.True(t, first.Primed)
			return p
		}
	}
	t.Fatalf("%s has no variant %s", metric, variant)
	return nil
}

// forget makes the next read run the command again at once.
func (e *Engine) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.shared)
}

func TestCPUOfZonesByTheirZonename(t *testing.T) {
	command, later := fake(t)
	e := New(Options{Command: command, Zones: known{vm: {UUID: vm, State: zone.Running}, other: {UUID: other, State: zone.Running}}})
	p := open(t, e, "cpu.usage", "illumos-zones", collect.Request{Zones: []uuid.UUID{vm}, Decompositions: []string{"cpumode"}})
	later()
	e.forget()
	r, err := p.Collect(t.Context(), time.Now())
	require.NoError(t, err)
	require.Empty(t, r.Failures)
	got := map[string]float64{}
	for _, s := range r.Samples {
		require.Equal(t, vm, s.Zone)
		got[s.Fields[0].Value] = s.Value
	}
	require.InDelta(t, 50.0, got["user"], 0.001, "1 s of CPU in the 2 s between the snaptimes")
	require.InDelta(t, 12.5, got["kernel"], 0.001)
}

// What is read and written on a whole host is what is in all of its zones, the global one too.
func TestFilesOfAHostAreThoseOfAllItsZones(t *testing.T) {
	for metric, want := range map[string]map[string][2]float64{
		"fs.logical_rwbytes": {"read": {500, 0}, "write": {1001, 1000}},
		"fs.logical_rwops":   {"read": {3, 0}, "write": {5, 4}},
	} {
		command, later := fake(t)
		e := New(Options{Command: command, Zones: known{vm: {UUID: vm, State: zone.Running}}})
		host := open(t, e, metric, "illumos-all-vfs", collect.Request{WholeHost: true, Decompositions: []string{"optype"}})
		one := open(t, e, metric, "illumos-zone-vfs", collect.Request{Zones: []uuid.UUID{vm}, Decompositions: []string{"optype"}})
		later()
		e.forget()
		for i, p := range []collect.Probe{host, one} {
			r, err := p.Collect(t.Context(), time.Now())
			require.NoError(t, err)
			require.Len(t, r.Samples, 2)
			for _, s := range r.Samples {
				require.Equal(t, want[s.Fields[0].Value][i], s.Value, "%s %v", metric, s)
			}
		}
	}
}

func TestDisksOfAHost(t *testing.T) {
	command, later := fake(t)
	e := New(Options{Command: command})
	p := open(t, e, "disk.physio_ops", "illumos-disk", collect.Request{WholeHost: true, Decompositions: []string{"disk"}})
	later()
	e.forget()
	r, err := p.Collect(t.Context(), time.Now())
	require.NoError(t, err)
	got := map[string]float64{}
	for _, s := range r.Samples {
		got[s.Fields[0].Value] = s.Value
	}
	require.Equal(t, map[string]float64{"sd0": 15, "sd1": 0}, got)
}

func TestTimesOfDisksAreInNanoseconds(t *testing.T) {
	command, later := fake(t)
	e := New(Options{Command: command})
	p := open(t, e, "disk.disks", "illumos-disk", collect.Request{WholeHost: true, Decompositions: []string{"disk", "busytime"}})
	later()
	e.forget()
	r, err := p.Collect(t.Context(), time.Now())
	require.NoError(t, err)
	require.Len(t, r.Samples, 2)
	require.Equal(t, "sd0", r.Samples[0].Fields[0].Value)
	require.Equal(t, []measure.Bucket{{Low: 25, High: 25, Count: 1}}, r.Samples[0].Distribution.Buckets)
}

func TestMemoryOfAZoneAsRecorded(t *testing.T) {
	command, _ := fake(t)
	id := uuid.MustParse("b55cf19c-4898-4bd1-9169-b89b472d0621")
	for metric, value := range map[string]float64{"memory.rss": 324755456, "memory.rss_limit": 2147483648, "memory.swap": 1764012032, "memory.swap_limit": 4294967296} {
		e := New(Options{Command: command, Zones: known{id: {UUID: id, State: zone.Running}}})
		p := open(t, e, metric, "illumos-memory-cap", collect.Request{Zones: []uuid.UUID{id}})
		r, err := p.Collect(t.Context(), time.Now())
		require.NoError(t, err)
		require.Equal(t, []collect.Sample{{Zone: id, Value: value}}, r.Samples, metric)
	}
}

// recordings are what kstats of a SmartOS machine hold; testdata/README.md says where they come from.
func recordings(t testing.TB) []record {
	text, err := os.ReadFile("testdata/smartos.txt")
	require.NoError(t, err)
	records, err := parse(text)
	require.NoError(t, err)
	return records
}

func TestDefinitionsAskForStatisticsThatKstatsHave(t *testing.T) {
	c, err := embedded()
	require.NoError(t, err)
	compared := map[string]bool{}
	for _, m := range c.Metrics() {
		d, _ := c.DefinitionOf(m.Name)
		for _, v := range d.Variants {
			for _, k := range v.Source.Kstat {
				for _, r := range recordings(t) {
					of := selection{module: k.Module, instance: k.Instance, name: k.Name, class: k.Class}
					if !of.matches(&header{module: r.names[0], name: r.names[2], class: r.values["class"], instance: int32(instance(r))}) {
						continue
					}
					compared[k.Module] = true
					has := func(column string) { require.NotNil(t, r.column(column), "%s: %s has no %s", m.Name, r.id, column) }
					if k.InstanceFrom != "" {
						has(k.InstanceFrom)
					}
					for _, f := range slices.Concat(k.Select, k.Exclude) {
						has(f.Column)
					}
					for _, f := range k.From {
						has(f.Column)
					}
					for _, row := range k.Rows {
						row.Value.Columns(has)
						for _, e := range row.Numeric {
							e.Columns(has)
						}
					}
				}
			}
		}
	}
	require.Equal(t, []string{"link", "memory_cap", "tcp", "zfs", "zone_vfs", "zones"}, slices.Sorted(maps.Keys(compared)))
}

func TestNothingSelectedIsNoError(t *testing.T) {
	command, _ := fake(t)
	records, err := New(Options{Command: command}).read(t.Context(), selection{module: "kvm", class: "misc"})
	require.NoError(t, err)
	require.Empty(t, records)
}

func TestTimesAreReadExactly(t *testing.T) {
	for text, ns := range map[string]string{
		"12.000000345": "12000000345", "0.000000001": "1", "12444687.9690404": "12444687969040400", "0.5": "500000000",
		"0.000000000": "0", "0": "0", "41205058480": "41205058480",
	} {
		require.Equal(t, ns, string(nanoseconds([]byte(text))), text)
	}
	records, err := parse([]byte("sd:0:sd0:nread\t1\nsd:0:sd0:snaptime\t1000.100000001\nsd:1:sd1:nread\t1\nsd:1:sd1:snaptime\t7\n"))
	require.NoError(t, err)
	require.Equal(t, int64(1000100000001), records[0].at)
	require.Equal(t, int64(7000000000), records[1].at)
}

func TestOneRunServesProbesOfTheSameMoment(t *testing.T) {
	command, _ := fake(t)
	e := New(Options{Command: command})
	one, err := e.read(t.Context(), selection{class: "disk"})
	require.NoError(t, err)
	two, err := e.read(t.Context(), selection{class: "disk"})
	require.NoError(t, err)
	require.Same(t, &one[0], &two[0])
}

func TestAMachineWithoutKstatIsUnsupported(t *testing.T) {
	e := New(Options{Command: func(string) string { return "" }})
	_, err := e.read(t.Context(), selection{})
	require.Equal(t, collect.Unsupported, collect.Refusal(err).Code)
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"zones.first.txt", "disk.first.txt", "smartos.txt"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		require.NoError(f, err)
		f.Add(text)
	}
	f.Add([]byte("a:0:b:c:snaptime\t1e400\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		records, err := parse(text)
		if err != nil {
			return
		}
		for _, r := range records {
			require.GreaterOrEqual(t, r.at, int64(0))
			require.NotEmpty(t, r.values)
			_ = zoneOf(&r, "zonename")
		}
	})
}
