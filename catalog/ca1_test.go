package catalog

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// ca1Table is what Cloud Analytics 1.0 measured, by its own metadata: every metric with its fields. H is hostname, Z zonename,
// P execname, pid and psargs of a process, PP the same of its parent.
const ca1Table = `
apache.httpd_ops: H Z P PP http_method http_url raddr rport http_path latency
ca.instr_beops: H cabackend cainstnid cametric latency subsecond
ca.instr_disables: H cabackend cainstnid cametric latency
ca.instr_enables: H cabackend cainstnid cametric latency
ca.instr_ticks: H latency subsecond
cpu.cpus: H cpu utilization
cpu.loadavg1: H Z
cpu.thread_executions: H Z P PP leavereason runtime subsecond
cpu.thread_samples: H Z P PP subsecond
cpu.usage: H Z cpumode
cpu.waittime: H Z
disk.disks: H disk iops iops_read iops_write bytes bytes_read bytes_write busytime
disk.physio_bytes: H disk optype
disk.physio_ops: H disk optype latency size offset
fs.logical_ops: H Z P PP fstype optype latency
fs.logical_rwbytes: H Z optype
fs.logical_rwops: H Z P PP fstype optype size offset latency
ldapjs.connections: H Z P raddr
ldapjs.ops: H Z P raddr optype ldapbinddn ldaprequestdn status latency
ldapjs.search_ops: H Z P raddr ldapbinddn ldaprequestdn status ldapfilter ldapscope latency
mantaop.jobs_assigned: H Z
mantaop.supervisor_auths: H Z user errname latency
mantaop.supervisor_deletes: H Z objname errname latency
mantaop.supervisor_errors: H Z jobid
mantaop.supervisor_locates: H Z objname errname latency
mantaop.tasks_committed: H Z jobid
mantaop.tasks_dispatched: H Z jobid
mantaop.tasks_executed: H jobid latency
mantaop.tasks_killed: H jobid
mantaop.zone_resets: H Z errname latency
memory.pageins: H Z
memory.reclaimed_bytes: H Z
memory.rss: H Z
memory.rss_limit: H Z
memory.swap: H Z
memory.swap_limit: H Z
moray.ops: H Z P optype table latency cputime
moray.queries: H Z P querysubstr latency cputime
mysql.commands: H Z P command user client status latency cputime
mysql.connections: H Z P user client latency
mysql.filesort: H Z P database table latency cputime
mysql.queries: H Z P querysubstr database user client parsed status latency cputime
mysql.statements: H Z P statement status rowsmatched rowschanged latency cputime
nic.bytes: H nic direction
nic.nics: H nic packets packets_in packets_out bytes bytes_read bytes_write
nic.packets: H nic direction
nic.vnic_bytes: H Z direction
nic.vnic_packets: H Z direction
node.gc_ops: H Z P PP gctype latency
node.httpc_ops: H Z P PP http_method http_url raddr rport http_path latency
node.httpd_ops: H Z P PP http_method http_url raddr rport http_path http_origin latency
node.socket_ops: H Z P PP optype raddr rport size buffered
postgres.queries: H Z P querysubstr latency cputime
restify.handler_ops: H Z P PP restify_sname restify_rname restify_hname latency
restify.server_ops: H Z P PP restify_sname restify_rname http_url http_method http_status latency
syscall.syscalls: H Z P PP syscall subsecond latency cputime
tcp.accepts: H Z P PP rport raddr
tcp.connects: H Z P PP rport raddr
tcp.errors: H tcpstack errtype
tcp.segments: H tcpstack direction
unix.proc_execs: H Z P PP subsecond
unix.proc_exits: H Z P PP subsecond walltime
unix.proc_forks: H Z P ppid subsecond
unix.processes: H Z execname pid ppid rss contract psargs pmodel nthreads
unix.thr_creates: H Z P PP subsecond
vm.exits: H Z vleavereason vcpuid
vm.irqs: H Z subsecond irqvector
vm.physio_bytes: H Z optype
vm.physio_ops: H Z optype errno latency size offset
vm.thread_samples: H Z subsecond vmmmuctx
zfs.arc_ops: H Z P PP optype
zfs.dataset_quota: H zdataset
zfs.dataset_unused_quota: H zdataset
zfs.dataset_used: H zdataset
zfs.pool_free: H zpool
zfs.pool_total: H zpool
zfs.pool_used: H zpool
`

