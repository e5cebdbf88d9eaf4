// Package catalog holds the definitions of metrics: data, never code, that says how a metric is collected on each
// platform. A definition is one YAML document; its exact bytes are what is digested, signed and sent to agents. The
// package parses and checks documents, and comes with a set of them.
//
// A definition has variants: ways to collect the metric, each for some platforms, with a cost and a list of fields.
// Select picks the cheapest one that works on a host and has every field that is asked for. Four kinds of sources
// measure (file, process, kstat, zfs): they give records, which Table turns into values. Two kinds trace (bpftrace,
// dtrace): a compiler writes programs from them.
package catalog

import (
	"slices"
	"time"

	"iapi/measure"
)

// Metric is what a definition says to those who ask for measurements.
type Metric struct {
	Name       string // module.stat
	Module     string
	Stat       string
	Label      string
	Interval   string        // INTERVAL: activity during an interval; POINT: a snapshot at its end
	Unit       string        // of the value, for example operations, bytes, ns, percent of 1 CPU
	Fields     []Field       // in the document's order
	MaxTTL     time.Duration // the longest that an instrumentation which traces may live; 0: unlimited
	Tracing    bool          // every way to collect it traces; see NeedsTracing for those of which some do
	Tenant     bool          // tenants may use it
	Digest     string        // of the definition
	ways       []way         // those to collect it, in the document's order; none: it is of no document
	Collectors []string      // how it is collected: KSTAT, PROCFS, ZFS, DTRACE; sorted, each once
}

// The arities of fields and the intervals of metrics, as the schema names them.
const (
	Discrete = "DISCRETE"
	Numeric  = "NUMERIC"
	Interval = "INTERVAL"
	Point    = "POINT"
)

// The builtin fields, whose values are given by the source of a point and not by a collector.
const (
	BuiltinHost = "hostname"
	BuiltinZone = "zonename"
)

// Field is what data points can be filtered or broken down by.
type Field struct {
	Name     string
	Label    string
	Arity    string           // DISCRETE or NUMERIC
	Unit     string           // of a numeric field: bytes, ns, ms, percent or ""
	Operator bool             // operators only
	Values   []string         // the closed set of a discrete field's values; nil: open
	Uint     bool             // a discrete field whose values are decimal numbers, such as pid
	Address  bool             // a discrete field whose values are IP addresses
	MaxLen   int              // the longest value in bytes that a platform gives; a longer constant never matches. 0: unknown
	Builtin  bool             // hostname or zonename: every variant has it
	Stack    bool             // a discrete field whose values are stacks: functions from the outermost in, joined by semicolons
	Buckets  measure.Bucketer // of a numeric field, nil for a discrete one
}

// Field returns the field with the name.
func (m *Metric) Field(name string) (Field, bool) {
	i := slices.IndexFunc(m.Fields, func(f Field) bool { return f.Name == name })
	if i < 0 {
		return Field{}, false
	}
	return m.Fields[i], true
}

// FieldTypes is what measure.Predicate.Check asks: the fields that a caller may use.
func (m *Metric) FieldTypes(operator bool) func(name string) (measure.FieldType, bool) {
	return func(name string) (measure.FieldType, bool) {
		f, ok := m.Field(name)
		if !ok || f.Operator && !operator {
			return measure.FieldType{}, false
		}
		return measure.FieldType{Numeric: f.Arity == Numeric, Uint: f.Uint, Address: f.Address, Stack: f.Stack, Values: f.Values}, true
	}
}

// systems are those that variants are for, as GOOS names them.
var systems = []string{"linux", "illumos"}

// way is what a variant of a metric can give, and where.
type way struct {
	systems []string // none: every system
	places  []Place
	traces  bool
	fields  []string
}

