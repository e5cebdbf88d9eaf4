package catalog

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func linux(cgroup string) Platform {
	return Platform{OS: "linux", Arch: "amd64", Kernel: "6.18.2-arch1", Cgroup: cgroup}
}

func TestSelectTakesTheCheapestVariantThatFits(t *testing.T) {
	c := embeddedCatalog(t)
	for _, test := range []struct {
		metric   string
		platform Platform
		place    Place
		fields   []string
		variant  string
	}{
		{"cpu.usage", linux("v2"), Host, []string{"cpumode"}, "linux-host"},
		{"cpu.usage", linux("v2"), Zone, []string{"cpumode", "zonename"}, "linux-cgroup2"},
		{"cpu.usage", linux("hybrid"), Zone, nil, "linux-cgroup2"},
		{"cpu.usage", linux("v1"), Zone, nil, "linux-cgroup1"},
		{"cpu.usage", Platform{OS: "illumos"}, Zone, []string{"cpumode"}, "illumos-zones"},
		{"memory.rss", linux("hybrid"), Zone, nil, "linux-cgroup1"},
		{"nic.bytes", linux("v2"), Zone, []string{"nic", "direction"}, "linux-netns"},
		{"unix.processes", linux(""), Zone, []string{"execname", "rss"}, "linux-processes"},
	} {
		d, ok := c.DefinitionOf(test.metric)
		require.True(t, ok)
		v, err := d.Select(test.platform, test.place, test.fields)
		require.NoError(t, err, "%+v", test)
		require.Equal(t, test.variant, v.ID)
	}
}

func TestSelectPrefersLowCostAndThenTheDocumentsOrder(t *testing.T) {
	choose := func(costs ...int) string {
		d := &Definition{}
		for i, cost := range costs {
			d.Variants = append(d.Variants, Variant{ID: string(rune('a' + i)), Cost: cost, Places: []Place{Host}})
		}
		v, err := d.Select(linux("v2"), Host, nil)
		require.NoError(t, err)
		return v.ID
	}
	require.Equal(t, "b", choose(3, 2, 4))
	require.Equal(t, "a", choose(2, 2))
	require.Equal(t, "b", choose(3, 2, 2))
}

func TestSelectSaysWhatIsMissing(t *testing.T) {
	c := embeddedCatalog(t)
	for _, test := range []struct {
		metric   string
		platform Platform
		place    Place
		fields   []string
		reason   string
	}{
		{"cpu.loadavg1", linux("v2"), Zone, nil, "nothing measures a zone on linux"},
		{"cpu.usage", linux(""), Zone, nil, "lacks cgroups of version"},
		{"zfs.pool_free", linux("v2"), Host, nil, "lacks the command zpool"},
		{"zfs.arc_ops", linux("v2"), Host, nil, "lacks the file /proc/spl/kstat/zfs/arcstats"},
		{"tcp.segments", linux("v2"), Host, []string{"tcpstack"}, "the fields tcpstack cannot be had"},
		{"cpu.usage", Platform{OS: "plan9"}, Host, nil, "nothing measures a host on plan9"},
	} {
		d, _ := c.DefinitionOf(test.metric)
		_, err := d.Select(test.platform, test.place, test.fields)
		require.ErrorIs(t, err, ErrUnsupported)
		require.ErrorContains(t, err, test.reason)
	}
	d, _ := c.DefinitionOf("zfs.pool_free")
	with := linux("v2")
	with.Command = func(name string) bool { return name == "zpool" }
	_, err := d.Select(with, Host, []string{"zpool"})
	require.NoError(t, err)
}

func TestTracingIsLimitedAndSelectedByWhatTheHostHas(t *testing.T) {
	d, err := Parse([]byte(tracingSample))
	require.NoError(t, err)
	require.True(t, d.Metric.Tracing)
	require.True(t, d.Metric.NeedsTracing())
	require.Equal(t, time.Hour, d.Metric.MaxTTL)
	require.Equal(t, []string{"DTRACE"}, d.Metric.Collectors)

	p := linux("v2")
	p.Bpftrace = "v0.17.0"
	_, err = d.Select(p, Zone, []string{"latency"})
	require.ErrorContains(t, err, "the tracepoint raw_syscalls:sys_enter")
	p.Tracepoint = func(string) bool { return true }
	v, err := d.Select(p, Zone, []string{"latency"})
	require.NoError(t, err)
	require.True(t, v.Tracing())
	p.Bpftrace = "0.16.2"
	_, err = d.Select(p, Zone, nil)
	require.ErrorContains(t, err, "bpftrace >=0.17")
}

func TestMetricWithBothKindsOfVariantsTracesOnlyForFieldsThatNeedIt(t *testing.T) {
	m := Metric{
		Fields: []Field{{Name: "hostname", Builtin: true}, {Name: "disk"}, {Name: "size"}, {Name: "latency"}},
		ways: []way{
			{nil, []Place{Host}, false, []string{"disk"}}, {[]string{"illumos"}, []Place{Host, Zone}, false, []string{"disk", "size"}},
			{[]string{"linux"}, []Place{Host}, true, []string{"disk", "size", "latency"}},
		},
	}
	require.False(t, m.NeedsTracing())
	require.False(t, m.NeedsTracing("disk", "hostname"))
	require.True(t, m.NeedsTracing("disk", "latency"))
	require.True(t, m.NeedsTracing("size"), "one system has it without, another has not")
	m.ways = append(m.ways, way{[]string{"linux"}, []Place{Zone}, true, []string{"disk"}})
	require.True(t, m.NeedsTracing(), "of a host it is had without, of a zone it is not")
	m.ways = m.ways[:3]

	require.True(t, m.Measures(Host, "latency", "disk"))
	require.True(t, m.Measures(Zone, "size", "hostname"))
	require.False(t, m.Measures(Zone, "latency"))
	require.True(t, (&Metric{}).Measures(Zone, "latency"), "of a metric without a document nothing is known")
}

func TestVersionRanges(t *testing.T) {
	for _, test := range []struct {
		version, conditions string
		holds               bool
	}{
		{"6.18.2", ">=4.18 <9", true}, {"4.18", ">=4.18", true}, {"4.9", ">=4.18", false}, {"4.18.0-rc1", ">4.18", false},
		{"v0.17.0", ">=0.17", true}, {"0.9", ">=0.17", false}, {"0.22.1", "<0.22", false}, {"5.10", "<=5.10.0", true},
		{"5.10.3", "=5.10.3", true}, {"", ">=1", false}, {"unknown", ">=0", false},
	} {
		require.Equal(t, test.holds, inRange(test.version, test.conditions), "%q %q", test.version, test.conditions)
	}
	for _, text := range []string{"", "5", "=>5", ">=x", "~5", ">=5 6", ">=5.x"} {
		require.True(t, invalidRange(text), text)
	}
}
