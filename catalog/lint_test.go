package catalog

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sample is a valid document that the broken ones are made of.
const sample = `schema: iapi.metric/1
metric: {module: test, stat: sample}
version: 1
label: a sample
kind: interval
value: {unit: operations}
visibility: tenant
fields:
  hostname: {builtin: host, label: host name, visibility: operator}
  zonename: {builtin: zone, label: zone name}
  optype: {type: string, label: operation type, values: [read, write]}
  device: {type: string, label: device, max_len: 32}
  size: {type: size, label: size, buckets: {loglinear: {base: 10, low: 3, high: 11, steps: 100}}}
limits: {max_keys: 100, min_granularity_s: 1}
variants:
  - id: linux-host
    cost: 1
    places: [host]
    scope: none
    when: {os: [linux], kernel: ">=4.18 <9"}
    fields: [optype, device, size]
    source:
      file:
        - paths: [/proc/diskstats]
          parser: table
          columns: [device, op, amount]
          exclude: [{column: device, match: "loop[0-9]+"}]
          from:
            device: {column: device}
            optype: {column: op, map: {R: read, W: write}}
          rows:
            - numeric: {size: amount}
              value: {delta: amount}
  - id: linux-zone
    cost: 1
    places: [zone]
    scope: instance-iterator
    when: {os: [linux], cgroup: [v2]}
    fields: [optype]
    source:
      file:
        - paths: ["{instance.cgroup}/io.stat"]
          parser: nestedkeyed
          rows:
            - set: {optype: read}
              value: {delta: rios}
  - id: illumos-zone
    cost: 2
    places: [zone]
    scope: instance-iterator
    when: {os: [illumos]}
    fields: [optype]
    source:
      kstat:
        - module: zone_vfs
          instance_from: zonename
          rows:
            - set: {optype: read}
              value: {delta: {sum: [reads, {scale: {of: writes, mul: 2}}]}}
  - id: zfs-zone
    cost: 3
    places: [host, zone]
    scope: dataset-prefix
    when: {os: [linux, illumos], command: zfs}
    fields: [device]
    source:
      zfs:
        command: zfs
        columns: [used]
        refresh_s: 30
        from: {device: {column: name}}
        rows:
          - value: {ratio: {of: used, per: s}}
`

// tracingSample is a valid document whose variants trace.
const tracingSample = `schema: iapi.metric/1
metric: {module: test, stat: tracing}
version: 1
label: a tracing sample
kind: interval
value: {unit: operations}
visibility: tenant
fields:
  hostname: {builtin: host, label: host name, visibility: operator}
  zonename: {builtin: zone, label: zone name}
  execname: {type: string, label: application name, max_len: 15}
  latency: {type: time, label: latency, buckets: {loglinear: {base: 10, low: 3, high: 11, steps: 100}}}
limits: {max_runtime_s: 3600}
variants:
  - id: linux
    cost: 5
    places: [host, zone]
    scope: map:cgroup
    when: {os: [linux], bpftrace: ">=0.17", tracepoints: ["raw_syscalls:sys_enter", "raw_syscalls:sys_exit", "sched:sched_process_exit"]}
    fields: [execname, latency]
    source:
      bpftrace:
        clauses:
          - probes: ["tracepoint:raw_syscalls:sys_enter"]
            role: entry
            save: {t0: {key: [tid], expr: nsecs}}
          - probes: ["tracepoint:raw_syscalls:sys_exit"]
            role: exit
            require: [t0]
            if: args->ret >= 0
            fields:
              execname: {ctype: str, expr: comm}
              latency: {ctype: uint, expr: nsecs - $t0}
        clean:
          - {probe: "tracepoint:sched:sched_process_exit", save: t0, key: [args->pid]}
  - id: illumos
    cost: 5
    places: [host, zone]
    scope: d:zonename
    when: {os: [illumos], command: dtrace}
    fields: [execname, latency]
    source:
      dtrace:
        options: {strsize: "128"}
        clauses:
          - probes: ["syscall:::entry"]
            role: entry
            save: {t0: {thread: true, expr: timestamp}}
          - probes: ["syscall:::return"]
            role: exit
            require: [t0]
            fields:
              execname: {ctype: str, expr: execname}
              latency: {ctype: uint, expr: timestamp - $t0}
`

