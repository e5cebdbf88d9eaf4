package catalog

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// language is what a definition may say in one tracing language. Whatever is not allowed is refused; refused names the
// reasons for what people might try.
type language struct {
	probe     *regexp.Regexp
	program   *regexp.Regexp        // probes of programs, whose arguments may be addresses of their own text
	own       *regexp.Regexp        // probes that run in the context of whoever causes them
	names     []string              // builtin variables
	task      []string              // those, and the structures, that tell of whoever runs
	functions []string              // each is called
	roots     map[string]structures // where the ways begin that may be followed
	numbers   *regexp.Regexp        // probes and those of their arguments that are numbers; nil: the kernel tells when a program is started
	ctypes    []CType
	saved     []CType        // of what is saved, besides numbers
	options   map[string]int // and the most that each may be: bytes, or hz
}

// structures says what may be followed from a root: through pointers and structures to members that hold no pointer. Nothing
// else leads to memory: not a number, whoever made it, and not what an index or an argument points at.
type structures struct {
	any     bool // any member, of structures whose types the probe gives
	through []string
	to      []string
	set     []string // addresses, of which only can be asked whether they are set
}

// programPath is the way to a program whose probes definitions may name, straight down: a part of it is more than dots.
const (
	programPath = `/(usr|opt)(/[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*)+`
	ownProbe    = programPath + `:[a-z0-9_]+:[a-z0-9_]+`
)

var (
	tracepointName = regexp.MustCompile(`^[a-z0-9_]+:[a-z0-9_]+$`)
	ownProbeName   = regexp.MustCompile(`^` + ownProbe + `$`)
)

var bpftraceLanguage = language{
	probe:   regexp.MustCompile(`^tracepoint:[a-z0-9_]+:[a-z0-9_]+$|^profile:hz:([1-9][0-9]?|1[0-9]{2})$|^kprobe:[A-Za-z0-9_]+$|^kretprobe:[A-Za-z0-9_]+$|^usdt:` + ownProbe + `$`),
	program: regexp.MustCompile(`^usdt:`),
	own:     regexp.MustCompile(`^tracepoint:(syscalls|raw_syscalls|task):|^tracepoint:(sched:sched_(switch|prepare_exec|process_exec|process_exit|process_fork)|exceptions:page_fault_user|signal:signal_deliver|kvm:kvm_(entry|exit))$|^profile:|^usdt:`),
	ctypes:  []CType{CTypeInt, CTypeUint, CTypeStr, CTypeChars, CTypeText, CTypeIP, CTypeFSType, CTypeStack, CTypeSubsecond, CTypeArguments},
	saved:   []CType{CTypeStr, CTypeChars, CTypeText, CTypeFSType, CTypeRunning, CTypeReadAt, CTypeWriteAt, CTypeTCP},
	names: []string{
		"nsecs", "pid", "tid", "uid", "gid", "cpu", "comm", "cgroup", "retval",
		"arg0", "arg1", "arg2", "arg3", "arg4", "arg5", "arg6", "arg7", "arg8", "arg9",
	},
	task:      []string{"pid", "tid", "uid", "gid", "comm", "cgroup", "curtask"},
	functions: []string{"ntop"},
	roots: map[string]structures{
		"args": {any: true},
		"curtask": {
			through: []string{"real_parent", "parent", "group_leader", "signal", "live", "se", "sched_info", "mm", "ioac", "nsproxy", "pid_ns_for_children", "net_ns", "ns", "sched_info"},
			to: []string{
				"comm", "pid", "tgid", "flags", "exit_code", "exit_signal", "prio", "static_prio", "normal_prio", "policy", "start_time", "start_boottime",
				"utime", "stime", "nvcsw", "nivcsw", "min_flt", "maj_flt", "counter", "nr_threads", "sum_exec_runtime", "nr_migrations", "run_delay", "pcount", "run_delay",
				"total_vm", "hiwater_rss", "rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes", "inum",
			},
			set: []string{"group_exec_task", "group_exit_task"},
		},
	},
}

