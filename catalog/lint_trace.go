package catalog

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// language is what a definition may say in one tracing language. Whatever is not allowed is refused; refused names the
// reasons for what people might try.
type language struct {
	probe   *regexp.Regexp
	program *regexp.Regexp // probes of programs, whose arguments may be addresses of their own text
	names   []string       // builtin variables, functions and types
	ctypes  []CType
	saved   []CType // of what is saved, besides numbers
	options []string
}

var bpftraceLanguage = language{
	probe:   regexp.MustCompile(`^tracepoint:[a-z0-9_]+:[a-z0-9_]+$|^profile:hz:([1-9][0-9]?|1[0-9]{2})$|^kprobe:[A-Za-z0-9_]+$|^kretprobe:[A-Za-z0-9_]+$|^usdt:/(usr|opt)/[A-Za-z0-9_./-]+:[a-z0-9_]+:[a-z0-9_]+$`),
	program: regexp.MustCompile(`^usdt:`),
	ctypes:  []CType{CTypeInt, CTypeUint, CTypeStr, CTypeChars, CTypeText, CTypeIP, CTypeFSType, CTypeStack, CTypeSubsecond, CTypeArguments},
	saved:   []CType{CTypeStr, CTypeChars, CTypeText, CTypeFSType, CTypeRunning, CTypeReadAt, CTypeWriteAt},
	names: []string{
		"nsecs", "pid", "tid", "uid", "gid", "cpu", "comm", "cgroup", "retval", "args", "curtask", "ntop",
		"arg0", "arg1", "arg2", "arg3", "arg4", "arg5", "arg6", "arg7", "arg8", "arg9",
		"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
	},
}

var dLanguage = language{
	probe:   regexp.MustCompile(`^(syscall|io|proc|sched|tcp|udp|ip)::[A-Za-z0-9_-]*:[a-z0-9-]+$|^profile:::profile-([1-9][0-9]?|1[0-9]{2})$|^(mysql|postgres|node|httpd|php|python|ruby)\*:::[a-z0-9-]+$|^sdt:::[a-z0-9-]+$|^(fbt|sdt):[a-z0-9_]+:[A-Za-z0-9_]+:[a-z0-9_-]+$`),
	program: regexp.MustCompile(`^(mysql|postgres|node|httpd|php|python|ruby)\*:::`),
	ctypes:  []CType{CTypeInt, CTypeUint, CTypeStr, CTypeChars, CTypeText, CTypeIP, CTypeSubsecond},
	saved:   []CType{CTypeStr, CTypeChars},
	names: []string{
		"timestamp", "vtimestamp", "walltimestamp", "execname", "pid", "ppid", "tid", "uid", "gid", "cpu", "zonename",
		"probefunc", "probename", "probemod", "errno", "args", "curpsinfo", "curlwpsinfo", "curthread", "fds", "copyinstr", "lltostr",
		"substr", "strjoin", "strtok", "inet_ntoa", "inet_ntoa6", "NULL", "B_READ", "B_WRITE",
		"arg0", "arg1", "arg2", "arg3", "arg4", "arg5", "arg6", "arg7", "arg8", "arg9",
		"int8_t", "int16_t", "int32_t", "int64_t", "uint8_t", "uint16_t", "uint32_t", "uint64_t",
	},
	options: []string{"strsize", "dynvarsize", "aggsize", "bufsize", "cleanrate"},
}

// refused are names for which an author should learn the reason.
var refused = func() map[string]string {
	reasons := map[string]string{}
	for reason, names := range map[string]string{
		"acts on the machine":                 "system signal signal_thread override write_user skboutput stop raise copyout copyoutstr freopen ftruncate breakpoint panic chill",
		"reads files or changes the language": "cat include define import macro config struct union typedef inline translator pragma sizeof",
		"forges output or ends the program":   "printf print printa join time strftime errorf warnf debugf exit trace tracemem clear zero delete trunc speculate commit discard",
		"reads any memory":                    "str buf kaddr uaddr uptr kptr reg copyin kstr stringof",
		"tells of kernel or foreign code":     "ksym usym kstack ustack stack jstack func ufunc mod umod",
		"costs without bound":                 "unroll while for loop if else return",
		"belongs to the program's frame":      "BEGIN END interval count sum avg min max hist lhist quantize lquantize llquantize stats self this",
		"asks whether something exists":       "cgroupid cgroup_path path",
	} {
		for name := range strings.FieldsSeq(names) {
			reasons[name] = reason
		}
	}
	return reasons
}()