// NeedsTracing reports whether measuring with the given fields (those of the predicate and the decompositions) can only be
// done by tracing on some system, of hosts or of zones, and so is limited by MaxTTL.
func (m *Metric) NeedsTracing(fields ...string) bool {
	if m.Tracing {
		return true
	}
	measured := false
	for _, system := range systems {
		for _, place := range []Place{Host, Zone} {
			counts := m.collects(system, place, false, fields)
			if !counts && m.collects(system, place, true, fields) {
				return true
			}
			measured = measured || counts
		}
	}
	return !measured
}

// Together reports whether there is a host at all, whatever its system, that can give all of these fields at once.
func (m *Metric) Together(fields ...string) bool {
	return len(m.ways) == 0 || slices.ContainsFunc(systems, func(system string) bool {
		return slices.ContainsFunc([]Place{Host, Zone}, func(place Place) bool {
			return m.collects(system, place, false, fields) || m.collects(system, place, true, fields)
		})
	})
}

// Measures reports whether there is a host at all, whatever its system, that can give all of these fields of such a place.
func (m *Metric) Measures(place Place, fields ...string) bool {
	return len(m.ways) == 0 || slices.ContainsFunc(m.ways, func(w way) bool {
		return slices.Contains(w.places, place) && m.covers(w.fields, fields)
	})
}

// collects reports whether there is a way on a system, one that traces or one that does not, to give all of these fields
// of such a place.
func (m *Metric) collects(system string, place Place, traces bool, fields []string) bool {
	return slices.ContainsFunc(m.ways, func(w way) bool {
		return w.traces == traces && slices.Contains(w.places, place) && (len(w.systems) == 0 || slices.Contains(w.systems, system)) && m.covers(w.fields, fields)
	})
}

func (m *Metric) covers(have, asked []string) bool {
	return !slices.ContainsFunc(asked, func(name string) bool {
		f, _ := m.Field(name)
		return !f.Builtin && !slices.Contains(have, name)
	})
}

// Definition is a parsed document.
type Definition struct {
	Metric   Metric
	Digest   string // hex SHA-256 of Document
	Document []byte // the exact bytes; not to be changed
	Version  int    // grows with each change; never goes back
	Limits   Limits
	Variants []Variant // in the document's order

	Signature []byte // of Document, as it was published with; nil: it is not signed. Only Keys.Verify says whether it holds
	KeyID     string // which key is said to have made it
}

// Limits bound what one instrumentation may cost on one host. Zero means the agent's own default.
type Limits struct {
	MaxKeys        int     `yaml:"max_keys"`          // distinct combinations of discrete fields for each source; the rest becomes "other"
	MaxRuntime     int     `yaml:"max_runtime_s"`     // seconds; of tracing
	MinGranularity int     `yaml:"min_granularity_s"` // seconds; a source that is refreshed more rarely has no finer values
	CPUBudget      float64 `yaml:"cpu_budget_pct"`    // percent of all CPUs together; of tracing
	MaxConcurrent  int     `yaml:"max_concurrent"`    // tracing programs of this metric
}

// Place is what is measured: a whole host, or zones of it.
type Place string

// The places.
const (
	Host Place = "host"
	Zone Place = "zone"
)

// ScopeRule says how a variant is kept to the zones that it was asked for.
type ScopeRule string

// The rules. A variant for zones has one other than ScopeNone.
const (
	ScopeNone         ScopeRule = "none"              // it measures the whole host; operators only
	ScopeInstance     ScopeRule = "instance-iterator" // its records belong to one zone: by the path, or by the column InstanceFrom
	ScopeNetns        ScopeRule = "instance-netns"    // as ScopeInstance, for zones with a network namespace of their own; others are unsupported
	ScopeProcess      ScopeRule = "process-cgroup"    // each process belongs to the zone whose cgroup subtree it is in
	ScopeDataset      ScopeRule = "dataset-prefix"    // each dataset belongs to the zone whose dataset it is or is below
	ScopeCgroup       ScopeRule = "map:cgroup"        // the tracing program looks the current task's cgroup up
	ScopeSocketCgroup ScopeRule = "map:socket-cgroup" // the tracing program looks the socket's cgroup up
	ScopeZonename     ScopeRule = "d:zonename"        // the D program compares zonename
)

