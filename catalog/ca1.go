package catalog

import (
	"maps"
	"slices"
)

// CA1Metric is a metric of Cloud Analytics 1.0, which IAPI comes after.
type CA1Metric struct {
	Name  string
	Label string
	// Absent says why a definition of it does not come with IAPI, where it does not.
	Absent string
	// Linux and Illumos say why the definition has no way to measure there, where it has none.
	Linux, Illumos string
}

// Why whole families are absent, or cannot be had on one platform.
const (
	noMySQL     = "MySQL took its probes out in 8.0, and MariaDB as it is packaged has none; their performance_schema, read by an exporter, has it"
	noNode      = "Node.js took its probes out in 19, and before had them on Linux only when built --with-dtrace; the program can send it itself, by OTLP"
	noApache    = "Apache's httpd has probes only when built with --enable-dtrace, which packages are not, and they tell of its hooks, not of requests; its log or an exporter has it"
	noProvider  = "its probes came from the program's own dtrace-provider, which today's versions do not have; the program can send it itself, by OTLP"
	noService   = "it watches a service of Triton from within, by probes that belong to that service"
	noSelf      = "it watched CA 1.0 itself; IAPI's own figures are at /metrics, and in the status of its agents"
	noPsinfo    = "no collector of IAPI reads the process table of illumos, whose records are binary"
	noSchedstat = "this kernel has no /proc/schedstat (CONFIG_SCHEDSTATS), from which a host's is read; no file has that of a zone"
	noRegisters = "it read the guest's registers through a hypervisor that is gone; cpu.thread_samples has the threads of virtual CPUs"
)

// CA1 returns the metrics of Cloud Analytics 1.0, in the order of its modules.
func CA1() []CA1Metric {
	return []CA1Metric{
		{Name: "apache.httpd_ops", Label: "HTTP requests", Linux: noApache},
		{Name: "ca.instr_beops", Label: "instrumenter backend requests", Absent: noSelf},
		{Name: "ca.instr_disables", Label: "instrumenter disable operations", Absent: noSelf},
		{Name: "ca.instr_enables", Label: "instrumenter enable operations", Absent: noSelf},
		{Name: "ca.instr_ticks", Label: "instrumenter ticks", Absent: noSelf},
		{Name: "cpu.cpus", Label: "CPUs"},
		{Name: "cpu.loadavg1", Label: "1-minute load average"},
		{Name: "cpu.thread_executions", Label: "thread executions"},
		{Name: "cpu.thread_samples", Label: "thread samples"},
		{Name: "cpu.usage", Label: "aggregated CPU usage"},
		{Name: "cpu.waittime", Label: "aggregated wait time", Linux: noSchedstat},
		{Name: "disk.disks", Label: "disks"},
		{Name: "disk.physio_bytes", Label: "bytes read and written"},
		{Name: "disk.physio_ops", Label: "I/O operations"},
		{Name: "fs.logical_ops", Label: "logical filesystem operations"},
		{Name: "fs.logical_rwbytes", Label: "logical bytes read/written"},
		{Name: "fs.logical_rwops", Label: "logical read/write operations"},
		{Name: "ldapjs.connections", Label: "connections", Absent: noProvider},
		{Name: "ldapjs.ops", Label: "all operations", Absent: noProvider},
		{Name: "ldapjs.search_ops", Label: "search operations", Absent: noProvider},
		{Name: "mantaop.jobs_assigned", Label: "jobs assigned", Absent: noService},
		{Name: "mantaop.supervisor_auths", Label: "supervisor auth requests", Absent: noService},
		{Name: "mantaop.supervisor_deletes", Label: "supervisor delete requests", Absent: noService},
		{Name: "mantaop.supervisor_errors", Label: "supervisor errors", Absent: noService},
		{Name: "mantaop.supervisor_locates", Label: "supervisor locate requests", Absent: noService},
		{Name: "mantaop.tasks_committed", Label: "tasks committed", Absent: noService},
		{Name: "mantaop.tasks_dispatched", Label: "tasks dispatched", Absent: noService},
		{Name: "mantaop.tasks_executed", Label: "tasks executed", Absent: noService},
		{Name: "mantaop.tasks_killed", Label: "tasks killed", Absent: noService},
		{Name: "mantaop.zone_resets", Label: "zone resets", Absent: noService},
		{Name: "memory.pageins", Label: "pages paged in"},
		{Name: "memory.reclaimed_bytes", Label: "excess memory reclaimed"},
		{Name: "memory.rss", Label: "resident set size"},
		{Name: "memory.rss_limit", Label: "maximum resident set size"},
		{Name: "memory.swap", Label: "virtual memory reserved"},
		{Name: "memory.swap_limit", Label: "maximum virtual memory reserved"},
		{Name: "moray.ops", Label: "operations", Absent: noService},
		{Name: "moray.queries", Label: "SQL queries", Absent: noService},
		{Name: "mysql.commands", Label: "commands", Linux: noMySQL},
		{Name: "mysql.connections", Label: "connections", Linux: noMySQL},
		{Name: "mysql.filesort", Label: "filesort", Linux: noMySQL},
		{Name: "mysql.queries", Label: "queries", Linux: noMySQL},
		{Name: "mysql.statements", Label: "statements", Linux: noMySQL},
		{Name: "nic.bytes", Label: "bytes sent and received"},
		{Name: "nic.nics", Label: "NICs"},
		{Name: "nic.packets", Label: "packets sent and received"},
		{Name: "nic.vnic_bytes", Label: "VNIC bytes sent and received"},
		{Name: "nic.vnic_packets", Label: "VNIC packets sent and received"},
		{Name: "node.gc_ops", Label: "garbage collection operations", Linux: noNode},
		{Name: "node.httpc_ops", Label: "HTTP client operations", Linux: noNode},
		{Name: "node.httpd_ops", Label: "HTTP server operations", Linux: noNode},
		{Name: "node.socket_ops", Label: "socket operations", Linux: noNode},
		{Name: "postgres.queries", Label: "queries"},
		{Name: "restify.handler_ops", Label: "handler operations", Absent: noProvider},
		{Name: "restify.server_ops", Label: "server operations", Absent: noProvider},
		{Name: "syscall.syscalls", Label: "system calls"},
		{Name: "tcp.accepts", Label: "accepts"},
		{Name: "tcp.connects", Label: "connects"},
		{Name: "tcp.errors", Label: "errors"},
		{Name: "tcp.segments", Label: "segments"},
		{Name: "unix.proc_execs", Label: "process execs"},
		{Name: "unix.proc_exits", Label: "process exits"},
		{Name: "unix.proc_forks", Label: "process forks"},
		{Name: "unix.processes", Label: "processes", Illumos: noPsinfo},
		{Name: "unix.thr_creates", Label: "thread creations"},
		{Name: "vm.exits", Label: "exits"},
		{Name: "vm.irqs", Label: "interrupt requests"},
		{Name: "vm.physio_bytes", Label: "disk bytes read and written"},
		{Name: "vm.physio_ops", Label: "disk I/O operations"},
		{Name: "vm.thread_samples", Label: "thread samples", Absent: noRegisters},
		{Name: "zfs.arc_ops", Label: "ARC operations"},
		{Name: "zfs.dataset_quota", Label: "quota size"},
		{Name: "zfs.dataset_unused_quota", Label: "unused quota"},
		{Name: "zfs.dataset_used", Label: "used space"},
		{Name: "zfs.pool_free", Label: "free space in pool"},
		{Name: "zfs.pool_total", Label: "total space in pool"},
		{Name: "zfs.pool_used", Label: "used space in pool"},
	}
}