// A broken document is one of the samples with a change, and says what the issue tells.
type broken struct {
	name, old, new string
	issue          string // in its path or message
	schema         bool   // the JSON schema refuses it too
}

func (b broken) document() (document []byte, changed bool) {
	text := sample
	if !strings.Contains(sample, b.old) || b.old == "" {
		text = tracingSample
	}
	out := strings.Replace(text, b.old, b.new, 1)
	return []byte(out), out != text
}

var brokenDocuments = []broken{
	{"another schema", "iapi.metric/1", "iapi.metric/2", "schema: ", true},
	{"unknown key", "label: a sample", "label: a sample\nlable: x", "lable", true},
	{"unknown nested key", "cost: 1", "cost: 1\n    costs: 2", "costs", true},
	{"duplicate key", "label: a sample", "label: a sample\nlabel: twice", "twice", false},
	{"duplicate nested key", "cost: 1", "cost: 1\n    cost: 2", "cost", false},
	{"anchor", "label: a sample", "label: &x a sample", "anchors", false},
	{"tag", "label: a sample", "label: !!str a sample", "tags", false},
	{"bad name", "stat: sample", "stat: Sample", "metric: ", true},
	{"no version", "version: 1", "version: 0", "version: ", true},
	{"no label", "label: a sample", `label: ""`, "label: ", true},
	{"control character", "label: a sample", `label: "a\x1bb"`, "label: ", false},
	{"kind", "kind: interval", "kind: rate", "kind: ", true},
	{"value with unit and type", "{unit: operations}", "{unit: operations, type: size}", "value: ", true},
	{"value without both", "{unit: operations}", "{}", "value: ", true},
	{"value of an unknown type", "{unit: operations}", "{type: miles}", "value.type: ", true},
	{"visibility", "visibility: tenant", "visibility: public", "visibility: ", true},
	{"tenant field of an operator's metric", "visibility: tenant\nfields:\n  hostname: {builtin: host, label: host name, visibility: operator}\n  zonename: {builtin: zone, label: zone name}", "visibility: operator\nfields:\n  hostname: {builtin: host, label: host name, visibility: operator}\n  zonename: {builtin: zone, label: zone name, visibility: tenant}", "the metric itself", false},
	{"host names for tenants", "label: host name, visibility: operator", "label: host name", "names of hosts", false},
	{"hostname missing", "  hostname: {builtin: host, label: host name, visibility: operator}\n", "", "hostname is missing", true},
	{"zonename missing", "  zonename: {builtin: zone, label: zone name}\n", "", "zonename", false},
	{"wrong builtin", "builtin: zone", "builtin: host", "not builtin here", false},
	{"builtin with a type", "builtin: zone,", "builtin: zone, type: string,", "only a label", true},
	{"builtin name taken", "zonename: {builtin: zone, label: zone name}", "zonename: {type: string, label: zone name}", "belongs to the builtin", false},
	{"numeric field without buckets", ", buckets: {loglinear: {base: 10, low: 3, high: 11, steps: 100}}", "", "needs buckets", true},
	{"string field with buckets", "max_len: 32", "buckets: {linear: {step: 1}}", "has no buckets", true},
	{"buckets that do not divide", "steps: 100", "steps: 37", "evenly", false},
	{"buckets beyond 64 bits", "high: 11", "high: 30", "64 bits", false},
	{"unknown type", "type: size", "type: length", "fields.size.type", true},
	{"numeric field with values", "type: size,", "type: size, max_len: 3,", "fields of type string", true},
	{"length", "max_len: 32", "max_len: 999", "max_len", true},
	{"match", "max_len: 32", "match: int", "match", true},
	{"value twice", "[read, write]", "[read, read]", "there twice", false},
	{"field without variant", "fields: [optype, device, size]", "fields: [optype, device]", "no variant has it", false},
	{"max keys", "max_keys: 100", "max_keys: 1000000", "max_keys", true},
	{"cost", "cost: 1", "cost: 10", "cost", true},
	{"id", "id: linux-host", "id: Linux Host", "id: ", true},
	{"id twice", "id: linux-zone", "id: linux-host", "there twice", false},
	{"place", "places: [host]", "places: [rack]", "places", true},
	{"no scope", "scope: instance-iterator\n    when: {os: [linux]", "scope: none\n    when: {os: [linux]", "keeps it to them", false},
	{"scope missing", "    scope: none\n", "", "scope: ", true},
	{"scope of the host", "scope: none", "scope: instance-iterator", "has the scope none", false},
	{"scope of another source", "scope: dataset-prefix", "scope: process-cgroup", "does not work with a zfs source", false},
	{"no system", "{os: [linux], kernel", "{kernel", "when.os", true},
	{"system", "{os: [linux], kernel", "{os: [plan9], kernel", "when.os", true},
	{"kernel range", `">=4.18 <9"`, `"4.18"`, "range of versions", true},
	{"cgroup", "cgroup: [v2]", "cgroup: [v3]", "cgroup", true},
	{"file that must exist", "kernel: \">=4.18 <9\"", "files: [/etc/shadow]", "list of what definitions may read", false},
	{"two sources", "      file:\n        - paths: [/proc/diskstats]", "      process: {refresh_s: 5, rows: [{value: {const: 1}}]}\n      file:\n        - paths: [/proc/diskstats]", "exactly one", true},
	{"secret path", "/proc/diskstats", "/etc/shadow", "list of what definitions may read", true},
	{"a process's environment", "/proc/diskstats", "/proc/1/environ", "list of what definitions may read", false},
	{"kernel memory", "/proc/diskstats", "/proc/kcore", "list of what definitions may read", false},
	{"path upwards", "/proc/diskstats", "/sys/block/../../etc/shadow", "straight down", false},
	{"zone's path upwards", "{instance.cgroup}/io.stat", "{instance.cgroup}/../io.stat", "straight down", false},
	{"placeholder", "{instance.cgroup}/io.stat", "{instance.root}/io.stat", "", false},
	{"placeholder within", "{instance.cgroup}/io.stat", "{instance.cgroup}/{instance.pid}/io.stat", "placeholder", false},
	{"a zone's process", "{instance.cgroup}/io.stat", "/proc/{instance.pid}/environ", "list of what definitions may read", false},
	{"the host's file for zones", "{instance.cgroup}/io.stat", "/proc/diskstats", "only the files of zones", false},
	{"a zone's file for hosts", "/proc/diskstats", "\"{instance.cgroup}/io.stat\"", "cannot read the files of zones", false},
	{"namespace without its scope", "{instance.cgroup}/io.stat", "/proc/{instance.pid}/net/dev", "instance-netns goes with", false},
	{"parser", "parser: table", "parser: xml", "parser", true},
	{"columns of another parser", "parser: nestedkeyed", "parser: nestedkeyed\n          skip: 2", "belong to the parser table", false},
	{"column twice", "[device, op, amount]", "[device, op, op]", "there twice", false},
	{"unknown column", "{delta: amount}", "{delta: bytes}", `no column "bytes"`, false},
	{"unknown column of a field", "device: {column: device}", "device: {column: disk}", `no column "disk"`, false},
	{"path column without star", "device: {column: device}", "device: {column: path.1}", `no column "path.1"`, false},
	{"map out of the set", "R: read", "R: reading", "none of read, write", false},
	{"closed set without map", "optype: {column: op, map: {R: read, W: write}}", "optype: {column: op}", "closed set", false},
	{"decode", "device: {column: device}", "device: {column: device, decode: hex}", "decode", true},
	{"regular expression", `"loop[0-9]+"`, `"loop["`, "RE2", false},
	{"long regular expression", `"loop[0-9]+"`, `"` + strings.Repeat("x", 101) + `"`, "100 bytes", true},
	{"empty filter", `{column: device, match: "loop[0-9]+"}`, "{column: device}", "equal, prefix", false},
	{"prefix that matches all", `match: "loop[0-9]+"`, `prefix: [""]`, "matches everything", true},
	{"no rows", "          rows:\n            - numeric: {size: amount}\n              value: {delta: amount}\n", "          rows: []\n", "rows", true},
	{"row without a field", "            - numeric: {size: amount}\n              value", "            - value", "does not give the field size", false},
	{"row with a foreign field", "set: {optype: read}", "set: {optype: read, device: x}", "none of the variant's fields", false},
	{"field twice", "- numeric: {size: amount}", "- numeric: {size: amount}\n              set: {device: x}", "twice", false},
	{"constant out of the set", "set: {optype: read}", "set: {optype: idle}", "none of read, write", false},
	{"numeric field as a constant", "- numeric: {size: amount}", `- set: {size: "1"}`, "type string are set", false},
	{"discrete field as an expression", "numeric: {size: amount}", "numeric: {size: amount, device: amount}", "not numeric", false},
	{"no value", "            - numeric: {size: amount}\n              value: {delta: amount}", "            - numeric: {size: amount}", "it is missing", true},
	{"gauge of an interval", "{delta: amount}", "amount", "use delta or ratio", false},
	{"delta of a point", "kind: interval", "kind: point", "no delta", false},
	{"unknown operation", "{delta: amount}", "{eval: amount}", "no operation", true},
	{"two operations", "{delta: amount}", "{delta: amount, gauge: amount}", "one operation", true},
	{"delta of a delta", "{delta: amount}", "{delta: {delta: amount}}", "itself a difference", false},
	{"diff of one", "{delta: amount}", "{delta: {diff: [amount]}}", "operands", true},
	{"division by zero", "{of: writes, mul: 2}", "{of: writes, div: 0}", "at least 1", true},
	{"unknown member", "{of: writes, mul: 2}", "{of: writes, times: 2}", "does not take", true},
	{"ratio's unit", "per: s", "per: fortnight", "per", true},
	{"skip without values", "{delta: amount}", "{delta: {skip_if: {of: amount, in: []}}}", "needs values", true},
	{"expression too deep", "{delta: amount}", "{delta: {sum: [{sum: [{sum: [{sum: [amount]}]}]}]}}", "4 levels", false},
	{"kstat without selection", "module: zone_vfs\n          ", "", "a module, a name or a class", false},
	{"kstat pattern", "module: zone_vfs", `module: "zone_*"`, "exact name", false},
	{"kstat option", "module: zone_vfs", "module: -x", "exact name", false},
	{"two stars in a part", "/proc/diskstats", "/sys/block/*a*/stat", "at most one *", false},
	{"kstat without zone", "          instance_from: zonename\n", "", "names the zone", false},
	{"kstat on linux", "when: {os: [illumos]}", "when: {os: [linux]}", "no kstats on linux", false},
	{"zfs command", "        command: zfs", "        command: rm", "command", true},
	{"zfs column", "columns: [used]", "columns: [mountpoint]", "none of", false},
	{"zfs refresh", "refresh_s: 30", "refresh_s: 0", "3600 seconds", true},
	{"command not asked for", "when: {os: [linux, illumos], command: zfs}", "when: {os: [linux, illumos]}", "same command", false},

	{"tracing without an end", "limits: {max_runtime_s: 3600}\n", "", "always has an end", false},
	{"bpftrace without versions", `bpftrace: ">=0.17", `, "", "range of bpftrace's versions", false},
	{"unlisted tracepoint", `"raw_syscalls:sys_exit", `, "", "missing from the variant's when", false},
	{"role", "role: exit", "role: leave", "role", true},
	{"entry that saves nothing", "            save: {t0: {key: [tid], expr: nsecs}}\n", "", "an entry saves", false},
	{"nothing saved", "require: [t0]", "require: [t1]", `saved as "t1"`, false},
	{"saved for two", "{thread: true, expr: timestamp}", "{thread: true, key: [tid], expr: timestamp}", "not both", false},
	{"field not given", "              execname: {ctype: str, expr: comm}\n", "", "does not give the field execname", false},
	{"ctype", "ctype: str", "ctype: void", "ctype", true},
	{"option", `strsize: "128"`, `destructive: "1"`, "option", true},
	{"wildcard", "tracepoint:raw_syscalls:sys_exit\"]\n            role", "tracepoint:raw_syscalls:*\"]\n            role", "wildcards", true},
	{"timer", "tracepoint:raw_syscalls:sys_enter\"]\n            role", "interval:s:1\"]\n            role", "timers", true},
	{"fbt wildcard", "syscall:::entry", "fbt:::entry", "wildcards", true},
	{"pid provider", "syscall:::entry", "pid$target:::entry", "wildcards", true},
	{"program's path", "tracepoint:raw_syscalls:sys_enter\"]\n            role", "usdt:/tmp/x:a:b\"]\n            role", "not of a kind", true},
	{"unlisted program's probe", "tracepoint:raw_syscalls:sys_enter\"]\n            role", "usdt:/usr/bin/x:a:b\"]\n            role", "missing from the variant's when", false},
	{"sampling too often", "tracepoint:raw_syscalls:sys_enter\"]\n            role", "profile:hz:997\"]\n            role", "not of a kind", true},
	{"sampling too often in D", "syscall:::entry", "profile:::profile-4999", "wildcards", true},
	{"a timer in D", "syscall:::entry", "profile:::tick-1s", "wildcards", true},
	{"a statement as a key", "key: [tid]", `key: ["tid; @x"]`, "neither statements", true},
	{"a statement as a condition", "if: args->ret >= 0", `if: "1/ { system(0); } BEGIN"`, "neither statements", true},
	{"a statement as a saved value", "expr: nsecs}", `expr: "nsecs; exit()"}`, "neither statements", true},
	{"a saved name", "save: {t0:", "save: {\"t0[1]\":", "is a word", true},
	{"text of a tracepoint", "{ctype: str, expr: comm}", "{ctype: text, length: 63, expr: arg0}", "programs bring along", false},
	{"text of anywhere", "{ctype: str, expr: comm}", "{ctype: text, length: 63, expr: nsecs}", "an argument of the probe", true},
	{"text without a length", "{ctype: str, expr: comm}", "{ctype: text, expr: arg0}", "a length from 1 to 63", true},
	{"long text", "{ctype: str, expr: comm}", "{ctype: text, length: 64, expr: arg0}", "a length from 1 to 63", true},
	{"characters of anywhere", "{ctype: str, expr: comm}", "{ctype: chars, expr: arg0}", "the member of a structure", true},
	{"characters of a cast", "{ctype: str, expr: comm}", `{ctype: chars, expr: "((struct sock *)arg0)->x"}`, "the member of a structure", true},
	{"stack as a text", "{ctype: str, expr: comm}", "{ctype: stack, frames: 8, expr: kernel}", "a field of type string comes from", false},
	{"stack for tenants", "execname: {type: string, label: application name, max_len: 15}", "execname: {type: stack, label: stack}", "stacks are for operators", false},
	{"stack with a length", "execname: {type: string, label: application name, max_len: 15}", "execname: {type: stack, label: stack, visibility: operator, max_len: 15}", "only a label and a visibility", true},
	{"stack in D", "{ctype: str, expr: execname}", "{ctype: stack, frames: 8, expr: kernel}", "is none of", true},
	{"a stack's expression", "{ctype: str, expr: comm}", "{ctype: stack, frames: 8, expr: kstack}", "none of kernel, user", true},
	{"too many frames", "{ctype: str, expr: comm}", "{ctype: stack, frames: 65, expr: kernel}", "1 to 64 frames", true},
	{"decoder of another type", "{ctype: str, expr: comm}", "{ctype: str, expr: comm, decode: syscall}", "is made of", true},
	{"decoder", "{ctype: str, expr: comm}", "{ctype: str, expr: comm, decode: base64}", "none of errno", true},
	{"numeric field of a text", "{ctype: uint, expr: nsecs - $t0}", "{ctype: str, expr: comm}", "a field of type time comes from", false},
	{"an expression for the subsecond", "{ctype: str, expr: comm}", "{ctype: subsecond, expr: nsecs}", "the compiler writes it", true},
	{"another thread by a key", "{key: [tid], expr: nsecs}", "{key: [tid], of: args->id, expr: nsecs}", "goes with thread", true},
	{"another thread in D", "{thread: true, expr: timestamp}", "{thread: true, of: tid, expr: timestamp}", "goes with thread", true},
	{"saved type", "{key: [tid], expr: nsecs}", "{key: [tid], ctype: stack, expr: nsecs}", "cannot be saved here", true},
	{"saved characters of anywhere", "{key: [tid], expr: nsecs}", "{key: [tid], ctype: chars, expr: arg0}", "the member of a structure", false},
	{"keys of an exit", "require: [t0]", "require: [t0]\n            at: [pid, tid]", "as many keys", false},
	{"an expression for the arguments", "{ctype: str, expr: comm}", "{ctype: arguments, expr: comm}", "the compiler writes it", true},
	{"arguments in D", "{ctype: str, expr: execname}", "{ctype: arguments}", "is none of", true},
	{"arguments as a number", "{ctype: uint, expr: nsecs - $t0}", "{ctype: arguments}", "a field of type time comes from", false},
	{"mapped arguments", "{ctype: str, expr: comm}", "{ctype: arguments, map: {a: b}}", "are not mapped", true},
	{"running for a key", "{key: [tid], expr: nsecs}", "{key: [tid], ctype: running, expr: nsecs}", "a thread's own", true},
	{"running of another clock", "{key: [tid], expr: nsecs}", "{thread: true, ctype: running, expr: cpu}", "its expression is nsecs", false},
	{"running without switches", "{key: [tid], expr: nsecs}", "{thread: true, ctype: running, expr: nsecs}", "sched:sched_switch is missing", false},
	{"running in D", "{thread: true, expr: timestamp}", "{thread: true, ctype: running, expr: nsecs}", "cannot be saved here", true},
	{"the place in a file in D", "{thread: true, expr: timestamp}", "{thread: true, ctype: readat, expr: arg0}", "cannot be saved here", true},
	{"a saved text of the kernel", "{key: [tid], expr: nsecs}", "{key: [tid], ctype: text, expr: arg0}", "a program's own probe", false},
	{"another program's probe upwards", "tracepoint:raw_syscalls:sys_enter\"]\n            role", "usdt:/usr/../tmp/evil:a:b\"]\n            role", "not of a kind", true},
	{"a place outside to look for a probe", "tracepoints: [", "usdt: [\"/dev/watchdog:a:b\"], tracepoints: [", "straight down from /usr or /opt", true},
	{"a place upwards to look for a probe", "tracepoints: [", "usdt: [\"/usr/lib/../../tmp/fifo:a:b\"], tracepoints: [", "straight down from /usr or /opt", true},
	{"a place to look for a probe, of a variant that does not trace", "{os: [linux], kernel", "{os: [linux], usdt: [\"/etc/shadow:a:b\"], kernel", "straight down from /usr or /opt", true},
	{"a tracepoint's path", "tracepoints: [", "tracepoints: [\"../../x:y\", ", "category:name", true},
	{"a member of anywhere", "{ctype: uint, expr: nsecs - $t0}", `{ctype: uint, expr: "((uint64 *)0xffffffff81000000)[0]"}`, "reads any memory", false},
	{"characters of a number in D", "{ctype: str, expr: execname}", `{ctype: chars, expr: "args[1]->uio_offset"}`, "the member of a structure", false},
	{"much memory", `strsize: "128"`, `bufsize: "65m"`, "which is the most", false},
	{"more memory than numbers have", `strsize: "128"`, `dynvarsize: "999999999m"`, "which is the most", false},
	{"a rate of a size", `strsize: "128"`, `cleanrate: "101"`, "one with hz", false},
	{"foreign context for tenants", "tracepoint:raw_syscalls:sys_exit\"]\n            role", "tracepoint:block:block_rq_complete\"]\n            role", "is for operators", false},
	{"foreign context for tenants in D", "syscall:::return", "io:::done", "is for operators", false},
	{"whoever runs when a socket changes", "scope: map:cgroup", "scope: map:socket-cgroup", "a socket changes its state in whatever runs", false},
	{"clean-up with a statement", "key: [args->pid]}", "key: [args->pid], if: \"1; exit()\"}", "neither statements", true},
}