// Variant is one way to collect a metric.
type Variant struct {
	ID     string    `yaml:"id"`
	Cost   int       `yaml:"cost"`   // from 1, a file read, to 9, uprobes; the cheapest that fits is used
	Places []Place   `yaml:"places"` // what it can measure
	Scope  ScopeRule `yaml:"scope"`
	When   When      `yaml:"when"`
	Fields []string  `yaml:"fields"` // that it can give, without the builtin ones
	Source Source    `yaml:"source"`
}

// Tracing reports whether the variant runs a tracing program.
func (v *Variant) Tracing() bool { return v.Source.Bpftrace != nil || v.Source.DTrace != nil }

// Collector names what collects it, as the schema's CollectorKind does: KSTAT, PROCFS, ZFS or DTRACE.
func (v *Variant) Collector() string { return v.Source.collector() }

// When says where a variant works. Every member that is given must hold; of a list of os, arch or cgroup one suffices,
// of files, tracepoints and usdt all are needed.
type When struct {
	OS          []string `yaml:"os"`          // linux, illumos
	Arch        []string `yaml:"arch"`        // as Go names them
	Cgroup      []string `yaml:"cgroup"`      // v1, v2, hybrid
	Kernel      string   `yaml:"kernel"`      // a range of versions: ">=5.8", ">=4.18 <6.0"
	Command     string   `yaml:"command"`     // a program that must be installed
	Files       []string `yaml:"files"`       // that must exist on the host
	Tracepoints []string `yaml:"tracepoints"` // category:name
	Bpftrace    string   `yaml:"bpftrace"`    // a range of versions
	USDT        []string `yaml:"usdt"`        // path:provider:name
}

// Source is where a variant's data comes from: exactly one member is set. Of several files or kstats the values are
// put together; they are not joined.
type Source struct {
	File     []FileSource   `yaml:"file"`
	Process  *ProcessSource `yaml:"process"`
	Kstat    []KstatSource  `yaml:"kstat"`
	ZFS      *ZFSSource     `yaml:"zfs"`
	Bpftrace *TraceSource   `yaml:"bpftrace"`
	DTrace   *TraceSource   `yaml:"dtrace"`
}

// Parser names the format of a file.
type Parser string

// The parsers. Each gives records: columns by name.
const (
	ParseSingle      Parser = "single"      // one value, the column "value"; a trailing newline is dropped
	ParseKeyValue    Parser = "keyvalue"    // one record from lines "Key:   123 kB"; what follows the number is dropped
	ParseFlatKeyed   Parser = "flatkeyed"   // one record from lines "key 123"
	ParseNestedKeyed Parser = "nestedkeyed" // one record for each line "8:0 rbytes=1 wbytes=2"; the first word is the column "key"
	ParseTable       Parser = "table"       // one record for each line, see Columns
	ParseSNMP        Parser = "snmp"        // one record from pairs of lines "Tcp: InSegs …" and "Tcp: 5 …"; columns "Tcp.InSegs"
	ParseSPLKstat    Parser = "spl-kstat"   // one record: two lines of header, then lines "name type value"
)

// FileSource reads files of the kernel.
//
// Paths are templates. {instance.pid} is the id of a zone's first process, {instance.cgroup} its directory in the
// unified hierarchy and {instance.cgroup.CONTROLLER} (cpuacct, memory, blkio) in one of version 1. A * matches within
// one part of the path; what the n-th one matched is the column "path.n". Several paths are alternatives: the first of
// which a file exists is read. A file that does not exist gives no records.
type FileSource struct {
	Paths  []string `yaml:"paths"`
	Parser Parser   `yaml:"parser"`
	// Of ParseTable only. Columns names them from the left; "_" is one that is not needed; a line may have fewer or
	// more. Without Columns the first line after Skip has the names.
	Columns    []string `yaml:"columns"`
	Skip       int      `yaml:"skip"`       // lines at the start that are no data
	Separators string   `yaml:"separators"` // characters between columns, one or more; spaces and tabs by default
	Table      `yaml:",inline"`
}

