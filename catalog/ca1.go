package catalog

// CA1Metric is a metric of Cloud Analytics 1.0, which IAPI comes after.
type CA1Metric struct {
	Name  string
	Label string
	// Absent says why a definition of it does not come with IAPI, where it does not.
	Absent string
}

// Why whole families are absent.
const (
	noMySQL    = "MySQL and MariaDB have lost their probes; their performance_schema, read by an exporter, has it"
	noNode     = "Node.js has lost its probes; the program can send it itself, by OTLP"
	noProvider = "its probes came from the program's own dtrace-provider, which today's versions do not have; the program can send it itself, by OTLP"
	noService  = "it watches a service of Triton from within, by probes that belong to that service"
	noSelf     = "it watched CA 1.0 itself; IAPI's own figures are at /metrics, and in the status of its agents"
	noGuest    = "it needs a hypervisor's probes, and no definition has been tried on one"
	noTrace    = "it has to be traced, and no definition says how yet"
	noTracer   = "it has to be traced, and the agents of this program do not trace"
)

// CA1 returns the metrics of Cloud Analytics 1.0, in the order of its modules.
func CA1() []CA1Metric {
	return []CA1Metric{
		{"apache.httpd_ops", "HTTP requests", "Apache's httpd is packaged without its probes; its log or an exporter has it"},
		{"ca.instr_beops", "instrumenter backend requests", noSelf},
		{"ca.instr_disables", "instrumenter disable operations", noSelf},
		{"ca.instr_enables", "instrumenter enable operations", noSelf},
		{"ca.instr_ticks", "instrumenter ticks", noSelf},
		{"cpu.cpus", "CPUs", ""},
		{"cpu.loadavg1", "1-minute load average", ""},
		{"cpu.thread_executions", "thread executions", noTrace},
		{"cpu.thread_samples", "thread samples", noTrace},
		{"cpu.usage", "aggregated CPU usage", ""},
		{"cpu.waittime", "aggregated wait time", ""},
		{"disk.disks", "disks", ""},
		{"disk.physio_bytes", "bytes read and written", ""},
		{"disk.physio_ops", "I/O operations", ""},
		{"fs.logical_ops", "logical filesystem operations", noTrace},
		{"fs.logical_rwbytes", "logical bytes read/written", ""},
		{"fs.logical_rwops", "logical read/write operations", ""},
		{"ldapjs.connections", "connections", noProvider},
		{"ldapjs.ops", "all operations", noProvider},
		{"ldapjs.search_ops", "search operations", noProvider},
		{"mantaop.jobs_assigned", "jobs assigned", noService},
		{"mantaop.supervisor_auths", "supervisor auth requests", noService},
		{"mantaop.supervisor_deletes", "supervisor delete requests", noService},
		{"mantaop.supervisor_errors", "supervisor errors", noService},
		{"mantaop.supervisor_locates", "supervisor locate requests", noService},
		{"mantaop.tasks_committed", "tasks committed", noService},
		{"mantaop.tasks_dispatched", "tasks dispatched", noService},
		{"mantaop.tasks_executed", "tasks executed", noService},
		{"mantaop.tasks_killed", "tasks killed", noService},
		{"mantaop.zone_resets", "zone resets", noService},
		{"memory.pageins", "pages paged in", ""},
		{"memory.reclaimed_bytes", "excess memory reclaimed", ""},
		{"memory.rss", "resident set size", ""},
		{"memory.rss_limit", "maximum resident set size", ""},
		{"memory.swap", "virtual memory reserved", ""},
		{"memory.swap_limit", "maximum virtual memory reserved", ""},
		{"moray.ops", "operations", noService},
		{"moray.queries", "SQL queries", noService},
		{"mysql.commands", "commands", noMySQL},
		{"mysql.connections", "connections", noMySQL},
		{"mysql.filesort", "filesort", noMySQL},
		{"mysql.queries", "queries", noMySQL},
		{"mysql.statements", "statements", noMySQL},
		{"nic.bytes", "bytes sent and received", ""},
		{"nic.nics", "NICs", ""},
		{"nic.packets", "packets sent and received", ""},
		{"nic.vnic_bytes", "VNIC bytes sent and received", ""},
		{"nic.vnic_packets", "VNIC packets sent and received", ""},
		{"node.gc_ops", "garbage collection operations", noNode},
		{"node.httpc_ops", "HTTP client operations", noNode},
		{"node.httpd_ops", "HTTP server operations", noNode},
		{"node.socket_ops", "socket operations", noNode},
		{"postgres.queries", "queries", noTrace},
		{"restify.handler_ops", "handler operations", noProvider},
		{"restify.server_ops", "server operations", noProvider},
		{"syscall.syscalls", "system calls", noTracer},
		{"tcp.accepts", "accepts", noTracer},
		{"tcp.connects", "connects", noTracer},
		{"tcp.errors", "errors", ""},
		{"tcp.segments", "segments", ""},
		{"unix.proc_execs", "process execs", noTracer},
		{"unix.proc_exits", "process exits", noTracer},
		{"unix.proc_forks", "process forks", noTracer},
		{"unix.processes", "processes", ""},
		{"unix.thr_creates", "thread creations", noTracer},
		{"vm.exits", "exits", noGuest},
		{"vm.irqs", "interrupt requests", noGuest},
		{"vm.physio_bytes", "disk bytes read and written", noGuest},
		{"vm.physio_ops", "disk I/O operations", noGuest},
		{"vm.thread_samples", "thread samples", "it read the guest's registers through a hypervisor that is gone"},
		{"zfs.arc_ops", "ARC operations", ""},
		{"zfs.dataset_quota", "quota size", ""},
		{"zfs.dataset_unused_quota", "unused quota", ""},
		{"zfs.dataset_used", "used space", ""},
		{"zfs.pool_free", "free space in pool", ""},
		{"zfs.pool_total", "total space in pool", ""},
		{"zfs.pool_used", "used space in pool", ""},
	}
}

// MissingMetric is a metric of CA 1.0 that cannot be had, and why.
type MissingMetric struct {
	Name  string `json:"name"`
	Label string `json:"label"`
	Why   string `json:"why"`
	Here  bool   `json:"here"` // it is defined, and only this machine cannot collect it
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
			continue
		}
		why := reasonOf(zone)
		if h := reasonOf(host); h != why {
			why = h + "; " + why
		}
		out = append(out, MissingMetric{Name: m.Name, Label: m.Label, Why: why, Here: true})
	}
	return out
}
