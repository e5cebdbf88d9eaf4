package zfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/collectors/zone"
)

type known map[uuid.UUID]zone.Zone

func (k known) Lookup(id uuid.UUID) (zone.Zone, bool) { z, found := k[id]; return z, found }

var (
	vm    = uuid.MustParse("2f1dc911-6401-4fa4-8e9d-67ea2e39c271")
	other = uuid.MustParse("4b5a4f7c-0a1a-4e7d-a4a8-5a2f8d6b1c3e")
)

// fake is a command that prints the columns asked for out of the tables in a directory of testdata, and counts its runs.
func fake(t *testing.T, tables string) (command func(string) string, runs func() int) {
	t.Helper()
	dir := t.TempDir()
	recorded, err := filepath.Abs("testdata/" + tables)
	require.NoError(t, err)
	for _, name := range []string{"zfs", "zpool"} {
		script := `#!/bin/sh
[ "$1 $2 $3" = "list -Hp -o" ] && [ $# = 4 ] || { echo "bad usage: $*" >&2; exit 2; }
echo run >> ` + dir + `/runs
awk -F'\t' -v want="$4" 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; n = split(want, names, ","); next }
{ line = ""; for (i = 1; i <= n; i++) line = line (i > 1 ? "\t" : "") $at[names[i]]; print line }' ` + recorded + "/" + name + ".txt\n"
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	return func(name string) string { return filepath.Join(dir, name) }, func() int {
		text, err := os.ReadFile(filepath.Join(dir, "runs"))
		if err != nil {
			return 0
		}
		return strings.Count(string(text), "run")
	}
}

var embedded = sync.OnceValues(catalog.Embedded)

func definition(t *testing.T, metric string) *catalog.Definition {
	t.Helper()
	c, err := embedded()
	require.NoError(t, err)
	d, found := c.DefinitionOf(metric)
	require.True(t, found)
	return d
}

func open(t *testing.T, e *Engine, r collect.Request) collect.Probe {
	t.Helper()
	p, err := e.Open(t.Context(), r, &r.Definition.Variants[0])
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	first, err := p.Collect(t.Context(), time.Now())
	require.NoError(t, err)
	require.True(t, first.Primed)
	require.Empty(t, first.Samples)
	return p
}

func byField(t *testing.T, p collect.Probe) map[string]float64 {
	t.Helper()
	r, err := p.Collect(t.Context(), time.Now())
	require.NoError(t, err)
	require.Empty(t, r.Failures)
	out := map[string]float64{}
	for _, s := range r.Samples {
		out[s.Fields[0].Value] = s.Value
	}
	return out
}

func TestDatasetsOfAHostAndOfZones(t *testing.T) {
	command, _ := fake(t, "written")
	e := New(Options{Command: command, Zones: known{vm: {UUID: vm, State: zone.Running}, other: {UUID: other, State: zone.Stopped}}})
	used := definition(t, "zfs.dataset_used")
	host := byField(t, open(t, e, collect.Request{Definition: used, WholeHost: true, Decompositions: []string{"zdataset"}}))
	require.Len(t, host, 6)
	require.Equal(t, 1000.0, host["zones"])

	zones := byField(t, open(t, e, collect.Request{Definition: used, Zones: []uuid.UUID{vm, other}, Decompositions: []string{"zdataset"}}))
	require.Equal(t, map[string]float64{
		"zones/" + vm.String():               300,
		"zones/" + vm.String() + "/data":     200,
		"zones/" + other.String() + "/disk0": 5000,
		"zones/" + other.String():            10,
	}, zones, "a stopped zone's datasets take room all the same; a name that only begins alike is not its own")

	unused := byField(t, open(t, e, collect.Request{Definition: definition(t, "zfs.dataset_unused_quota"), WholeHost: true, Decompositions: []string{"zdataset"}}))
	require.Equal(t, map[string]float64{"zones/" + vm.String(): 500}, unused, "without a quota nothing is unused")
}

func TestPools(t *testing.T) {
	command, _ := fake(t, "written")
	e := New(Options{Command: command})
	free := definition(t, "zfs.pool_free")
	require.Equal(t, map[string]float64{"zones": 700, "backup": 1}, byField(t, open(t, e, collect.Request{Definition: free, WholeHost: true, Decompositions: []string{"zpool"}})))
	_, err := e.Open(t.Context(), collect.Request{Definition: free, Zones: []uuid.UUID{vm}}, &free.Variants[0])
	require.Equal(t, collect.Unsupported, collect.Refusal(err).Code)
}

func TestWhatMachinesPrinted(t *testing.T) {
	command, _ := fake(t, "proxmox")
	e := New(Options{Command: command})
	used := byField(t, open(t, e, collect.Request{Definition: definition(t, "zfs.dataset_used"), WholeHost: true, Decompositions: []string{"zdataset"}}))
	require.Equal(t, map[string]float64{
		"pm2-2tb-zfs": 98304, "pm2-2tb-zfs/vm-107-disk-0": 25827737600, "pm2-2tb-zfs/vm-107-disk-1": 11334639616,
		"pm2-2tb-zfs/vm-107-disk-2": 77824, "pm2-2tb-zfs/vm-109-disk-0": 13244215296,
		"rpool": 98304, "rpool/ROOT": 98304, "rpool/ROOT/pve-1": 9378238464,
	}, used, "what is left without the children is what zfs says to be used by the dataset")

	command, _ = fake(t, "openzfs")
	e = New(Options{Command: command})
	for metric, value := range map[string]float64{"zfs.pool_total": 1992864825344, "zfs.pool_used": 779701190656, "zfs.pool_free": 1213163634688} {
		require.Equal(t, map[string]float64{"pool_0": value}, byField(t, open(t, e, collect.Request{Definition: definition(t, metric), WholeHost: true, Decompositions: []string{"zpool"}})))
	}

	command, _ = fake(t, "omicron")
	e = New(Options{Command: command})
	quota := open(t, e, collect.Request{Definition: definition(t, "zfs.dataset_quota"), WholeHost: true, Decompositions: []string{"zdataset"}})
	require.Empty(t, byField(t, quota), "illumos prints 0 for no quota")
	lines, err := e.read(t.Context(), e.commands["zfs"], []string{"quota"}, time.Minute)
	require.NoError(t, err)
	require.Len(t, lines.lines, 3)
	for _, line := range lines.lines {
		require.Equal(t, uuid.Nil, zoneOf(line[0]), "a pool that is named by a uuid is no zone, nor is what has one in its name")
	}
}

func TestOneRunServesAllProbes(t *testing.T) {
	command, runs := fake(t, "written")
	e := New(Options{Command: command})
	var wait sync.WaitGroup
	probes := make([]collect.Probe, 8)
	for i := range probes {
		d := definition(t, "zfs.dataset_used")
		p, err := e.Open(t.Context(), collect.Request{Definition: d, WholeHost: true}, &d.Variants[0])
		require.NoError(t, err)
		defer p.Close()
		probes[i] = p
	}
	for _, p := range probes {
		wait.Go(func() {
			for range 3 {
				_, err := p.Collect(t.Context(), time.Now())
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	require.Equal(t, 1, runs())
	open(t, e, collect.Request{Definition: definition(t, "zfs.dataset_quota"), WholeHost: true})
	require.Equal(t, 2, runs(), "a new column needs a new run")
	for _, p := range probes {
		require.NoError(t, p.Close())
		require.NoError(t, p.Close())
	}
	require.Equal(t, 1, len(e.commands["zfs"].wanted), fmt.Sprint(e.commands["zfs"].wanted))
}

func TestAFailingCommandIsTold(t *testing.T) {
	command := filepath.Join(t.TempDir(), "zfs")
	require.NoError(t, os.WriteFile(command, []byte("#!/bin/sh\necho 'no pools, no joy' >&2\nexit 1\n"), 0o755))
	e := New(Options{Command: func(string) string { return command }})
	d := definition(t, "zfs.dataset_used")
	p, err := e.Open(t.Context(), collect.Request{Definition: d, WholeHost: true}, &d.Variants[0])
	require.NoError(t, err)
	_, err = p.Collect(t.Context(), time.Now())
	require.Equal(t, collect.Failed, collect.Refusal(err).Code)
	require.ErrorContains(t, err, "no joy")

	bad := d.Variants[0]
	source := *bad.Source.ZFS
	source.Columns = []string{"used", "origin"}
	bad.Source.ZFS = &source
	_, err = e.Open(t.Context(), collect.Request{Definition: d, WholeHost: true}, &bad)
	require.ErrorContains(t, err, "origin")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("zones\t1\t2\nzones/a b\t-\t3\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		lines, err := parse(text, 3)
		if err != nil {
			return
		}
		for _, line := range lines {
			require.Len(t, line, 3)
			_ = zoneOf(line[0])
		}
	})
}
