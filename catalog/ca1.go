package catalog

// CA1Metric is a metric of Cloud Analytics 1.0, which IAPI comes after.
type CA1Metric struct {
	Name   string
	Label  string
	Fields string // in its order, besides hostname and zonename
	Zones  bool   // it could be had of zones, and not only of a whole host
	// Absent says why a definition of it does not come with IAPI, where it does not.
	Absent string
	// Linux and Illumos say why the definition has no way to measure there, where it has none.
	Linux, Illumos string
	// Unproven says what nobody has seen of it on Linux.
	Unproven string
}

// Why whole families are absent, or cannot be had on one platform.
const (
	noMySQL    = "MySQL took its probes out in 8.0; before, and in MariaDB, they are there when built with -DENABLE_DTRACE=ON, which Debian's are not; their performance_schema, read by an exporter, has it"
	noNode     = "Node.js took its probes out in 19, and before had them on Linux only when built --with-dtrace; the program can send it itself, by OTLP"
	noNodeHTTP = "Node.js took its probes out in 19, and where an older one has them on Linux, bpftrace reads six of their arguments, and the seventh says which connection it is; the program can send it itself, by OTLP"
	noApache   = "Apache's httpd has probes only when built with --enable-dtrace, which Debian's is not; its log or an exporter has it"
	noProvider = "its probes came from the program's own dtrace-provider, which today's versions do not have; the program can send it itself, by OTLP"
	noJobs     = "it watched the jobs of Manta, which Manta's second version does not have"
	noMoray    = "its probes are Moray's own, from dtrace-provider, and their arguments have changed with its versions: on SmartOS they may be there, but no definition names them, because none could be run here; on Linux there are none. Moray's metrics port tells"
	noSelf     = "it watched CA 1.0 itself; IAPI's own figures are at /metrics, and in the status of its agents"
	noGuest    = "it is there, but its counts were never compared with a guest's: where IAPI is tested no processor runs virtual machines by itself, and the kernel tells of no exits of those that run without"
)

// The fields by which CA 1.0 told processes, and their parents.
const (
	process = "execname pid psargs"
	parent  = " ppid pexecname ppsargs"
)

