package catalog

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// lintSource checks the one source of a variant.
func (l *linter) lintSource(path string, v *Variant) {
	s := v.Source
	switch s.kind() {
	case "file":
		for i := range s.File {
			l.lintFile(fmt.Sprintf("%s.file[%d]", path, i), v, &s.File[i])
		}
		if n := len(s.File); n == 0 || n > 8 {
			l.add(path+".file", "there are from 1 to 8")
		}
	case "process":
		l.lintRefresh(path+".process.refresh_s", s.Process.Refresh)
		l.lintTable(path+".process", v, &s.Process.Table, func(c string) bool { return slices.Contains(ProcessColumns, c) })
	case "kstat":
		for i := range s.Kstat {
			l.lintKstat(fmt.Sprintf("%s.kstat[%d]", path, i), v, &s.Kstat[i])
		}
		if n := len(s.Kstat); n == 0 || n > 8 {
			l.add(path+".kstat", "there are from 1 to 8")
		}
	case "zfs":
		l.lintZFS(path+".zfs", v, s.ZFS)
	case "bpftrace":
		l.lintTrace(path+".bpftrace", v, s.Bpftrace, bpftraceLanguage)
	case "dtrace":
		l.lintTrace(path+".dtrace", v, s.DTrace, dLanguage)
	default:
		l.add(path, "it needs exactly one of file, process, kstat, zfs, bpftrace and dtrace")
	}
}

func (l *linter) lintRefresh(path string, seconds int) {
	if seconds < 1 || seconds > 3600 {
		l.add(path, "it is from 1 to 3600 seconds")
	}
}

