package catalog

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// CA1Metric is a metric of Cloud Analytics 1.0, which IAPI comes after.
type CA1Metric struct {
	Name   string
	Label  string
	Fields string // in its order, besides hostname and zonename
	// Absent says why a definition of it does not come with IAPI, where it does not.
	Absent string
	// Linux and Illumos say why the definition has no way to measure there, where it has none.
	Linux, Illumos string
}

// Why whole families are absent, or cannot be had on one platform.
const (
	noMySQL     = "MySQL took its probes out in 8.0; before, and in MariaDB, they are there when built with -DENABLE_DTRACE=ON, which Debian's are not; their performance_schema, read by an exporter, has it"
	noNode      = "Node.js took its probes out in 19, and before had them on Linux only when built --with-dtrace; the program can send it itself, by OTLP"
	noNodeHTTP  = "Node.js took its probes out in 19, and where an older one has them on Linux, bpftrace reads six of their arguments, and the seventh says which connection it is; the program can send it itself, by OTLP"
	noApache    = "Apache's httpd has probes only when built with --enable-dtrace, which Debian's is not; its log or an exporter has it"
	noProvider  = "its probes came from the program's own dtrace-provider, which today's versions do not have; the program can send it itself, by OTLP"
	noService   = "it watches a service of Triton from within, by probes that belong to that service"
	noSelf      = "it watched CA 1.0 itself; IAPI's own figures are at /metrics, and in the status of its agents"
	noPsinfo    = "no collector of IAPI reads the process table of illumos, whose records are binary"
	noSchedstat = "this kernel has no /proc/schedstat (CONFIG_SCHEDSTATS), from which a host's is read; no file has that of a zone"
	noRegisters = "it read the guest's registers through a hypervisor that is gone; cpu.thread_samples has the threads of virtual CPUs"
)

// The fields by which CA 1.0 told processes, and their parents.
const (
	process = "execname pid psargs"
	parent  = " ppid pexecname ppsargs"
)