// The columns of ProcessSource: rss and vsize are in bytes, cpu_ns is the CPU time used so far, cgroup is the path of its
// cgroup, 255 bytes at most, and on illumos the number of its contract, pmodel is 32 or 64, the bits of its addresses, or unknown to who may not trace it, execname is at most 15
// bytes on Linux, psargs is the arguments joined by spaces, 80 bytes at most.
var ProcessColumns = []string{"pid", "ppid", "execname", "pexecname", "psargs", "rss", "vsize", "nthreads", "state", "uid", "cpu_ns", "cgroup", "pmodel"}

// ProcessSource gives a record for each process of the host.
type ProcessSource struct {
	Refresh int `yaml:"refresh_s"` // seconds for which one reading of the table serves
	Table   `yaml:",inline"`
}

// KstatSource gives a record for each kstat that matches. Columns are module, instance, name, class, and the
// statistics by name.
type KstatSource struct {
	Module   string `yaml:"module"` // empty members match everything
	Instance string `yaml:"instance"`
	Name     string `yaml:"name"`
	Class    string `yaml:"class"`
	// InstanceFrom is the column that names the zone; needed in variants for zones.
	InstanceFrom string `yaml:"instance_from"`
	Table        `yaml:",inline"`
}

// ZFSSource gives a record for each line of "zfs list -Hp -o name,…" or "zpool list -Hp -o name,…". Columns are name
// and Columns. A - is no value.
type ZFSSource struct {
	Command string   `yaml:"command"` // zfs or zpool
	Columns []string `yaml:"columns"`
	Refresh int      `yaml:"refresh_s"` // seconds for which one run of the command serves
	Table   `yaml:",inline"`
}

// Table turns records into values. A record counts when it passes every Select and no Exclude; each Row then gives one
// value with the fields of From, Set and Numeric. Values that have equal discrete fields of those asked for are added.
type Table struct {
	Select  []Filter             `yaml:"select"`
	Exclude []Filter             `yaml:"exclude"`
	From    map[string]ColumnRef `yaml:"from"` // discrete fields that are the same for each row
	Rows    []Row                `yaml:"rows"`
}

// Row is one value of a record.
type Row struct {
	Set     map[string]string `yaml:"set"`     // discrete fields with constant values
	Numeric map[string]Expr   `yaml:"numeric"` // numeric fields
	Value   Expr              `yaml:"value"`
}

// ColumnRef is a discrete field's value out of a column.
type ColumnRef struct {
	Column string            `yaml:"column"`
	Map    map[string]string `yaml:"map"`    // replaces values; a record with a value that is not there gives nothing
	Decode string            `yaml:"decode"` // majorminor: the name of the block device 8:0
}

// DecodeMajorMinor turns 8:0 into sda.
const DecodeMajorMinor = "majorminor"

// Filter is a condition on a column's text. Of Equal, Prefix and Match any suffices. A record without the column does
// not fulfil it.
type Filter struct {
	Column    string   `yaml:"column"`
	Equal     []string `yaml:"equal"`
	Prefix    []string `yaml:"prefix"`
	Match     string   `yaml:"match"`     // RE2, matching the whole text, 100 bytes at most
	Partition bool     `yaml:"partition"` // it names a partition of a block device
	Decode    string   `yaml:"decode"`    // majorminor: what is compared is the name of the block device
}

// TraceSource is what a tracing program is compiled from. The compiler writes the program's frame, the scope, the
// predicate and the aggregation; a definition gives expressions, which Lint reads by a closed grammar of listed names.
type TraceSource struct {
	Clauses []Clause          `yaml:"clauses"`
	Clean   []Clean           `yaml:"clean"`
	Options map[string]string `yaml:"options"` // of dtrace: strsize, dynvarsize, aggsize, bufsize, cleanrate
}