func TestSamplesAreValid(t *testing.T) {
	require.Empty(t, Lint([]byte(sample)))
	require.Empty(t, Lint([]byte(tracingSample)))
}

func TestEveryLintRefusesItsDocument(t *testing.T) {
	for _, b := range brokenDocuments {
		t.Run(b.name, func(t *testing.T) {
			document, changed := b.document()
			require.True(t, changed, "the sample has no %q", b.old)
			issues := Lint(document)
			require.NotEmpty(t, issues)
			require.Contains(t, fmt.Sprint(issues), b.issue)
			_, err := Parse(document)
			require.ErrorContains(t, err, "definition: ")
		})
	}
}

func TestMetricForTenantsNeedsAVariantForZones(t *testing.T) {
	d, ok := embeddedCatalog(t).DefinitionOf("zfs.pool_free")
	require.True(t, ok)
	text := strings.Replace(string(d.Document), "visibility: operator\nfields", "visibility: tenant\nfields", 1)
	require.Contains(t, fmt.Sprint(Lint([]byte(text))), "no variant measures zones")
	text = strings.Replace(text, "places: [host]", "places: [host, zone]", 1)
	require.Contains(t, fmt.Sprint(Lint([]byte(text))), "pools belong to no zone")
}

func TestDocumentsAreBounded(t *testing.T) {
	require.Contains(t, fmt.Sprint(Lint([]byte(sample+strings.Repeat("#", MaxDocumentBytes)))), "larger than")
	require.Contains(t, fmt.Sprint(Lint([]byte(strings.Repeat("[", 100)+strings.Repeat("]", 100)))), "nested deeper")
	require.Contains(t, fmt.Sprint(Lint([]byte(sample+"---\n"+sample))), "not one document")
	require.NotEmpty(t, Lint(nil))
	require.NotEmpty(t, Lint([]byte("a: &a [x]\nb: [*a, *a]")))
}

func FuzzParse(f *testing.F) {
	for _, m := range embeddedCatalog(f).Metrics() {
		d, _ := embeddedCatalog(f).DefinitionOf(m.Name)
		f.Add(d.Document)
	}
	f.Add([]byte(sample))
	f.Add([]byte(tracingSample))
	f.Fuzz(func(t *testing.T, document []byte) {
		d, err := Parse(document)
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		require.Equal(t, Digest(document), d.Digest)
		again, err := Parse(d.Document)
		require.NoError(t, err)
		require.Equal(t, d, again)
		for _, field := range d.Metric.Fields {
			if field.Buckets != nil {
				for _, v := range []int64{-1, 0, 1, 999, 1 << 40, 1<<63 - 1} {
					low, high := field.Buckets.Bucket(v)
					require.True(t, low <= v && v <= high)
				}
			}
		}
	})
}
