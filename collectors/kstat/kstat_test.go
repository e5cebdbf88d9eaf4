package kstat

import (
	"os"
	"path/filepath"
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
"-p -c disk") cat ` + recorded + `/disk.$which.txt ;;
*) echo "unexpected: $*" >&2; exit 2 ;;
esac
`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "kstat"), []byte(script), 0o755))
	return func(name string) string { return filepath.Join(dir, name) }, func() {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "later"), nil, 0o644))
	}
}

func open(t *testing.T, e *Engine, metric, variant string, r collect.Request) collect.Probe {
	t.Helper()
	c, err := catalog.Embedded()
	require.NoError(t, err)
	d, found := c.DefinitionOf(metric)
	require.True(t, found)
	r.Definition = d
	for i := range d.Variants {
		if d.Variants[i].ID == variant {
			p, err := e.Open(t.Context(), r, &d.Variants[i])
			require.NoError(t, err)
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

func TestOneRunServesProbesOfTheSameMoment(t *testing.T) {
	command, _ := fake(t)
	e := New(Options{Command: command})
	one, err := e.read(t.Context(), []string{"-p", "-c", "disk"})
	require.NoError(t, err)
	two, err := e.read(t.Context(), []string{"-p", "-c", "disk"})
	require.NoError(t, err)
	require.Same(t, &one[0], &two[0])
}

func TestAMachineWithoutKstatIsUnsupported(t *testing.T) {
	e := New(Options{Command: func(string) string { return "" }})
	_, err := e.read(t.Context(), []string{"-p"})
	require.Equal(t, collect.Unsupported, collect.Refusal(err).Code)
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"zones.first.txt", "disk.first.txt"} {
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