// Role says what a clause does.
type Role string

// The roles.
const (
	Event Role = "event" // counts by itself
	Entry Role = "entry" // remembers; the exit counts
	Exit  Role = "exit"  // counts, and forgets what the entry saved
)

// Clause is what happens at some probes.
type Clause struct {
	Probes  []string              `yaml:"probes"`
	Role    Role                  `yaml:"role"`
	If      string                `yaml:"if"`      // a condition of the definition's own
	Save    map[string]Save       `yaml:"save"`    // what an entry remembers, by name
	Require []string              `yaml:"require"` // names that must be saved for an exit to count
	At      []string              `yaml:"at"`      // the keys of what is required, where the exit has them by other expressions than the entry
	Fields  map[string]TraceField `yaml:"fields"`  // that can be had here; $name is what was saved
	Value   string                `yaml:"value"`   // what is added up; empty: 1, a count
}

// Save remembers an expression's value for one thread, or by keys.
type Save struct {
	Key    []string `yaml:"key"`
	Thread bool     `yaml:"thread"`
	// Of bpftrace only, with Thread: the id of the thread that it is saved for, where that is not the current one. The
	// entry is then not kept to zones, and the exit alone is; its exit always comes, so that nothing cleans up after it.
	Of    string `yaml:"of"`
	CType CType  `yaml:"ctype"` // empty: a number; else one of savedTypes
	Expr  string `yaml:"expr"`
}

// CType says what the expression of a TraceField is, and so what the compiler makes of it. Only the compiler follows
// pointers; a definition cannot.
type CType string

// The types.
const (
	CTypeInt       CType = "int"
	CTypeUint      CType = "uint"
	CTypeStr       CType = "str"       // a text of the tracer's own, such as comm or execname
	CTypeChars     CType = "chars"     // an array of characters in a structure of the kernel
	CTypeText      CType = "text"      // an argument of a program's own probe: the address of its text, of which Length bytes are read; 63 if it is saved
	CTypeIP        CType = "ip"        // an address
	CTypeFSType    CType = "fstype"    // of bpftrace only: the number of an open file; the type of the file system that it is on
	CTypeStack     CType = "stack"     // of bpftrace only: kernel or user, of which Frames functions are kept
	CTypeSubsecond CType = "subsecond" // has no expression: ms since the whole second of UTC
	CTypeArguments CType = "arguments" // of bpftrace only, has no expression: the current process's, joined by spaces, the first ArgumentBytes of them
	// Of bpftrace and of what is saved only.
	CTypeRunning CType = "running" // nsecs, which stands still for the thread while it is on no CPU: nsecs less it is CPU time
	CTypeReadAt  CType = "readat"  // the number of an open file; 1 more than where the next read of it begins
	CTypeWriteAt CType = "writeat" // the number of an open file; 1 more than where the next write to it begins
	CTypeTCP     CType = "tcp"     // the number of an open file; 1 if it is a socket of TCP, so that an exit that requires it counts no others
)

// ArgumentBytes is how much there is of CTypeArguments.
const ArgumentBytes = 64

// TraceField is a field's value at a clause.
type TraceField struct {
	CType  CType             `yaml:"ctype"`
	Expr   string            `yaml:"expr"`
	Length int               `yaml:"length"` // of CTypeText: bytes, from 1 to 63
	Frames int               `yaml:"frames"` // of CTypeStack: from 1 to 64
	Decode string            `yaml:"decode"` // by the agent: majorminor, syscall, errno, firstletter
	Map    map[string]string `yaml:"map"`    // after Decode
}

// Clean forgets what was saved when an exit never comes.
type Clean struct {
	Probe string   `yaml:"probe"`
	If    string   `yaml:"if"`
	Save  string   `yaml:"save"`
	Key   []string `yaml:"key"`
}