var dLanguage = language{
	probe:   regexp.MustCompile(`^(syscall|io|proc|sched|tcp|udp|ip)::[A-Za-z0-9_-]*:[a-z0-9-]+$|^profile:::profile-([1-9][0-9]?|1[0-9]{2})$|^(mysql|postgres|node|httpd|php|python|ruby)\*:::[a-z0-9-]+$|^sdt:::[a-z0-9-]+$|^(fbt|sdt):[a-z0-9_]+:[A-Za-z0-9_]+:[a-z0-9_-]+$`),
	program: regexp.MustCompile(`^(mysql|postgres|node|httpd|php|python|ruby)\*:::`),
	own:     regexp.MustCompile(`^(syscall|proc):|^sched:::(on-cpu|off-cpu|remain-cpu|preempt|sleep)$|^profile:|^(mysql|postgres|node|httpd|php|python|ruby)\*:::|^fbt:genunix:fop_[a-z]+:|^fbt:sockfs:socket_[a-z]+:|^fbt:zfs:zvol_(read|write):|^fbt:sockfs:socket_accept:|^sdt:::(arc-hit|arc-miss|zvol-uio-start|zvol-uio-done)$`),
	numbers: regexp.MustCompile(`^(syscall:|(mysql|postgres|node|httpd|php|python|ruby)\*:).* arg[0-9]$|^fbt:.*:return arg1$|^sdt:::zvol-uio-done arg[23]$`),
	ctypes:  []CType{CTypeInt, CTypeUint, CTypeStr, CTypeChars, CTypeText, CTypeIP, CTypeSubsecond},
	saved:   []CType{CTypeStr, CTypeChars},
	names: []string{
		"timestamp", "vtimestamp", "walltimestamp", "execname", "pid", "ppid", "tid", "uid", "gid", "cpu", "zonename",
		"probefunc", "probename", "probemod", "errno", "NULL", "B_READ", "B_WRITE",
		"arg0", "arg1", "arg2", "arg3", "arg4", "arg5", "arg6", "arg7", "arg8", "arg9",
	},
	task:      []string{"execname", "pid", "ppid", "tid", "uid", "gid", "curpsinfo", "curlwpsinfo", "curthread", "fds"},
	functions: []string{"copyinstr", "lltostr", "substr", "strjoin", "strtok"},
	roots: map[string]structures{
		"args":        {any: true},
		"fds":         {to: []string{"fi_name", "fi_dirname", "fi_pathname", "fi_offset", "fi_fs", "fi_mount", "fi_oflags"}},
		"curpsinfo":   {to: []string{"pr_pid", "pr_ppid", "pr_pgid", "pr_sid", "pr_uid", "pr_euid", "pr_gid", "pr_egid", "pr_taskid", "pr_projid", "pr_poolid", "pr_zoneid", "pr_contract", "pr_nlwp", "pr_dmodel", "pr_fname", "pr_psargs"}},
		"curlwpsinfo": {to: []string{"pr_flag", "pr_lwpid", "pr_stype", "pr_state", "pr_sname", "pr_nice", "pr_syscall", "pr_pri", "pr_clname", "pr_onpro", "pr_bindpro"}},
		"curthread": {
			through: []string{"t_procp", "p_parent", "p_user"},
			to:      []string{"t_pri", "t_tid", "t_start", "p_mstart", "p_lwpcnt", "p_ppid", "u_comm", "u_psargs"},
		},
	},
	options: map[string]int{"strsize": 4 << 10, "dynvarsize": 64 << 20, "aggsize": 64 << 20, "bufsize": 64 << 20, "cleanrate": 1000},
}

// optionPattern is how an option's value is spelled: a size, or a rate.
var optionPattern = regexp.MustCompile(`^([1-9][0-9]{0,8})(k|m|hz)?$`)

// badOption says what is wrong with an option's value, "" for nothing.
func badOption(name, value string, most int) string {
	match := optionPattern.FindStringSubmatch(value)
	if match == nil || (match[2] == "hz") != (name == "cleanrate") {
		return "it is a number with k or m, and cleanrate one with hz"
	}
	n, _ := strconv.Atoi(match[1]) // it has at most nine digits
	if n*map[string]int{"": 1, "hz": 1, "k": 1 << 10, "m": 1 << 20}[match[2]] > most {
		return fmt.Sprintf("it is more than %d, which is the most", most)
	}
	return ""
}

