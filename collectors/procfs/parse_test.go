package procfs

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/catalog"
)

// collector keeps the rows as texts by column.
type collector struct {
	slots map[string]int
	rows  []map[string]string
}

func (c *collector) row(cols [][]byte) {
	row := map[string]string{}
	for name, slot := range c.slots {
		if cols[slot] != nil {
			row[name] = string(cols[slot])
		}
	}
	c.rows = append(c.rows, row)
}

func parseAll(f format, text []byte, columns ...string) []map[string]string {
	slots := map[string]int{}
	for i, c := range columns {
		slots[c] = i
	}
	c := &collector{slots: slots}
	newParser(f, slots).parse(text, nil, c)
	return c.rows
}

var goldens = []struct {
	file    string
	format  format
	columns []string
}{
	{"memory.max", format{parser: catalog.ParseSingle}, []string{"value"}},
	{"meminfo", format{parser: catalog.ParseKeyValue}, []string{"MemTotal", "MemAvailable", "HugePages_Total", "Active(anon)"}},
	{"cpu.stat", format{parser: catalog.ParseFlatKeyed}, []string{"usage_usec", "user_usec", "system_usec", "none"}},
	{"io.stat", format{parser: catalog.ParseNestedKeyed}, []string{"key", "rbytes", "wios"}},
	{"cpu.pressure", format{parser: catalog.ParseNestedKeyed}, []string{"key", "avg10", "total"}},
	{"diskstats", format{parser: catalog.ParseTable, columns: []string{"_", "_", "disk", "rd", "_", "rd_sectors"}}, []string{"disk", "rd", "rd_sectors"}},
	{"netdev", format{parser: catalog.ParseTable, skip: 2, separators: " \t:", columns: []string{"nic", "rx_bytes", "rx_packets", "_", "_", "_", "_", "_", "_", "tx_bytes"}}, []string{"nic", "rx_bytes", "tx_bytes"}},
	{"route", format{parser: catalog.ParseTable}, []string{"Iface", "Metric"}},
	{"snmp", format{parser: catalog.ParseSNMP}, []string{"Tcp.InSegs", "Tcp.RtoMin", "Udp.InErrors", "IcmpMsg.OutType3"}},
	{"arcstats", format{parser: catalog.ParseSPLKstat}, []string{"hits", "misses", "name"}},
}

func TestRecordedFilesParseAsTheyDid(t *testing.T) {
	for _, g := range goldens {
		text, err := os.ReadFile(filepath.Join("testdata", g.file))
		require.NoError(t, err)
		got, err := json.MarshalIndent(parseAll(g.format, text, g.columns...), "", " ")
		require.NoError(t, err)
		golden := filepath.Join("testdata", g.file+".golden")
		if os.Getenv("UPDATE_GOLDEN") == "true" {
			require.NoError(t, os.WriteFile(golden, append(got, '\n'), 0o644))
		}
		want, err := os.ReadFile(golden)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got)+"\n", g.file)
	}
}

func TestParsingTheSameFormAgainAllocatesNothing(t *testing.T) {
	for _, g := range goldens {
		text, err := os.ReadFile(filepath.Join("testdata", g.file))
		require.NoError(t, err)
		slots := map[string]int{}
		for i, c := range g.columns {
			slots[c] = i
		}
		p := newParser(g.format, slots)
		var n counter
		p.parse(text, nil, &n)
		require.Zero(t, testing.AllocsPerRun(100, func() { p.parse(text, nil, &n) }), g.file)
		require.NotZero(t, n)
	}
}

type counter int

func (c *counter) row([][]byte) { *c++ }

func FuzzParse(f *testing.F) {
	for i, g := range goldens {
		text, err := os.ReadFile(filepath.Join("testdata", g.file))
		require.NoError(f, err)
		f.Add(i, text[:min(len(text), 500)])
	}
	f.Fuzz(func(t *testing.T, which int, text []byte) {
		g := goldens[uint(which)%uint(len(goldens))]
		for _, row := range parseAll(g.format, text, g.columns...) {
			for _, value := range row {
				require.NotEmpty(t, value)
				require.True(t, strings.Contains(string(text), value), "every value is a part of the file")
			}
		}
	})
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("12 (a) b) (c) S 1 12 12 0 -1 4194304 1 0 0 0 3 4 0 0 20 0 7 0 99 1000 25 18446744073709551615\n"))
	f.Add([]byte("1 () R"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p := process{pid: 12}
		if !p.parseStat(text) {
			return
		}
		p.ends[colUID], p.ends[colPsargs], p.ends[colCgroup] = len(p.text), len(p.text), len(p.text)
		p.cut()
		require.Equal(t, "12", string(p.cols[colPID]))
		require.True(t, strings.Contains(string(text), "("+string(p.cols[colExecname])+")"))
		p.parseCgroups(text)
		for line := range strings.Lines(string(p.paths)) {
			require.Greater(t, len(line), 2)
		}
	})
}

func FuzzCheckPath(f *testing.F) {
	for _, s := range []string{
		"/proc/stat", "{instance.cgroup}/cpu.stat", "{instance.cgroup.cpuacct}/cpuacct.usage", "/proc/{instance.pid}/net/dev",
		"/proc/{instance.pid}/root/etc/shadow", "/etc/shadow", "/proc/../etc/shadow", "{instance.cgroup}/../x", "/proc/1/environ", "/proc/*/environ",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, p string) {
		if checkPath(p) != nil {
			return
		}
		require.False(t, slices.Contains(strings.Split(p, "/"), ".."))
		require.True(t, strings.HasPrefix(p, "/proc/") || strings.HasPrefix(p, "/sys/") || strings.HasPrefix(p, "{instance.cgroup"))
		require.NotContains(t, p, "/root/")
	})
}

func TestPathsThatLeadAstrayAreRefused(t *testing.T) {
	for _, p := range []string{
		"/etc/shadow", "etc", "", "/proc", "/proc/", "/proc/../etc/shadow", "/sys/../etc/x", "{instance.cgroup}/../../x", "{instance.cgroup}", "{instance.cgroup.cpu}x",
		"/proc/{instance.pid}/root/etc/shadow", "/proc/{instance.pid}/environ", "/proc/{instance.pid}/fd/1", "/proc/{instance.pid}/task/1/root",
		"/proc/1/environ", "/proc/self/environ", "/proc/*/environ", "/proc/{instance.cgroup}/x", "{instance.other}/x", "/proc/thread-self/stat",
	} {
		require.Error(t, checkPath(p), p)
	}
	for _, p := range []string{"/proc/stat", "/proc/spl/kstat/zfs/*/objset-*", "/sys/class/net/*/statistics/rx_bytes", "{instance.cgroup}/io.stat", "{instance.cgroup.memory}/memory.stat", "/proc/{instance.pid}/net/snmp"} {
		require.NoError(t, checkPath(p), p)
	}
}