func (l *linter) lintTrace(path string, v *Variant, t *TraceSource, lang language) {
	if l.doc.Limits.MaxRuntime == 0 {
		l.add("limits.max_runtime_s", "tracing always has an end")
	}
	if v.Source.Bpftrace != nil && (v.When.Bpftrace == "" || !slices.Equal(v.When.OS, []string{"linux"})) {
		l.add(path, "it needs when: os linux, and a range of bpftrace's versions")
	}
	if v.Source.DTrace != nil && v.When.Command != "dtrace" {
		l.add(path, "it needs when: command dtrace")
	}
	for _, name := range slices.Sorted(maps.Keys(t.Options)) {
		if !slices.Contains(lang.options, name) {
			l.add(path+".options."+name, "the option is not one of %v", lang.options)
		} else if !regexp.MustCompile(`^[0-9]{1,6}(k|m|hz)?$`).MatchString(t.Options[name]) {
			l.add(path+".options."+name, "it is a number with k, m or hz")
		}
	}
	if n := len(t.Clauses); n == 0 || n > 64 {
		l.add(path+".clauses", "there are from 1 to 64")
	}
	saved := make(map[string]Save)
	for _, clause := range t.Clauses {
		maps.Copy(saved, clause.Save)
	}
	counts := false
	first := make(map[string]TraceField)
	for i := range t.Clauses {
		c := &t.Clauses[i]
		for _, name := range slices.Sorted(maps.Keys(c.Fields)) {
			f := c.Fields[name]
			have, seen := first[name]
			if c.Role == Entry {
				continue
			}
			if !seen {
				first[name], have = f, f
			}
			if f.Decode != have.Decode || !maps.Equal(f.Map, have.Map) || f.Length != have.Length {
				l.add(fmt.Sprintf("%s.clauses[%d].fields.%s", path, i, name), "it is decoded, mapped and read in one way by all clauses that count")
			}
		}
		l.lintClause(fmt.Sprintf("%s.clauses[%d]", path, i), v, c, lang, saved)
		counts = counts || c.Role == Event || c.Role == Exit
	}
	if !counts {
		l.add(path+".clauses", "none of them counts")
	}
	for i, clean := range t.Clean {
		at := fmt.Sprintf("%s.clean[%d]", path, i)
		l.lintProbe(at+".probe", v, clean.Probe, lang)
		if _, ok := saved[clean.Save]; !ok {
			l.add(at+".save", "nothing is saved as %q", clean.Save)
		}
		if clean.If != "" {
			l.lintTokens(at+".if", clean.If, lang, nil)
		}
		for j, key := range clean.Key {
			l.lintTokens(fmt.Sprintf("%s.key[%d]", at, j), key, lang, nil)
		}
	}
}

func (l *linter) lintProbe(path string, v *Variant, probe string, lang language) {
	if !lang.probe.MatchString(probe) {
		l.add(path, "the probe %q is not of a kind that definitions may use: no wildcards, offsets, timers, or BEGIN and END", probe)
		return
	}
	if name, ok := strings.CutPrefix(probe, "tracepoint:"); ok && !slices.Contains(v.When.Tracepoints, name) {
		l.add(path, "the tracepoint %s is missing from the variant's when", name)
	}
	if name, ok := strings.CutPrefix(probe, "usdt:"); ok && !slices.Contains(v.When.USDT, name) {
		l.add(path, "the probe %s is missing from the variant's when", name)
	}
}

func (l *linter) lintClause(path string, v *Variant, c *Clause, lang language, saved map[string]Save) {
	l.oneOf(path+".role", string(c.Role), string(Event), string(Entry), string(Exit))
	if len(c.Probes) == 0 {
		l.add(path+".probes", "there are none")
	}
	for i, probe := range c.Probes {
		l.lintProbe(fmt.Sprintf("%s.probes[%d]", path, i), v, probe, lang)
	}
	if (c.Role == Entry) != (len(c.Save) > 0) {
		l.add(path+".save", "an entry saves something, and only an entry")
	}
	usable := make(map[string]bool)
	for i, name := range c.Require {
		usable[name] = true
		if _, ok := saved[name]; !ok {
			l.add(fmt.Sprintf("%s.require[%d]", path, i), "nothing is saved as %q", name)
		}
	}
	for i, key := range c.At {
		if c.Role != Exit || slices.ContainsFunc(c.Require, func(name string) bool { return len(saved[name].Key) != len(c.At) }) {
			l.add(path+".at", "it has as many keys as each of what an exit requires")
		}
		l.lintTokens(fmt.Sprintf("%s.at[%d]", path, i), key, lang, nil)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Save)) {
		if !wordPattern.MatchString(name) {
			l.add(path+".save."+name, "a name is a word of lower-case letters, digits and _")
		}
		l.lintSave(path+".save."+name, v, c, c.Save[name], lang)
	}
	if c.If != "" {
		l.lintTokens(path+".if", c.If, lang, usable)
	}
	if c.Value != "" {
		l.lintTokens(path+".value", c.Value, lang, usable)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Fields)) {
		f := c.Fields[name]
		at := path + ".fields." + name
		if !slices.Contains(v.Fields, name) {
			l.add(at, "it is none of the variant's fields")
		}
		l.lintTraceField(at, name, f, c, lang, saved, usable)
	}
	if c.Role == Entry {
		return
	}
	for _, name := range v.Fields {
		if _, ok := c.Fields[name]; !ok {
			l.add(path+".fields", "it does not give the field %s, which the variant has", name)
		}
	}
}