// refused are names for which an author should learn the reason.
var refused = func() map[string]string {
	reasons := map[string]string{}
	for reason, names := range map[string]string{
		"acts on the machine":                 "system signal signal_thread override write_user skboutput stop raise copyout copyoutstr freopen ftruncate breakpoint panic chill",
		"reads files or changes the language": "cat include define import macro config struct union typedef inline translator pragma sizeof",
		"forges output or ends the program":   "printf print printa join time strftime errorf warnf debugf exit trace tracemem clear zero delete trunc speculate commit discard",
		"reads any memory":                    "str buf kaddr uaddr uptr kptr reg copyin kstr stringof inet_ntoa inet_ntoa6 alloca bcopy",
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
		if most, known := lang.options[name]; !known {
			l.add(path+".options."+name, "the option is not one of %v", slices.Sorted(maps.Keys(lang.options)))
		} else if reason := badOption(name, t.Options[name], most); reason != "" {
			l.add(path+".options."+name, "%s", reason)
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
		l.lintContext(fmt.Sprintf("%s.clauses[%d]", path, i), v, c, lang)
		l.lintAddresses(fmt.Sprintf("%s.clauses[%d]", path, i), v, c, lang)
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

// lintContext keeps from tenants what runs in foreign context: an interrupt borrows whatever process runs at the moment, so that
// this one's zone, name and numbers say nothing of whom the event concerns.
func (l *linter) lintContext(path string, v *Variant, c *Clause, lang language) {
	if l.doc.Visibility != "tenant" || !slices.Contains(v.Places, Zone) {
		return
	}
	if v.Scope == ScopeSocketCgroup { // the socket says whose it is; but only in connect the current process is the one that uses it
		for _, expr := range c.expressions() {
			for _, name := range lang.task {
				if c.If != "args->newstate == 2" && slices.Contains(token.FindAllString(expr, -1), name) {
					l.add(path, "%s is refused: a socket changes its state in whatever runs at the moment; if: args->newstate == 2 is the process that connects", name)
				}
			}
		}
		return
	}
	for i, probe := range c.Probes {
		if !lang.own.MatchString(probe) {
			l.add(fmt.Sprintf("%s.probes[%d]", path, i), "the probe %q is for operators: it is none of those that are known to run in the context of whoever causes them", probe)
		}
	}
}

// Values gives the expressions of a clause whose values can be learnt, from fields, sums, or what is counted: all but the keys
// of what is saved, which are compared with each other and nothing else. What is worked out of more than one argument, or of its
// parts, is none of those.
func (c *Clause) Values() []string {
	list := []string{c.If, c.Value}
	keys := c.At
	for _, save := range c.Save {
		list = append(list, save.Expr)
		keys = append(keys[:len(keys):len(keys)], save.Key...)
	}
	for _, key := range keys {
		if !bareArgument.MatchString(key) {
			list = append(list, key)
		}
	}
	for _, f := range c.Fields {
		list = append(list, f.Expr)
	}
	return list
}

// expressions gives all that a clause evaluates.
func (c *Clause) expressions() []string {
	list := append(c.Values(), c.At...)
	for _, save := range c.Save {
		list = append(append(list, save.Of), save.Key...)
	}
	return list
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
	if save.CType == CTypeChars {
		l.lintChars(path+".expr", save.Expr, lang)
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
		l.lintChars(path+".expr", f.Expr, lang)
	}
	l.lintTokens(path+".expr", f.Expr, lang, usable)
}

// charsOf is what leads to an array of characters: a way that begins at the current thread or an argument of known type.
var charsOf = regexp.MustCompile(`^(curtask|curthread|args|args\[[0-9]\](\[0\])?)((->|\.)[a-z][a-z0-9_]*)+$`)

// charMembers are arrays of characters, and names that never go away. D reads the text at whatever it is given, also at a
// number that a program has chosen.
var charMembers = []string{"u_comm", "u_psargs", "vnop_name"}

func (l *linter) lintChars(path, expr string, lang language) {
	last := expr[strings.LastIndexAny(expr, ">.")+1:]
	if !charsOf.MatchString(expr) || lang.isD() && !slices.Contains(charMembers, last) {
		l.add(path, "%q is refused: characters are the member of a structure of curtask, curthread or args", expr)
	}
}

// isD tells the languages apart where they give the same words different meanings.
func (lang language) isD() bool { return slices.Contains(lang.functions, "copyinstr") }