// CA1 returns the metrics of Cloud Analytics 1.0, in the order of its modules.
func CA1() []CA1Metric {
	return []CA1Metric{
		{Name: "apache.httpd_ops", Label: "HTTP requests", Zones: true, Fields: process + parent + " http_method http_url raddr rport http_path latency", Linux: noApache},
		{Name: "ca.instr_beops", Label: "instrumenter backend requests", Fields: "cabackend cainstnid cametric latency subsecond", Absent: noSelf},
		{Name: "ca.instr_disables", Label: "instrumenter disable operations", Fields: "cabackend cainstnid cametric latency", Absent: noSelf},
		{Name: "ca.instr_enables", Label: "instrumenter enable operations", Fields: "cabackend cainstnid cametric latency", Absent: noSelf},
		{Name: "ca.instr_ticks", Label: "instrumenter ticks", Fields: "latency subsecond", Absent: noSelf},
		{Name: "cpu.cpus", Label: "CPUs", Fields: "cpu utilization"},
		{Name: "cpu.loadavg1", Label: "1-minute load average", Zones: true},
		{Name: "cpu.thread_executions", Label: "thread executions", Zones: true, Fields: process + parent + " leavereason runtime subsecond"},
		{Name: "cpu.thread_samples", Label: "thread samples", Zones: true, Fields: process + parent + " subsecond"},
		{Name: "cpu.usage", Label: "aggregated CPU usage", Zones: true, Fields: "cpumode"},
		{Name: "cpu.waittime", Label: "aggregated wait time", Zones: true},
		{Name: "disk.disks", Label: "disks", Fields: "disk iops iops_read iops_write bytes bytes_read bytes_write busytime"},
		{Name: "disk.physio_bytes", Label: "bytes read and written", Fields: "disk optype"},
		{Name: "disk.physio_ops", Label: "I/O operations", Fields: "disk optype latency size offset"},
		{Name: "fs.logical_ops", Label: "logical filesystem operations", Zones: true, Fields: process + parent + " fstype optype latency"},
		{Name: "fs.logical_rwbytes", Label: "logical bytes read/written", Zones: true, Fields: "optype"},
		{Name: "fs.logical_rwops", Label: "logical read/write operations", Zones: true, Fields: process + parent + " fstype optype size offset latency"},
		{Name: "ldapjs.connections", Label: "connections", Zones: true, Fields: process + " raddr", Absent: noProvider},
		{Name: "ldapjs.ops", Label: "all operations", Zones: true, Fields: process + " raddr optype ldapbinddn ldaprequestdn status latency", Absent: noProvider},
		{Name: "ldapjs.search_ops", Label: "search operations", Zones: true, Fields: process + " raddr ldapbinddn ldaprequestdn status ldapfilter ldapscope latency", Absent: noProvider},
		{Name: "mantaop.jobs_assigned", Label: "jobs assigned", Zones: true, Absent: noJobs},
		{Name: "mantaop.supervisor_auths", Label: "supervisor auth requests", Zones: true, Fields: "user errname latency", Absent: noJobs},
		{Name: "mantaop.supervisor_deletes", Label: "supervisor delete requests", Zones: true, Fields: "objname errname latency", Absent: noJobs},
		{Name: "mantaop.supervisor_errors", Label: "supervisor errors", Zones: true, Fields: "jobid", Absent: noJobs},
		{Name: "mantaop.supervisor_locates", Label: "supervisor locate requests", Zones: true, Fields: "objname errname latency", Absent: noJobs},
		{Name: "mantaop.tasks_committed", Label: "tasks committed", Zones: true, Fields: "jobid", Absent: noJobs},
		{Name: "mantaop.tasks_dispatched", Label: "tasks dispatched", Zones: true, Fields: "jobid", Absent: noJobs},
		{Name: "mantaop.tasks_executed", Label: "tasks executed", Fields: "jobid latency", Absent: noJobs},
		{Name: "mantaop.tasks_killed", Label: "tasks killed", Fields: "jobid", Absent: noJobs},
		{Name: "mantaop.zone_resets", Label: "zone resets", Zones: true, Fields: "errname latency", Absent: noJobs},
		{Name: "memory.pageins", Label: "pages paged in", Zones: true},
		{Name: "memory.reclaimed_bytes", Label: "excess memory reclaimed", Zones: true},
		{Name: "memory.rss", Label: "resident set size", Zones: true},
		{Name: "memory.rss_limit", Label: "maximum resident set size", Zones: true},
		{Name: "memory.swap", Label: "virtual memory reserved", Zones: true},
		{Name: "memory.swap_limit", Label: "maximum virtual memory reserved", Zones: true},
		{Name: "moray.ops", Label: "operations", Zones: true, Fields: process + " optype table latency cputime", Absent: noMoray},
		{Name: "moray.queries", Label: "SQL queries", Zones: true, Fields: process + " querysubstr latency cputime", Absent: noMoray},
		{Name: "mysql.commands", Label: "commands", Zones: true, Fields: process + " command user client status latency cputime", Linux: noMySQL},
		{Name: "mysql.connections", Label: "connections", Zones: true, Fields: process + " user client latency", Linux: noMySQL},
		{Name: "mysql.filesort", Label: "filesort", Zones: true, Fields: process + " database table latency cputime", Linux: noMySQL},
		{Name: "mysql.queries", Label: "queries", Zones: true, Fields: process + " querysubstr database user client parsed status latency cputime", Linux: noMySQL},
		{Name: "mysql.statements", Label: "statements", Zones: true, Fields: process + " statement status rowsmatched rowschanged latency cputime", Linux: noMySQL},
		{Name: "nic.bytes", Label: "bytes sent and received", Fields: "nic direction"},
		{Name: "nic.nics", Label: "NICs", Fields: "nic packets packets_in packets_out bytes bytes_read bytes_write"},
		{Name: "nic.packets", Label: "packets sent and received", Fields: "nic direction"},
		{Name: "nic.vnic_bytes", Label: "VNIC bytes sent and received", Zones: true, Fields: "direction"},
		{Name: "nic.vnic_packets", Label: "VNIC packets sent and received", Zones: true, Fields: "direction"},
		{Name: "node.gc_ops", Label: "garbage collection operations", Zones: true, Fields: process + parent + " gctype latency", Linux: noNode},
		{Name: "node.httpc_ops", Label: "HTTP client operations", Zones: true, Fields: process + parent + " http_method http_url raddr rport http_path latency", Linux: noNodeHTTP},
		{Name: "node.httpd_ops", Label: "HTTP server operations", Zones: true, Fields: process + parent + " http_method http_url raddr rport http_path http_origin latency", Linux: noNodeHTTP},
		{Name: "node.socket_ops", Label: "socket operations", Zones: true, Fields: process + parent + " optype raddr rport size buffered", Linux: noNode},
		{Name: "postgres.queries", Label: "queries", Zones: true, Fields: process + " querysubstr latency cputime"},
		{Name: "restify.handler_ops", Label: "handler operations", Zones: true, Fields: process + parent + " restify_sname restify_rname restify_hname latency", Absent: noProvider},
		{Name: "restify.server_ops", Label: "server operations", Zones: true, Fields: process + parent + " restify_sname restify_rname http_url http_method http_status latency", Absent: noProvider},
		{Name: "syscall.syscalls", Label: "system calls", Zones: true, Fields: process + parent + " syscall subsecond latency cputime"},
		{Name: "tcp.accepts", Label: "accepts", Zones: true, Fields: process + parent + " rport raddr"},
		{Name: "tcp.connects", Label: "connects", Zones: true, Fields: process + parent + " rport raddr"},
		{Name: "tcp.errors", Label: "errors", Fields: "tcpstack errtype"},
		{Name: "tcp.segments", Label: "segments", Fields: "tcpstack direction"},
		{Name: "unix.proc_execs", Label: "process execs", Zones: true, Fields: process + parent + " subsecond"},
		{Name: "unix.proc_exits", Label: "process exits", Zones: true, Fields: process + parent + " subsecond walltime"},
		{Name: "unix.proc_forks", Label: "process forks", Zones: true, Fields: process + " ppid subsecond"},
		{Name: "unix.processes", Label: "processes", Zones: true, Fields: "execname pid ppid rss contract psargs pmodel nthreads"},
		{Name: "unix.thr_creates", Label: "thread creations", Zones: true, Fields: process + parent + " subsecond"},
		{Name: "vm.exits", Label: "exits", Zones: true, Fields: "vleavereason vcpuid", Unproven: noGuest},
		{Name: "vm.irqs", Label: "interrupt requests", Zones: true, Fields: "subsecond irqvector", Unproven: noGuest},
		{Name: "vm.physio_bytes", Label: "disk bytes read and written", Zones: true, Fields: "optype", Unproven: noGuest},
		{Name: "vm.physio_ops", Label: "disk I/O operations", Zones: true, Fields: "optype errno latency size offset", Unproven: noGuest},
		{Name: "vm.thread_samples", Label: "thread samples", Zones: true, Fields: "subsecond vmmmuctx"},
		{Name: "zfs.arc_ops", Label: "ARC operations", Zones: true, Fields: process + parent + " optype"},
		{Name: "zfs.dataset_quota", Label: "quota size", Fields: "zdataset"},
		{Name: "zfs.dataset_unused_quota", Label: "unused quota", Fields: "zdataset"},
		{Name: "zfs.dataset_used", Label: "used space", Fields: "zdataset"},
		{Name: "zfs.pool_free", Label: "free space in pool", Fields: "zpool"},
		{Name: "zfs.pool_total", Label: "total space in pool", Fields: "zpool"},
		{Name: "zfs.pool_used", Label: "used space in pool", Fields: "zpool"},
	}
}