func (l *linter) lintSave(path string, v *Variant, c *Clause, save Save, lang language) {
	if save.Thread == (len(save.Key) > 0) {
		l.add(path, "it is saved for the thread, or by a key, and not both")
	}
	for i, key := range save.Key {
		l.lintTokens(fmt.Sprintf("%s.key[%d]", path, i), key, lang, nil)
	}
	if save.CType != "" && !slices.Contains(lang.saved, save.CType) {
		l.add(path+".ctype", "%q cannot be saved here: it is empty for a number, or one of %v", save.CType, lang.saved)
	}
	if save.CType == CTypeRunning {
		if !save.Thread || save.Of != "" || save.Expr != "nsecs" {
			l.add(path, "what is running is a thread's own, and its expression is nsecs")
		}
		if !slices.Contains(v.When.Tracepoints, "sched:sched_switch") {
			l.add(path, "the tracepoint sched:sched_switch is missing from the variant's when")
		}
	}
	if save.CType == CTypeText && (!argument.MatchString(save.Expr) || slices.ContainsFunc(c.Probes, func(probe string) bool { return !lang.program.MatchString(probe) })) {
		l.add(path+".expr", "%q is refused: a text is an argument of a program's own probe", save.Expr)
	}
	if save.CType == CTypeChars && !charsOf.MatchString(save.Expr) {
		l.add(path+".expr", "%q is refused: characters are the member of a structure of curtask, curthread or args", save.Expr)
	}
	if save.Of != "" {
		if !save.Thread || !slices.Contains(lang.ctypes, CTypeFSType) {
			l.add(path+".of", "it goes with thread, in bpftrace")
		}
		l.lintTokens(path+".of", save.Of, lang, nil)
	}
	l.lintTokens(path+".expr", save.Expr, lang, nil)
}

// decoders say of which types of expressions each decoder makes texts.
var decoders = map[string][]CType{
	"majorminor": {CTypeUint}, "syscall": {CTypeUint}, "errno": {CTypeUint}, "firstletter": {CTypeStr},
}

// ctypesOf says of which expressions the values of a field's type can come.
func ctypesOf(fieldType string) []CType {
	switch fieldType {
	case "string":
		return []CType{CTypeInt, CTypeUint, CTypeStr, CTypeChars, CTypeText, CTypeIP, CTypeFSType, CTypeArguments}
	case typeStack:
		return []CType{CTypeStack}
	case "subsecond": // a clock that counts since the boot would give another one
		return []CType{CTypeSubsecond}
	}
	return []CType{CTypeInt, CTypeUint}
}

var argument = regexp.MustCompile(`^arg[0-9]$`)

func (l *linter) lintTraceField(path, name string, f TraceField, c *Clause, lang language, saved map[string]Save, usable map[string]bool) {
	switch {
	case !slices.Contains(lang.ctypes, f.CType):
		l.add(path+".ctype", "%q is none of %v", f.CType, lang.ctypes)
		return
	case l.doc.Fields[name].Type != "" && !slices.Contains(ctypesOf(l.doc.Fields[name].Type), f.CType):
		l.add(path+".ctype", "a field of type %s comes from one of %v", l.doc.Fields[name].Type, ctypesOf(l.doc.Fields[name].Type))
	}
	if f.Decode != "" {
		l.oneOf(path+".decode", f.Decode, slices.Sorted(maps.Keys(decoders))...)
		if from, ok := decoders[f.Decode]; ok && !slices.Contains(from, f.CType) {
			l.add(path+".decode", "%s is made of %v", f.Decode, from)
		}
	}
	if (f.CType == CTypeText) != (f.Length != 0) || f.Length < 0 || f.Length > 63 {
		l.add(path+".length", "a text has a length from 1 to 63 bytes, and nothing else has one")
	}
	if (f.CType == CTypeStack) != (f.Frames != 0) || f.Frames < 0 || f.Frames > 64 {
		l.add(path+".frames", "a stack has from 1 to 64 frames, and nothing else has them")
	}
	if f.Map != nil && slices.Contains([]CType{CTypeStack, CTypeSubsecond, CTypeText, CTypeIP, CTypeArguments}, f.CType) {
		l.add(path+".map", "the values of a %s are not mapped", f.CType)
	}
	switch f.CType {
	case CTypeSubsecond, CTypeArguments:
		if f.Expr != "" {
			l.add(path+".expr", "the compiler writes it")
		}
		return
	case CTypeStack:
		l.oneOf(path+".expr", f.Expr, "kernel", "user")
		if c.Role == Entry {
			l.add(path, "an entry has no stacks")
		}
		return
	case CTypeText:
		from := f.Expr
		if name, ok := strings.CutPrefix(from, "$"); ok && saved[name].CType == "" {
			from = saved[name].Expr
		}
		if !argument.MatchString(from) {
			l.add(path+".expr", "%q is refused: a text is an argument of the probe, or what was saved of one", f.Expr)
		}
		if slices.ContainsFunc(c.Probes, func(probe string) bool { return !lang.program.MatchString(probe) }) {
			l.add(path, "only the probes that programs bring along have texts of their own")
		}
	case CTypeChars:
		if !charsOf.MatchString(f.Expr) {
			l.add(path+".expr", "%q is refused: characters are the member of a structure of curtask, curthread or args", f.Expr)
		}
	}
	l.lintTokens(path+".expr", f.Expr, lang, usable)
}