// ca1Fields reads the table: the fields of each metric besides hostname and zonename, and whether it has the latter.
func ca1Fields(t *testing.T) (fields map[string][]string, zones map[string]bool) {
	t.Helper()
	fields, zones = map[string][]string{}, map[string]bool{}
	for line := range strings.Lines(strings.TrimSpace(ca1Table)) {
		name, rest, found := strings.Cut(line, ": H")
		require.True(t, found, line)
		fields[name] = []string{}
		for field := range strings.FieldsSeq(rest) {
			switch field {
			case "Z":
				zones[name] = true
			case "P":
				fields[name] = append(fields[name], "execname", "pid", "psargs")
			case "PP":
				fields[name] = append(fields[name], "ppid", "pexecname", "ppsargs")
			default:
				fields[name] = append(fields[name], field)
			}
		}
	}
	require.Len(t, fields, 77)
	return fields, zones
}

func everything(string) bool { return true }

// complete is a machine that lacks nothing which a machine of its system can have.
func complete(os, cgroup string) Platform {
	p := Platform{OS: os, Arch: "amd64", Cgroup: cgroup, File: everything, Command: everything, Tracepoint: everything, USDT: everything}
	if os == "linux" {
		p.Kernel, p.Bpftrace = "6.18", "0.17.0"
	}
	return p
}

func TestTheListOfCA1IsThatOfItsMetadata(t *testing.T) {
	fields, zones := ca1Fields(t)
	all := CA1()
	require.Len(t, all, len(fields))
	for i, m := range all {
		require.NotEmpty(t, m.Label, m.Name)
		if i > 0 {
			require.Less(t, all[i-1].Name, m.Name)
		}
		require.ElementsMatch(t, fields[m.Name], strings.Fields(m.Fields), m.Name)
		require.Equal(t, zones[m.Name], m.Zones, m.Name)
	}
}

// Every metric and every field of CA 1.0 can be had of hosts and of zones, or is told as missing there with the reason, and
// never both.
func TestEveryFieldOfCA1CanBeHadOrSaysWhyNot(t *testing.T) {
	own := embeddedCatalog(t)
	fields, zones := ca1Fields(t)
	for _, p := range []Platform{complete("linux", "v2"), complete("linux", "hybrid"), complete("linux", "v1"), complete("illumos", "")} {
		missing := own.Missing(p)
		for _, m := range missing {
			require.NotContains(t, m.Why, "nothing gives it", "%s %s: %v", p.OS, m.Name, m.Fields)
			require.NotContains(t, m.Why, "nothing measures", "%s %s", p.OS, m.Name)
		}
		for name, names := range fields {
			places := []Place{Host}
			if zones[name] {
				places = append(places, Zone)
			}
			for _, place := range places {
				whole := why(missing, name, place, "")
				d, defined := own.DefinitionOf(name)
				had := false
				if defined {
					_, err := d.Select(p, place, nil)
					had = err == nil
				}
				require.Equal(t, had, whole == "", "%s of a %s on %s %s: %q", name, place, p.OS, p.Cgroup, whole)
				for _, field := range names {
					reason := why(missing, name, place, field)
					if !had {
						require.Empty(t, reason, "all of it is missing")
						continue
					}
					_, err := d.Select(p, place, []string{field})
					if _, known := d.Metric.Field(field); !known {
						require.NotEmpty(t, reason, "%s by %s of a %s on %s", name, field, place, p.OS)
						continue
					}
					require.Equal(t, err == nil, reason == "", "%s by %s of a %s on %s %s: %q, %v", name, field, place, p.OS, p.Cgroup, reason, err)
				}
			}
		}
	}
}

// why gives the reason for which a field cannot be had of a place, or with "" all of a metric.
func why(missing []MissingMetric, name string, place Place, field string) string {
	for _, m := range missing {
		switch {
		case m.Name != name || m.Unproven || !slices.Contains(m.Places, place):
		case field == "" && m.Fields == nil, field != "" && slices.Contains(m.Fields, field):
			return m.Why
		}
	}
	return ""
}