// What definitions may read. A file source is run by root, so the list has what is known to hold counters and nothing
// that holds secrets, such as a process's memory or environment.
var (
	hostPath     = regexp.MustCompile(`^/proc/(stat|loadavg|meminfo|vmstat|diskstats|schedstat|softirqs|uptime)$|^/proc/(net|pressure|spl/kstat)/|^/sys/(fs/cgroup|class/net|class/block|block|devices/system|kernel/debug/kvm|kernel/mm)(/|$)`)
	netnsPath    = regexp.MustCompile(`^/proc/\{instance\.pid\}/net/`)
	cgroupPath   = regexp.MustCompile(`^\{instance\.cgroup(\.(cpu|cpuacct|memory|blkio|pids))?\}/`)
	kstatName    = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9_.-]{0,62})?$`)
	pathSpelling = regexp.MustCompile(`^[A-Za-z0-9_.,:*/{}-]{1,200}$`)
)

// badPath says what is wrong with a path, "" for nothing.
func badPath(path string) string {
	if !pathSpelling.MatchString(path) {
		return "a path consists of letters, digits and _ . , : * / { } -, and has at most 200 bytes"
	}
	if strings.Contains(path, "..") || strings.Contains(path, "//") || strings.Contains(path, "/./") {
		return "a path goes straight down, without .., . and empty parts"
	}
	for part := range strings.SplitSeq(path, "/") {
		if strings.Count(part, "*") > 1 {
			return "a part of a path has at most one *"
		}
	}
	rest := path
	if prefix := zonePrefix(path); prefix != "" {
		rest = strings.TrimPrefix(path, prefix)
	} else if !hostPath.MatchString(path) {
		return "the path " + path + " is not on the list of what definitions may read"
	}
	if strings.ContainsAny(rest, "{}") {
		return "there is no such placeholder; there are {instance.pid} before /net/ and {instance.cgroup} at the start"
	}
	return ""
}

// zonePrefix returns the part of a path that belongs to one zone, "" if the path is the host's.
func zonePrefix(path string) string {
	if prefix := netnsPath.FindString(path); prefix != "" {
		return prefix
	}
	return cgroupPath.FindString(path)
}

func (l *linter) lintFile(path string, v *Variant, f *FileSource) {
	if n := len(f.Paths); n == 0 || n > 4 {
		l.add(path+".paths", "there are from 1 to 4")
	}
	stars := 0
	for i, file := range f.Paths {
		at := fmt.Sprintf("%s.paths[%d]", path, i)
		if reason := badPath(file); reason != "" {
			l.add(at, "%s", reason)
		} else if reason := v.misplaced(file); reason != "" {
			l.add(at, "%s", reason)
		}
		n := strings.Count(file, "*")
		if i > 0 && n != stars {
			l.add(at, "alternatives have equally many *")
		}
		stars = n
	}
	parsers := []Parser{ParseSingle, ParseKeyValue, ParseFlatKeyed, ParseNestedKeyed, ParseTable, ParseSNMP, ParseSPLKstat}
	if !slices.Contains(parsers, f.Parser) {
		l.add(path+".parser", "%q is none of %v", f.Parser, parsers)
	}
	if f.Parser != ParseTable && (f.Columns != nil || f.Skip != 0 || f.Separators != "") {
		l.add(path, "columns, skip and separators belong to the parser table")
	}
	if f.Skip < 0 || f.Skip > 16 || len(f.Columns) > 64 {
		l.add(path, "skip is at most 16, and there are at most 64 columns")
	}
	if len(f.Separators) > 8 || strings.ContainsFunc(f.Separators, func(r rune) bool { return r != '\t' && (r < ' ' || r > '~') }) {
		l.add(path+".separators", "they are at most 8 ASCII characters")
	}
	seen := make(map[string]bool)
	for i, name := range f.Columns {
		if name != "_" && (!columnPattern.MatchString(name) || seen[name]) {
			l.add(fmt.Sprintf("%s.columns[%d]", path, i), "%q is not a column's name, or there twice", name)
		}
		seen[name] = true
	}
	l.lintTable(path, v, &f.Table, func(column string) bool {
		if n, ok := strings.CutPrefix(column, "path."); ok {
			i, err := strconv.Atoi(n)
			return err == nil && i >= 1 && i <= stars
		}
		switch {
		case f.Parser == ParseSingle:
			return column == "value"
		case f.Parser == ParseTable && f.Columns != nil:
			return column != "_" && slices.Contains(f.Columns, column)
		}
		return columnPattern.MatchString(column)
	})
}

// misplaced says why a path does not go with the variant's place and scope, "" if it does. This keeps the numbers of
// the host, and of other zones, from those who asked about their own.
func (v *Variant) misplaced(path string) string {
	zones := slices.Contains(v.Places, Zone)
	switch own := zonePrefix(path); {
	case !zones && own != "":
		return "a variant for the whole host cannot read the files of zones"
	case zones && own == "":
		return "a variant for zones reads only the files of zones: {instance.cgroup}/… or /proc/{instance.pid}/net/…"
	case zones && slices.Contains(v.Places, Host):
		return "files are read for a whole host or for zones; write a variant for each"
	case zones && netnsPath.MatchString(path) != (v.Scope == ScopeNetns):
		return "the scope instance-netns goes with /proc/{instance.pid}/net/… and with nothing else"
	}
	return ""
}

func (l *linter) lintKstat(path string, v *Variant, k *KstatSource) {
	if k.Module == "" && k.Name == "" && k.Class == "" {
		l.add(path, "it needs a module, a name or a class")
	}
	for _, name := range []string{k.Module, k.Instance, k.Name, k.Class} {
		if !kstatName.MatchString(name) {
			l.add(path, "%q is not the exact name of a kstat", name)
		}
	}
	zones := slices.Contains(v.Places, Zone)
	switch {
	case zones && slices.Contains(v.Places, Host):
		l.add(path, "kstats are read for a whole host or for zones; write a variant for each")
	case zones && k.InstanceFrom == "":
		l.add(path+".instance_from", "a variant for zones needs the column that names the zone")
	case !zones && k.InstanceFrom != "":
		l.add(path+".instance_from", "it belongs to variants for zones")
	}
	if slices.Contains(v.When.OS, "linux") {
		l.add(path, "there are no kstats on linux")
	}
	l.lintTable(path, v, &k.Table, columnPattern.MatchString)
}

var zfsColumns = map[string][]string{
	"zfs": {
		"available", "logicalused", "quota", "referenced", "refquota", "refreservation", "reservation", "used",
		"usedbychildren", "usedbydataset", "usedbysnapshots", "volsize",
	},
	"zpool": {"allocated", "capacity", "fragmentation", "free", "freeing", "size"},
}

func (l *linter) lintZFS(path string, v *Variant, z *ZFSSource) {
	l.oneOf(path+".command", z.Command, slices.Sorted(maps.Keys(zfsColumns))...)
	if v.When.Command != z.Command {
		l.add(path+".command", "the variant's when must ask for the same command")
	}
	if len(z.Columns) == 0 {
		l.add(path+".columns", "it needs columns")
	}
	for i, name := range z.Columns {
		l.oneOf(fmt.Sprintf("%s.columns[%d]", path, i), name, zfsColumns[z.Command]...)
	}
	if z.Command == "zpool" && slices.Contains(v.Places, Zone) {
		l.add(path+".command", "pools belong to no zone")
	}
	l.lintRefresh(path+".refresh_s", z.Refresh)
	l.lintTable(path, v, &z.Table, func(c string) bool { return c == "name" || slices.Contains(z.Columns, c) })
}

// lintTable checks that every row gives exactly the variant's fields, of columns that there are.
func (l *linter) lintTable(path string, v *Variant, t *Table, known func(column string) bool) {
	for i := range t.Select {
		l.lintFilter(fmt.Sprintf("%s.select[%d]", path, i), &t.Select[i], known)
	}
	for i := range t.Exclude {
		l.lintFilter(fmt.Sprintf("%s.exclude[%d]", path, i), &t.Exclude[i], known)
	}
	for _, name := range slices.Sorted(maps.Keys(t.From)) {
		l.lintFrom(path+".from."+name, name, t.From[name], known)
	}
	if n := len(t.Rows); n == 0 || n > 32 {
		l.add(path+".rows", "there are from 1 to 32")
	}
	for i := range t.Rows {
		l.lintRow(fmt.Sprintf("%s.rows[%d]", path, i), v, t, &t.Rows[i], known)
	}
}

func (l *linter) lintRow(path string, v *Variant, t *Table, row *Row, known func(string) bool) {
	given := make(map[string]int)
	for name := range t.From {
		given[name]++
	}
	for _, name := range slices.Sorted(maps.Keys(row.Set)) {
		given[name]++
		f := l.doc.Fields[name]
		if f.Type != "string" {
			l.add(path+".set."+name, "only fields of type string are set to constants")
		} else if len(f.Values) > 0 {
			l.oneOf(path+".set."+name, row.Set[name], f.Values...)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(row.Numeric)) {
		given[name]++
		if _, numeric := units[l.doc.Fields[name].Type]; !numeric {
			l.add(path+".numeric."+name, "the field is not numeric")
		}
		l.lintExpr(path+".numeric."+name, row.Numeric[name], known, 1)
	}
	for _, name := range v.Fields {
		if given[name] == 0 {
			l.add(path, "it does not give the field %s, which the variant has", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.Contains(v.Fields, name) {
			l.add(path, "it gives %s, which is none of the variant's fields", name)
		} else if given[name] > 1 {
			l.add(path, "it gives the field %s twice", name)
		}
	}
	if row.Value.IsZero() {
		l.add(path+".value", "it is missing")
		return
	}
	l.lintExpr(path+".value", row.Value, known, 1)
	switch {
	case l.doc.Kind == "interval" && !row.Value.Differential():
		l.add(path+".value", "the value of an interval metric is a difference: use delta or ratio")
	case l.doc.Kind == "point" && row.Value.Op == OpDelta:
		l.add(path+".value", "the value of a point metric is no delta")
	}
}

func (l *linter) lintFrom(path, name string, from ColumnRef, known func(string) bool) {
	f := l.doc.Fields[name]
	if f.Type != "string" {
		l.add(path, "only fields of type string come from columns; a numeric one is an expression of a row")
	}
	if !known(from.Column) {
		l.add(path+".column", "there is no column %q", from.Column)
	}
	if from.Decode != "" {
		l.oneOf(path+".decode", from.Decode, DecodeMajorMinor)
	}
	if len(f.Values) > 0 && from.Map == nil {
		l.add(path+".map", "the field has a closed set of values, so its column must be mapped to them")
	}
	for _, key := range slices.Sorted(maps.Keys(from.Map)) {
		if len(f.Values) > 0 {
			l.oneOf(path+".map."+key, from.Map[key], f.Values...)
		}
	}
}

func (l *linter) lintFilter(path string, f *Filter, known func(string) bool) {
	if !known(f.Column) {
		l.add(path+".column", "there is no column %q", f.Column)
	}
	if len(f.Equal) == 0 && len(f.Prefix) == 0 && f.Match == "" && !f.Partition {
		l.add(path, "it needs equal, prefix, match or partition")
	}
	if f.Decode != "" {
		l.oneOf(path+".decode", f.Decode, DecodeMajorMinor)
	}
	if slices.Contains(f.Prefix, "") {
		l.add(path+".prefix", "an empty prefix matches everything")
	}
	if len(f.Match) > 100 {
		l.add(path+".match", "it is longer than 100 bytes")
	} else if _, err := regexp.Compile(f.Match); err != nil {
		l.add(path+".match", "it is not RE2: %v", err)
	}
}

// ratioUnits are the units of a ratio.
var ratioUnits = []string{"ns", "us", "ms", "s", "ticks"}

func (l *linter) lintExpr(path string, e Expr, known func(string) bool, depth int) {
	if depth > 4 {
		l.add(path, "the expression is nested deeper than 4 levels")
		return
	}
	want := map[ExprOp][2]int{OpDelta: {1, 1}, OpRatio: {1, 1}, OpScale: {1, 1}, OpDiff: {2, 2}, OpSum: {1, 16}}[e.Op]
	if n := len(e.Of); n < want[0] || n > want[1] {
		l.add(path, "%s takes from %d to %d operands", e.Op, want[0], want[1])
	}
	switch e.Op {
	case OpGauge, OpSkipIf:
		if !known(e.Column) {
			l.add(path, "there is no column %q", e.Column)
		}
		if e.Op == OpSkipIf && len(e.In) == 0 {
			l.add(path, "skip_if needs values")
		}
	case OpScale:
		if e.Mul < 1 || e.Div < 1 {
			l.add(path, "mul and div are at least 1")
		}
	case OpRatio:
		l.oneOf(path+".per", e.Per, ratioUnits...)
	}
	for i, operand := range e.Of {
		if (e.Op == OpDelta || e.Op == OpRatio) && operand.Differential() {
			l.add(path, "the operand of %s is itself a difference", e.Op)
		}
		l.lintExpr(fmt.Sprintf("%s.%s[%d]", path, e.Op, i), operand, known, depth+1)
	}
}