// charsOf is what leads to an array of characters: a way that begins at the current thread or an argument of known type.
var charsOf = regexp.MustCompile(`^(curtask|curthread|args|args\[[0-9]\](\[0\])?)((->|\.)[a-z][a-z0-9_]*)+$`)

// token is the grammar of expressions: names, $names, numbers, plain string constants, operators, spaces.
var (
	token       = regexp.MustCompile(`^(?:[A-Za-z_][A-Za-z0-9_]*|\$[A-Za-z0-9_]*|0x[0-9a-fA-F]+|[0-9]+|"[A-Za-z0-9_. ?-]*"|->|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^~!<>?:()\[\],.]| +)`)
	intType     = regexp.MustCompile(`^u?int(8|16|32|64)(_t)?$`)
	tokenName   = regexp.MustCompile(`^[A-Za-z_]`)
	copyinstrOf = regexp.MustCompile(`^copyinstr\((arg[0-9]|\$[a-z][a-z0-9_]*)\)`)
)

// lintTokens compares an expression with the language's allow-list. saved holds the names that $ may be put before.
func (l *linter) lintTokens(path, expr string, lang language, saved map[string]bool) {
	if expr == "" || len(expr) > 300 {
		l.add(path, "an expression has from 1 to 300 bytes")
		return
	}
	before, cast := "", false // the token before this one, spaces aside, and whether it ends a cast
	open := 0
	for rest := expr; rest != ""; {
		text := token.FindString(rest)
		if text == "" || strings.HasPrefix(rest, "//") || strings.HasPrefix(rest, "/*") || strings.HasPrefix(rest, "++") || strings.HasPrefix(rest, "--") {
			l.add(path, "%q is refused: an expression has neither statements, assignments, comments, maps nor escapes", firstRune(rest))
			return
		}
		switch {
		case text[0] == ' ':
			rest = rest[len(text):]
			continue
		case text[0] == '$' && !saved[text[1:]]:
			l.add(path, "%q is refused: $ goes with the names of what is saved and required", text)
		case tokenName.MatchString(text) && before != "->" && before != ".":
			l.lintName(path, text, rest, lang)
		case text == "*" && (cast || before == "" || strings.ContainsAny(before[len(before)-1:], "(,[?:!~&|^<>=+-*/%")):
			l.add(path, `"*" is refused: a pointer that is followed reads any memory`)
		case text == "(" || text == "[":
			open++
		case text == ")" || text == "]":
			open--
		}
		if open < 0 {
			break
		}
		cast = text == ")" && isType(before)
		before, rest = text, rest[len(text):]
	}
	if open != 0 {
		l.add(path, "its parentheses do not match")
	}
}

func (l *linter) lintName(path, name, rest string, lang language) {
	switch {
	case name == "copyinstr" && slices.Contains(lang.names, name) && !copyinstrOf.MatchString(rest):
		l.add(path, "copyinstr is refused but for an argument of the probe, or what was saved of one")
	case slices.Contains(lang.names, name):
	case refused[name] != "":
		l.add(path, "%s is refused: it %s", name, refused[name])
	default:
		l.add(path, "%s is refused: it is not on the list of what definitions may use", name)
	}
}

// isType reports whether a token is the name of an integer type.
func isType(name string) bool { return intType.MatchString(name) }

func firstRune(s string) string {
	for _, r := range s {
		return string(r)
	}
	return ""
}