func TestWhatIsMissingIsToldByPlace(t *testing.T) {
	own := embeddedCatalog(t)
	// told gives the metrics that are missing as a whole, those of one place, and fields by the system and the metric.
	told := func(p Platform) (whole []string, places, fields map[string][]string) {
		places, fields = map[string][]string{}, map[string][]string{}
		for _, m := range own.Missing(p) {
			switch {
			case m.Unproven:
				require.Equal(t, "linux", p.OS)
				require.Contains(t, m.Name, "vm.")
			case m.Fields != nil:
				fields[m.Name] = append(fields[m.Name], m.Fields...)
			case !m.Here:
				require.True(t, m.Whole, m.Name)
			case m.Whole:
				whole = append(whole, m.Name)
			default:
				for _, place := range m.Places {
					places[string(place)] = append(places[string(place)], m.Name)
				}
			}
		}
		return whole, places, fields
	}
	whole, places, fields := told(complete("linux", "v2"))
	require.Equal(t, []string{"node.httpc_ops", "node.httpd_ops", "node.socket_ops"}, whole)
	require.Equal(t, map[string][]string{
		"host": {"nic.vnic_bytes", "nic.vnic_packets", "vm.physio_bytes", "vm.physio_ops"},
		"zone": {"cpu.loadavg1", "zfs.arc_ops"},
	}, places)
	require.Equal(t, map[string][]string{
		"apache.httpd_ops":      {"ppsargs", "http_url", "raddr", "rport"},
		"cpu.thread_executions": {"ppsargs"},
		"cpu.thread_samples":    {"ppsargs"},
		"fs.logical_ops":        {"ppsargs", "fstype"},
		"fs.logical_rwops":      {"ppsargs"},
		"mysql.queries":         {"parsed"},
		"node.gc_ops":           {"ppsargs"},
		"syscall.syscalls":      {"ppsargs"},
		"tcp.accepts":           {"ppsargs"},
		"tcp.connects":          {"ppsargs", "psargs"},
		"tcp.errors":            {"tcpstack"},
		"tcp.segments":          {"tcpstack"},
		"unix.proc_execs":       {"ppsargs"},
		"unix.proc_exits":       {"ppsargs"},
		"unix.proc_forks":       {"ppsargs"},
		"unix.thr_creates":      {"ppsargs"},
		"vm.physio_ops":         {"errno", "latency", "size", "offset"},
		"vm.thread_samples":     {"vmmmuctx"},
		"zfs.arc_ops":           {"execname", "pid", "psargs", "ppid", "pexecname", "ppsargs"},
	}, sorted(fields, t), "every field of CA 1.0 but these can be had on Linux")

	_, hybrid, _ := told(complete("linux", "hybrid"))
	require.Equal(t, []string{"cpu.loadavg1", "memory.reclaimed_bytes", "zfs.arc_ops"}, hybrid["zone"], "what works for the host alone is missing for zones")

	whole, places, fields = told(complete("illumos", ""))
	require.Empty(t, whole)
	require.Equal(t, map[string][]string{"host": {"memory.swap_limit", "nic.vnic_bytes", "nic.vnic_packets"}, "zone": {"tcp.connects", "unix.processes"}}, places)
	require.Equal(t, map[string][]string{
		"cpu.thread_samples": {"kstack", "ustack"},
		"fs.logical_rwbytes": {"execname", "pid"},
		"mysql.queries":      {"parsed"},
		"tcp.accepts":        {"raddr", "rport", "lport"},
		"tcp.connects":       {"latency", "execname", "ppid", "pexecname", "psargs", "ppsargs"},
		"vm.thread_samples":  {"vmmmuctx"},
	}, sorted(fields, t), "every field of CA 1.0 but these can be had on illumos")

	bare := complete("linux", "v2")
	bare.USDT = nil
	entries := own.Missing(bare)
	require.Contains(t, entries, MissingMetric{Name: "mysql.queries", Label: "queries", Places: []Place{Host, Zone}, Why: noMySQL, Here: true, Whole: true})
	require.Contains(t, entries, MissingMetric{Name: "ldapjs.ops", Label: "all operations", Places: []Place{Host, Zone}, Why: noProvider, Whole: true})
	bare.Bpftrace = ""
	require.Contains(t, own.Missing(bare), MissingMetric{Name: "unix.proc_execs", Label: "process execs", Places: []Place{Host, Zone}, Why: "this host lacks bpftrace >=0.17", Here: true, Whole: true})
}

// sorted checks that no field of a metric is told twice.
func sorted(fields map[string][]string, t *testing.T) map[string][]string {
	t.Helper()
	for name, names := range fields {
		require.Len(t, slices.Compact(slices.Sorted(slices.Values(names))), len(names), name)
	}
	return fields
}

// What was never seen at work says so.
func TestUnprovenMetricsSaySo(t *testing.T) {
	var names []string
	for _, m := range embeddedCatalog(t).Missing(complete("linux", "v2")) {
		if m.Unproven {
			require.Nil(t, m.Fields)
			require.Contains(t, m.Why, "never compared with a guest's")
			names = append(names, m.Name)
		}
	}
	require.Equal(t, []string{"vm.exits", "vm.irqs", "vm.physio_bytes", "vm.physio_ops"}, names)
}