// CA1 returns the metrics of Cloud Analytics 1.0, in the order of its modules.
func CA1() []CA1Metric {
	return []CA1Metric{
		{Name: "apache.httpd_ops", Label: "HTTP requests", Fields: process + parent + " http_method http_url raddr rport http_path latency", Linux: noApache},
		{Name: "ca.instr_beops", Label: "instrumenter backend requests", Fields: "cabackend cainstnid cametric latency subsecond", Absent: noSelf},
		{Name: "ca.instr_disables", Label: "instrumenter disable operations", Fields: "cabackend cainstnid cametric latency", Absent: noSelf},
		{Name: "ca.instr_enables", Label: "instrumenter enable operations", Fields: "cabackend cainstnid cametric latency", Absent: noSelf},
		{Name: "ca.instr_ticks", Label: "instrumenter ticks", Fields: "latency subsecond", Absent: noSelf},
		{Name: "cpu.cpus", Label: "CPUs", Fields: "cpu utilization"},
		{Name: "cpu.loadavg1", Label: "1-minute load average"},
		{Name: "cpu.thread_executions", Label: "thread executions", Fields: process + parent + " leavereason runtime subsecond"},
		{Name: "cpu.thread_samples", Label: "thread samples", Fields: process + parent + " subsecond"},
		{Name: "cpu.usage", Label: "aggregated CPU usage", Fields: "cpumode"},
		{Name: "cpu.waittime", Label: "aggregated wait time", Linux: noSchedstat},
		{Name: "disk.disks", Label: "disks", Fields: "disk iops iops_read iops_write bytes bytes_read bytes_write busytime"},
		{Name: "disk.physio_bytes", Label: "bytes read and written", Fields: "disk optype"},
		{Name: "disk.physio_ops", Label: "I/O operations", Fields: "disk optype latency size offset"},
		{Name: "fs.logical_ops", Label: "logical filesystem operations", Fields: process + parent + " fstype optype latency"},
		{Name: "fs.logical_rwbytes", Label: "logical bytes read/written", Fields: "optype"},
		{Name: "fs.logical_rwops", Label: "logical read/write operations", Fields: process + parent + " fstype optype size offset latency"},
		{Name: "ldapjs.connections", Label: "connections", Fields: process + " raddr", Absent: noProvider},
		{Name: "ldapjs.ops", Label: "all operations", Fields: process + " raddr optype ldapbinddn ldaprequestdn status latency", Absent: noProvider},
		{Name: "ldapjs.search_ops", Label: "search operations", Fields: process + " raddr ldapbinddn ldaprequestdn status ldapfilter ldapscope latency", Absent: noProvider},
		{Name: "mantaop.jobs_assigned", Label: "jobs assigned", Absent: noService},
		{Name: "mantaop.supervisor_auths", Label: "supervisor auth requests", Fields: "user errname latency", Absent: noService},
		{Name: "mantaop.supervisor_deletes", Label: "supervisor delete requests", Fields: "objname errname latency", Absent: noService},
		{Name: "mantaop.supervisor_errors", Label: "supervisor errors", Fields: "jobid", Absent: noService},
		{Name: "mantaop.supervisor_locates", Label: "supervisor locate requests", Fields: "objname errname latency", Absent: noService},
		{Name: "mantaop.tasks_committed", Label: "tasks committed", Fields: "jobid", Absent: noService},
		{Name: "mantaop.tasks_dispatched", Label: "tasks dispatched", Fields: "jobid", Absent: noService},
		{Name: "mantaop.tasks_executed", Label: "tasks executed", Fields: "jobid latency", Absent: noService},
		{Name: "mantaop.tasks_killed", Label: "tasks killed", Fields: "jobid", Absent: noService},
		{Name: "mantaop.zone_resets", Label: "zone resets", Fields: "errname latency", Absent: noService},
		{Name: "memory.pageins", Label: "pages paged in"},
		{Name: "memory.reclaimed_bytes", Label: "excess memory reclaimed"},
		{Name: "memory.rss", Label: "resident set size"},
		{Name: "memory.rss_limit", Label: "maximum resident set size"},
		{Name: "memory.swap", Label: "virtual memory reserved"},
		{Name: "memory.swap_limit", Label: "maximum virtual memory reserved"},
		{Name: "moray.ops", Label: "operations", Fields: process + " optype table latency cputime", Absent: noService},
		{Name: "moray.queries", Label: "SQL queries", Fields: process + " querysubstr latency cputime", Absent: noService},
		{Name: "mysql.commands", Label: "commands", Fields: process + " command user client status latency cputime", Linux: noMySQL},
		{Name: "mysql.connections", Label: "connections", Fields: process + " user client latency", Linux: noMySQL},
		{Name: "mysql.filesort", Label: "filesort", Fields: process + " database table latency cputime", Linux: noMySQL},
		{Name: "mysql.queries", Label: "queries", Fields: process + " querysubstr database user client parsed status latency cputime", Linux: noMySQL},
		{Name: "mysql.statements", Label: "statements", Fields: process + " statement status rowsmatched rowschanged latency cputime", Linux: noMySQL},
		{Name: "nic.bytes", Label: "bytes sent and received", Fields: "nic direction"},
		{Name: "nic.nics", Label: "NICs", Fields: "nic packets packets_in packets_out bytes bytes_read bytes_write"},
		{Name: "nic.packets", Label: "packets sent and received", Fields: "nic direction"},
		{Name: "nic.vnic_bytes", Label: "VNIC bytes sent and received", Fields: "direction"},
		{Name: "nic.vnic_packets", Label: "VNIC packets sent and received", Fields: "direction"},
		{Name: "node.gc_ops", Label: "garbage collection operations", Fields: process + parent + " gctype latency", Linux: noNode},
		{Name: "node.httpc_ops", Label: "HTTP client operations", Fields: process + parent + " http_method http_url raddr rport http_path latency", Linux: noNodeHTTP},
		{Name: "node.httpd_ops", Label: "HTTP server operations", Fields: process + parent + " http_method http_url raddr rport http_path http_origin latency", Linux: noNodeHTTP},
		{Name: "node.socket_ops", Label: "socket operations", Fields: process + parent + " optype raddr rport size buffered", Linux: noNode},
		{Name: "postgres.queries", Label: "queries", Fields: process + " querysubstr latency cputime"},
		{Name: "restify.handler_ops", Label: "handler operations", Fields: process + parent + " restify_sname restify_rname restify_hname latency", Absent: noProvider},
		{Name: "restify.server_ops", Label: "server operations", Fields: process + parent + " restify_sname restify_rname http_url http_method http_status latency", Absent: noProvider},
		{Name: "syscall.syscalls", Label: "system calls", Fields: process + parent + " syscall subsecond latency cputime"},
		{Name: "tcp.accepts", Label: "accepts", Fields: process + parent + " rport raddr"},
		{Name: "tcp.connects", Label: "connects", Fields: process + parent + " rport raddr"},
		{Name: "tcp.errors", Label: "errors", Fields: "tcpstack errtype"},
		{Name: "tcp.segments", Label: "segments", Fields: "tcpstack direction"},
		{Name: "unix.proc_execs", Label: "process execs", Fields: process + parent + " subsecond"},
		{Name: "unix.proc_exits", Label: "process exits", Fields: process + parent + " subsecond walltime"},
		{Name: "unix.proc_forks", Label: "process forks", Fields: process + " ppid subsecond"},
		{Name: "unix.processes", Label: "processes", Fields: "execname pid ppid rss contract psargs pmodel nthreads", Illumos: noPsinfo},
		{Name: "unix.thr_creates", Label: "thread creations", Fields: process + parent + " subsecond"},
		{Name: "vm.exits", Label: "exits", Fields: "vleavereason vcpuid"},
		{Name: "vm.irqs", Label: "interrupt requests", Fields: "subsecond irqvector"},
		{Name: "vm.physio_bytes", Label: "disk bytes read and written", Fields: "optype"},
		{Name: "vm.physio_ops", Label: "disk I/O operations", Fields: "optype errno latency size offset"},
		{Name: "vm.thread_samples", Label: "thread samples", Fields: "subsecond vmmmuctx", Absent: noRegisters},
		{Name: "zfs.arc_ops", Label: "ARC operations", Fields: process + parent + " optype"},
		{Name: "zfs.dataset_quota", Label: "quota size", Fields: "zdataset"},
		{Name: "zfs.dataset_unused_quota", Label: "unused quota", Fields: "zdataset"},
		{Name: "zfs.dataset_used", Label: "used space", Fields: "zdataset"},
		{Name: "zfs.pool_free", Label: "free space in pool", Fields: "zpool"},
		{Name: "zfs.pool_total", Label: "total space in pool", Fields: "zpool"},
		{Name: "zfs.pool_used", Label: "used space in pool", Fields: "zpool"},
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

// Reasons that several fields share.
const (
	counted     = "it is counted there for all processes together"
	notAccepted = "a connection is established before a process accepts it"
	ofCgroup    = "the counters of a cgroup do not tell"
	byHost      = ofCgroup + "; disk.physio_ops has it for the host"
	noPath      = "calls with a path have no open file whose file system could be asked for"
	someParsed  = "a probe tells of it to which not every query comes, and what is counted has passed each of a definition's probes"
	onlyPID     = "the probe tells of the process only its number"
)

// Why a field cannot be had where the metric can, by the system and the field, or of one metric alone by its name too.
var lacks = map[string]map[string]string{
	"linux": {
		"ppsargs":                   "a parent keeps its arguments in its own memory, which a tracer cannot read while the child runs",
		"fstype":                    noPath,
		"tcpstack":                  "each network namespace has one TCP stack, and its zone says which",
		"execname":                  counted,
		"pid":                       counted,
		"psargs":                    counted,
		"ppid":                      counted,
		"pexecname":                 counted,
		"errno":                     ofCgroup,
		"latency":                   byHost,
		"size":                      byHost,
		"offset":                    byHost,
		"parsed":                    someParsed,
		"contract":                  "Linux has no process contracts",
		"pmodel":                    "no collector of IAPI looks into a program's file for it",
		"apache.httpd_ops http_url": "its probe has the path, without the query",
		"apache.httpd_ops raddr":    "its probes do not tell of the connection",
		"apache.httpd_ops rport":    "its probes do not tell of the connection",
		"tcp.accepts execname":      notAccepted,
		"tcp.accepts pid":           notAccepted,
		"tcp.accepts psargs":        notAccepted,
		"tcp.accepts ppid":          notAccepted,
		"tcp.accepts pexecname":     notAccepted,
		"tcp.accepts ppsargs":       notAccepted,
		"tcp.connects psargs":       "another process may run when a connection is established, and bpftrace cannot keep arguments until then",
		"zfs.arc_ops ppsargs":       counted,
	},
	"illumos": {
		"kstack":                 "the rows of D programs have no stacks here",
		"ustack":                 "the rows of D programs have no stacks here",
		"parsed":                 someParsed,
		"latency":                "the probe comes when it is established, and nothing keeps when it began",
		"execname":               counted,
		"pid":                    counted,
		"tcp.accepts execname":   notAccepted,
		"tcp.accepts pid":        notAccepted,
		"tcp.accepts psargs":     notAccepted,
		"tcp.accepts ppid":       notAccepted,
		"tcp.accepts pexecname":  notAccepted,
		"tcp.accepts ppsargs":    notAccepted,
		"tcp.connects execname":  onlyPID,
		"tcp.connects psargs":    onlyPID,
		"tcp.connects ppid":      onlyPID,
		"tcp.connects pexecname": onlyPID,
		"tcp.connects ppsargs":   onlyPID,
	},
}

// lacking tells of the fields of a metric, and of those that CA 1.0 had, that nothing gives on the system.
func (d *Definition) lacking(os string, m CA1Metric) []MissingMetric {
	var names []string
	for _, f := range d.Metric.Fields {
		if !f.Builtin {
			names = append(names, f.Name)
		}
	}
	for name := range strings.FieldsSeq(m.Fields) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	byReason := map[string][]string{}
	for _, name := range names {
		if slices.ContainsFunc(d.Variants, func(v Variant) bool {
			return (len(v.When.OS) == 0 || slices.Contains(v.When.OS, os)) && slices.Contains(v.Fields, name)
		}) {
			continue
		}
		why := cmp.Or(lacks[os][m.Name+" "+name], lacks[os][name], "nothing gives it on "+os)
		byReason[why] = append(byReason[why], name)
	}
	var out []MissingMetric
	for _, why := range slices.Sorted(maps.Keys(byReason)) {
		out = append(out, MissingMetric{Name: m.Name, Label: m.Label, Why: why, Here: true, Fields: byReason[why]})
	}
	return out
}
