package catalog

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

var (
	wordPattern   = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)
	idPattern     = regexp.MustCompile(`^[a-z][a-z0-9-]{0,47}$`)
	columnPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.:()-]{0,63}$`)
)

// linter collects what is wrong with one document.
type linter struct {
	doc    *document
	issues []Issue
}

func (l *linter) add(path, format string, args ...any) {
	l.issues = append(l.issues, Issue{Path: path, Message: fmt.Sprintf(format, args...)})
}

// oneOf adds an issue when a value is none of those allowed.
func (l *linter) oneOf(path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		l.add(path, "%q is none of %s", value, strings.Join(allowed, ", "))
	}
}

// text adds an issue when a text for people is missing, long or not one line.
func (l *linter) text(path, value string) {
	if value == "" || len(value) > 120 || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		l.add(path, "it needs one line of text of at most 120 bytes")
	}
}

// lint returns what is wrong with a document that could be read.
func (d *document) lint() []Issue {
	l := &linter{doc: d}
	if d.Schema != Schema {
		l.add("schema", "%q is not %s", d.Schema, Schema)
	}
	if !wordPattern.MatchString(d.Metric.Module) || !wordPattern.MatchString(d.Metric.Stat) {
		l.add("metric", "module and stat are words of lower-case letters, digits and _")
	}
	if d.Version < 1 {
		l.add("version", "it starts at 1")
	}
	l.text("label", d.Label)
	l.oneOf("kind", d.Kind, "interval", "point")
	l.oneOf("visibility", d.Visibility, "operator", "tenant")
	l.lintValue()
	l.lintFields()
	l.lintLimits()
	l.lintVariants()
	return l.issues
}

func (l *linter) lintValue() {
	v := l.doc.Value
	_, numeric := units[v.Type]
	switch {
	case (v.Unit == "") == (v.Type == ""):
		l.add("value", "it needs a unit or a type, and not both")
	case v.Type != "" && !numeric:
		l.oneOf("value.type", v.Type, slices.Sorted(maps.Keys(units))...)
	case v.Unit != "":
		l.text("value.unit", v.Unit)
	}
}

func (l *linter) lintFields() {
	if len(l.doc.Fields) > 32 {
		l.add("fields", "there are more than 32")
	}
	for _, name := range l.doc.order {
		f, path := l.doc.Fields[name], "fields."+name
		if !wordPattern.MatchString(name) {
			l.add(path, "a field's name is a word of lower-case letters, digits and _")
		}
		l.text(path+".label", f.Label)
		if f.Visibility != "" {
			l.oneOf(path+".visibility", f.Visibility, "operator", "tenant")
		}
		if f.Visibility == "tenant" && l.doc.Visibility == "operator" {
			l.add(path+".visibility", "the metric itself is for operators")
		}
		switch {
		case f.Builtin != "":
			l.lintBuiltin(path, name, f)
		case name == BuiltinHost || name == BuiltinZone:
			l.add(path, "this name belongs to the builtin field")
		default:
			l.lintField(path, f)
		}
	}
}

func (l *linter) lintBuiltin(path, name string, f fieldDoc) {
	if want := map[string]string{"host": BuiltinHost, "zone": BuiltinZone}[f.Builtin]; want != name {
		l.add(path+".builtin", "%q is not builtin here: hostname is builtin host, zonename is builtin zone", f.Builtin)
	}
	if f.Type != "" || f.Values != nil || f.MaxLen != 0 || f.Match != "" || f.Buckets != (bucketsDoc{}) {
		l.add(path, "a builtin field has only a label and a visibility")
	}
	if name == BuiltinHost && f.Visibility != "operator" {
		l.add(path+".visibility", "names of hosts are for operators")
	}
}

func (l *linter) lintField(path string, f fieldDoc) {
	_, numeric := units[f.Type]
	switch {
	case f.Type == typeStack:
		if f.Values != nil || f.MaxLen != 0 || f.Match != "" || f.Buckets != (bucketsDoc{}) {
			l.add(path, "a field of type stack has only a label and a visibility")
		}
		if f.Visibility != "operator" && l.doc.Visibility != "operator" {
			l.add(path+".visibility", "stacks are for operators: they tell of the kernel, and of foreign code")
		}
		return
	case f.Type != "string" && !numeric:
		l.oneOf(path+".type", f.Type, append(slices.Sorted(maps.Keys(units)), "string", typeStack)...)
		return
	}
	l.lintBuckets(path+".buckets", f.Buckets, numeric)
	if numeric {
		if f.Values != nil || f.MaxLen != 0 || f.Match != "" {
			l.add(path, "values, max_len and match are for fields of type string")
		}
		return
	}
	if f.MaxLen < 0 || f.MaxLen > 255 {
		l.add(path+".max_len", "it is from 1 to 255 bytes")
	}
	if f.Match != "" {
		l.oneOf(path+".match", f.Match, "uint")
	}
	if len(f.Values) > 256 || len(slices.Compact(slices.Sorted(slices.Values(f.Values)))) != len(f.Values) {
		l.add(path+".values", "there are more than 256, or one is there twice")
	}
	for i, value := range f.Values {
		l.text(fmt.Sprintf("%s.values[%d]", path, i), value)
	}
}

func (l *linter) lintBuckets(path string, b bucketsDoc, numeric bool) {
	var err error
	switch {
	case !numeric:
		if b != (bucketsDoc{}) {
			l.add(path, "a field of type string has no buckets")
		}
	case (b.LogLinear == nil) == (b.Linear == nil):
		l.add(path, "a numeric field needs buckets: loglinear or linear, and not both")
	case b.LogLinear != nil:
		err = b.LogLinear.Validate()
	default:
		err = b.Linear.Validate()
	}
	if err != nil {
		l.add(path, "%v", err)
	}
}

func (l *linter) lintLimits() {
	limits := l.doc.Limits
	check := func(name string, ok bool, rule string) {
		if !ok {
			l.add("limits."+name, "it is from %s", rule)
		}
	}
	check("max_keys", limits.MaxKeys >= 0 && limits.MaxKeys <= 10_000, "1 to 10000")
	check("max_runtime_s", limits.MaxRuntime >= 0 && limits.MaxRuntime <= 7*86400, "1 second to 7 days")
	check("min_granularity_s", limits.MinGranularity >= 0 && limits.MinGranularity <= 3600, "1 to 3600 seconds")
	check("cpu_budget_pct", limits.CPUBudget >= 0 && limits.CPUBudget <= 100, "0 to 100 percent")
	check("max_concurrent", limits.MaxConcurrent >= 0 && limits.MaxConcurrent <= 64, "1 to 64")
}

func (l *linter) lintVariants() {
	d := l.doc
	if n := len(d.Variants); n == 0 || n > 16 {
		l.add("variants", "there are from 1 to 16")
	}
	ids := make(map[string]bool)
	given := make(map[string]bool)
	zones := false
	for i := range d.Variants {
		v := &d.Variants[i]
		l.lintVariant(fmt.Sprintf("variants[%d]", i), v)
		if ids[v.ID] {
			l.add(fmt.Sprintf("variants[%d].id", i), "%q is there twice", v.ID)
		}
		ids[v.ID] = true
		zones = zones || slices.Contains(v.Places, Zone)
		for _, name := range v.Fields {
			given[name] = true
		}
	}
	for _, name := range d.order {
		if d.Fields[name].Builtin == "" && !given[name] {
			l.add("fields."+name, "no variant has it")
		}
	}
	if d.Visibility == "tenant" && !zones {
		l.add("variants", "tenants may use the metric, but no variant measures zones")
	}
	if _, ok := d.Fields[BuiltinZone]; zones != ok {
		l.add("fields", "a metric has the field zonename when a variant measures zones, and only then")
	}
	if _, ok := d.Fields[BuiltinHost]; !ok {
		l.add("fields", "the field hostname is missing")
	}
}

func (l *linter) lintVariant(path string, v *Variant) {
	if !idPattern.MatchString(v.ID) {
		l.add(path+".id", "it is a word of lower-case letters, digits and -")
	}
	if v.Cost < 1 || v.Cost > 9 {
		l.add(path+".cost", "it is from 1 to 9")
	}
	l.lintScope(path, v)
	l.lintWhen(path+".when", v.When)
	seen := make(map[string]bool)
	for i, name := range v.Fields {
		f, ok := l.doc.Fields[name]
		if !ok || f.Builtin != "" || seen[name] {
			l.add(fmt.Sprintf("%s.fields[%d]", path, i), "%q is no field of the metric, or builtin, or there twice", name)
		}
		seen[name] = true
	}
	l.lintSource(path+".source", v)
}

// scopes says which rules go with which kind of source.
var scopes = map[string][]ScopeRule{
	"file":     {ScopeInstance, ScopeNetns},
	"process":  {ScopeProcess},
	"kstat":    {ScopeInstance},
	"zfs":      {ScopeDataset},
	"bpftrace": {ScopeCgroup, ScopeSocketCgroup},
	"dtrace":   {ScopeZonename},
}

func (l *linter) lintScope(path string, v *Variant) {
	if len(v.Places) == 0 {
		l.add(path+".places", "it needs host, zone or both")
	}
	for i, place := range v.Places {
		l.oneOf(fmt.Sprintf("%s.places[%d]", path, i), string(place), string(Host), string(Zone))
	}
	zones := slices.Contains(v.Places, Zone)
	switch allowed := scopes[v.Source.kind()]; {
	case v.Scope == "":
		l.add(path+".scope", "it needs a rule, or none")
	case zones && v.Scope == ScopeNone:
		l.add(path+".scope", "a variant that measures zones needs a rule that keeps it to them")
	case !zones && v.Scope != ScopeNone:
		l.add(path+".scope", "a variant that measures only the whole host has the scope none")
	case zones && len(allowed) > 0 && !slices.Contains(allowed, v.Scope):
		l.add(path+".scope", "%q does not work with a %s source, %v does", v.Scope, v.Source.kind(), allowed)
	}
}

func (l *linter) lintWhen(path string, w When) {
	if len(w.OS) == 0 {
		l.add(path+".os", "it needs linux, illumos or both")
	}
	for _, name := range w.OS {
		l.oneOf(path+".os", name, systems...)
	}
	for _, name := range w.Arch {
		l.oneOf(path+".arch", name, "amd64", "arm64", "386", "arm", "riscv64", "ppc64le", "s390x")
	}
	for _, name := range w.Cgroup {
		l.oneOf(path+".cgroup", name, "v1", "v2", "hybrid")
	}
	l.versions(path+".kernel", w.Kernel)
	l.versions(path+".bpftrace", w.Bpftrace)
	if w.Command != "" {
		l.oneOf(path+".command", w.Command, "zfs", "zpool", "dtrace", "bpftrace")
	}
	for i, file := range w.Files {
		if reason := badPath(file); reason != "" || strings.ContainsAny(file, "{*") {
			reason = cmp.Or(reason, "here a path has neither {…} nor *")
			l.add(fmt.Sprintf("%s.files[%d]", path, i), "%s", reason)
		}
	}
	for i, name := range w.Tracepoints {
		if !tracepointName.MatchString(name) {
			l.add(fmt.Sprintf("%s.tracepoints[%d]", path, i), "%q is not the category:name of a tracepoint", name)
		}
	}
	for i, name := range w.USDT { // root opens it
		if !ownProbeName.MatchString(name) {
			l.add(fmt.Sprintf("%s.usdt[%d]", path, i), "%q is not path:provider:name, where the path goes straight down from /usr or /opt", name)
		}
	}
}

func (l *linter) versions(path, text string) {
	if text != "" && invalidRange(text) {
		l.add(path, "%q is not a range of versions such as \">=4.18 <6\"", text)
	}
}

// kind names the one source that there is, "" when there is none or more than one.
func (s Source) kind() string {
	var kinds []string
	for _, source := range []struct {
		name  string
		given bool
	}{
		{"file", s.File != nil}, {"process", s.Process != nil}, {"kstat", s.Kstat != nil},
		{"zfs", s.ZFS != nil}, {"bpftrace", s.Bpftrace != nil}, {"dtrace", s.DTrace != nil},
	} {
		if source.given {
			kinds = append(kinds, source.name)
		}
	}
	if len(kinds) != 1 {
		return ""
	}
	return kinds[0]
}