// MissingMetric is a metric of CA 1.0 that cannot be had, and why.
type MissingMetric struct {
	Name  string `json:"name"`
	Label string `json:"label"`
	Why   string `json:"why"`
	Here  bool   `json:"here"` // it is defined, and only this machine cannot collect it
	// Fields are those that are missing of a metric that can be had without them; nil: all of it is missing.
	Fields []string `json:"fields,omitempty"`
}

// Missing returns the metrics of CA 1.0 that the catalog does not have, or that the platform cannot collect neither for a
// host nor for a zone.
func (c *Catalog) Missing(p Platform) []MissingMetric {
	var out []MissingMetric
	for _, m := range CA1() {
		d, ok := c.byName[m.Name]
		if !ok {
			out = append(out, MissingMetric{Name: m.Name, Label: m.Label, Why: m.Absent})
			continue
		}
		_, host := d.Select(p, Host, nil)
		_, zone := d.Select(p, Zone, nil)
		if host == nil || zone == nil {
			out = append(out, d.lacking(p.OS, m)...)
			continue
		}
		why := reasonOf(zone)
		if h := reasonOf(host); h != why {
			why = h + "; " + why
		}
		if own := map[string]string{"linux": m.Linux, "illumos": m.Illumos}[p.OS]; own != "" {
			why = own
		}
		out = append(out, MissingMetric{Name: m.Name, Label: m.Label, Why: why, Here: true})
	}
	return out
}

const counted = "it is counted there for all processes together"

// Why a field cannot be had where the metric can, by its name on Linux.
var linuxLacks = map[string]string{
	"psargs":    "a process keeps its arguments in its own memory, which a tracer cannot rely on reading there",
	"cputime":   "a tracer there has no clock of a thread's own CPU time",
	"fstype":    "calls with a path have no open file whose file system could be asked for",
	"offset":    "calls without an offset of their own go on from where the file stands, which is not theirs to tell",
	"tcpstack":  "each network namespace has one TCP stack, and its zone says which",
	"execname":  counted,
	"pid":       counted,
	"ppid":      counted,
	"pexecname": counted,
	"errno":     "the counters of a cgroup do not tell",
	"latency":   "the counters of a cgroup do not tell; disk.physio_ops has it for the host",
}

// lacking tells of the fields of a metric that nothing gives on the system.
func (d *Definition) lacking(os string, m CA1Metric) []MissingMetric {
	byReason := map[string][]string{}
	for _, f := range d.Metric.Fields {
		gives := func(v Variant) bool {
			return (len(v.When.OS) == 0 || slices.Contains(v.When.OS, os)) && slices.Contains(v.Fields, f.Name)
		}
		if f.Builtin || slices.ContainsFunc(d.Variants, gives) {
			continue
		}
		why := "nothing gives it on " + os
		if reason, ok := linuxLacks[f.Name]; ok && os == "linux" {
			why = reason
		}
		byReason[why] = append(byReason[why], f.Name)
	}
	var out []MissingMetric
	for _, why := range slices.Sorted(maps.Keys(byReason)) {
		out = append(out, MissingMetric{Name: m.Name, Label: m.Label, Why: why, Here: true, Fields: byReason[why]})
	}
	return out
}
