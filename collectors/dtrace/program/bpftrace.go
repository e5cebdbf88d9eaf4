package program

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"iapi/catalog"
)

// The maps of a bpftrace program that its runner changes while it runs.
const (
	ScopeMap  = "scope"  // cgroup id → number of the zone, which is never 0
	OffsetMap = "offset" // key 0: what is added to nsecs to give ns since 1970
	EndMap    = "end"    // key 0: the nsecs at which the program ends itself
	EveryMap  = "every"  // key 0: at which multiples of so many seconds it gives out an interval, 1 at first
)

// Clock is what a program must know of the time when it starts.
type Clock struct {
	Offset time.Duration // the wall clock's time since 1970, less the time since boot
	End    time.Duration // since boot, when the program ends itself at the latest
	Remote Remote        // of a D program
}

// Remote is how a D program, whose variables nobody can change, is given another end while it runs: it watches for a system
// call of its runner that does nothing, lseek(-1, LEFT, Whence), and then ends after LEFT nanoseconds.
type Remote struct {
	Left   time.Duration // from the program's start to its end, as long as nothing else is said
	PID    int           // the runner
	Whence int           // names the program among those of the runner
}

// Text writes the program.
func (p *Program) Text(c Clock) string {
	w := new(writer)
	if p.Language == D {
		p.writeD(w, c.Remote)
	} else {
		p.writeBpftrace(w, c)
	}
	return w.String()
}

// Environment is what a bpftrace needs to run the program.
func (p *Program) Environment() []string {
	env := []string{
		"BPFTRACE_MAP_KEYS_MAX=" + strconv.Itoa(p.MapKeys),
		"BPFTRACE_STRLEN=64",
		"BPFTRACE_MAX_TYPE_RES_ITERATIONS=10", // to walk from a socket to its cgroup
	}
	if p.StackParts() == 0 { // else the functions of programs are looked up in their files
		env = append(env, "BPFTRACE_NO_USER_SYMBOLS=1")
	}
	return env
}

// writeBpftrace writes a program that counts into one of two sets of maps. At each whole second, or more rarely, it turns to the other set
// and gives out the one that rests: clearing a map that is written to loses and repeats counts.
func (p *Program) writeBpftrace(w *writer, c Clock) {
	w.line("BEGIN {")
	w.line("  @generation = (uint64)0; @second = (uint64)0; @every = (uint64)1;")
	w.line("  @offset = (uint64)", number(max(0, int64(c.Offset))), "; @end = (uint64)", number(max(0, int64(c.End))), ";")
	maps := []string{"generation", "second", "every", "offset", "end"}
	if !p.wish.Whole {
		w.line("  @scope[(uint64)0] = (uint64)0;")
		maps = append(maps, "scope")
	}
	w.line(`  printf("S\n");`)
	w.line("}")
	saved := map[string]bool{}
	byThread := map[string]save{}
	for _, clause := range p.clauses {
		if clause.role == catalog.Entry {
			p.bpftraceEntry(w, clause)
		} else {
			p.bpftraceCount(w, clause)
		}
		for _, s := range clause.saves {
			if s.ctype == catalog.CTypeRunning && !saved[s.waits()] {
				s.writeWaits(w)
				saved[s.waits()] = true
			}
			saved["s_"+s.name] = true
			if s.thread {
				byThread[s.name] = s
			}
		}
		if s, is := p.savedZone(clause); is {
			saved["z_"+s.name] = true
		}
	}
	p.writeRenamed(w, byThread, saved)
	for _, clean := range p.cleans {
		w.line(clean.probe, filter(paren(clean.own)), " {")
		s := clean.save
		s.keys = clean.keys
		w.line("  delete(", s.text(Bpftrace), ");")
		if saved[s.waits()] {
			w.line("  delete(@", s.waits(), "[", strings.Join(s.keys, ", "), "]);")
		}
		if saved["z_"+s.name] {
			w.line("  delete(", s.zone(Bpftrace), ");")
		}
		w.line("}")
	}
	maps = append(maps, sortedKeys(saved)...)
	for _, half := range []string{"a", "b"} {
		maps = append(maps, half+"n")
		if p.remembers() {
			maps = append(maps, half+"l")
		}
		if p.Keyed() {
			maps = append(maps, half)
		}
	}
	w.line("interval:ms:10 {")
	w.line("  if (nsecs > @end) { exit(); }")
	w.line("  $s = (uint64)((nsecs + @offset) / 1000000000);")
	// Also when the clock is set back, or forward so far that the multiple is missed.
	w.line("  if ($s != @second && ($s % @every == 0 || $s < @second || $s >= @second + @every)) {")
	w.line("    if (@second != 0) {")
	w.line("      if (@generation == 0) { @generation = (uint64)1; ", p.giveOut("a"), " }")
	w.line("      else { @generation = (uint64)0; ", p.giveOut("b"), " }")
	w.line("    }")
	w.line("    @second = $s;")
	w.line("  }")
	w.line("}")
	w.line("END {")
	for _, name := range maps {
		w.line("  clear(@", name, ");")
	}
	w.line("}")
}

// giveOut prints the totals first, so that they are known even where there are too many rows.
func (p *Program) giveOut(half string) string {
	text := `printf("B %llu\n", $s); print(@` + half + `n);`
	if p.remembers() {
		text += " print(@" + half + "l); clear(@" + half + "l);"
	}
	if p.Keyed() {
		text += " print(@" + half + ", " + strconv.Itoa(p.MaxRows) + "); clear(@" + half + ");"
	}
	return text + " clear(@" + half + `n); printf("E\n");`
}

// scopeOf is the first condition of a clause that no saved value vouches for.
func (p *Program) scopeOf() string {
	if p.wish.Whole {
		return ""
	}
	return "(" + scopeText(p.wish.Variant.Scope) + ")"
}

func (p *Program) bpftraceEntry(w *writer, c clause) {
	scope := p.scopeOf()
	if c.foreign() {
		scope = ""
	}
	w.line(strings.Join(c.probes, ",\n"), filter(scope, paren(c.own), texts(c.early, Bpftrace)), " {")
	var lost []string
	for _, s := range c.saves {
		at, expr := s.forOther().text(Bpftrace), s.expr
		switch {
		case s.isText():
		case expr == "nsecs": // is never 0
			lost = append(lost, at+" == 0")
		default:
			value := "$s_" + s.name
			w.line("  ", value, " = ", expr, ";")
			lost = append(lost, "("+value+" != 0 && "+at+" == 0)")
			expr = value
		}
		w.line("  ", at, " = ", expr, ";")
		if !p.wish.Whole && !s.thread && p.wish.Variant.Scope == catalog.ScopeCgroup {
			w.line("  ", s.zone(Bpftrace), " = ", scopeText(p.wish.Variant.Scope), ";")
		}
	}
	if len(lost) == 0 { // texts alone; without one an event does not count either
		lost = append(lost, c.saves[0].forOther().text(Bpftrace)+` == ""`)
	}
	w.line("  if (", strings.Join(lost, " || "), ") {")
	w.line("    if (@generation == 0) { @al[(uint64)0] = count(); } else { @bl[(uint64)0] = count(); }")
	w.line("  }")
	w.line("}")
}

// remembers reports whether the program saves anything. What finds no room in a map is counted, for its exit will not be.
func (p *Program) remembers() bool {
	return slices.ContainsFunc(p.clauses, func(c clause) bool { return c.role == catalog.Entry })
}

// threadExec is where a thread that is not its process's first one gets the number of that one, which has ended.
const threadExec = "tracepoint:sched:sched_process_exec"

// writeRenamed writes the clause by which a thread keeps what is saved for it under its new number. What has been saved under
// that one since is newer.
func (p *Program) writeRenamed(w *writer, byThread map[string]save, saved map[string]bool) {
	if len(byThread) == 0 {
		return
	}
	w.line(threadExec, filter("(args->old_pid != args->pid)"), " {")
	for _, name := range sortedKeys(byThread) {
		was, is := byThread[name], byThread[name]
		was.keys, is.keys = []string{"args->old_pid"}, []string{"args->pid"}
		w.line("  if ", was.isThere(Bpftrace), " {")
		w.line("    if (", is.text(Bpftrace), " == ", is.nothing(), ") { ", is.text(Bpftrace), " = ", was.text(Bpftrace), "; }")
		w.line("    delete(", was.text(Bpftrace), ");")
		w.line("  }")
		if saved[was.waits()] {
			w.line("  delete(@", was.waits(), "[args->old_pid]);")
		}
	}
	w.line("}")
}

// waits names the map of when a thread whose time is saved as running has left its CPU.
func (s save) waits() string { return "w_" + s.name }

// writeWaits writes the clauses that put a saved time off by as long as its thread is on no CPU.
func (s save) writeWaits(w *writer) {
	since := func(thread string) string { return "@s_" + s.name + "[args->" + thread + "]" }
	left := func(thread string) string { return "@" + s.waits() + "[args->" + thread + "]" }
	w.line("tracepoint:sched:sched_switch /(", since("prev_pid"), ")/ {")
	w.line("  ", left("prev_pid"), " = nsecs;")
	w.line("}")
	w.line("tracepoint:sched:sched_switch /(", left("next_pid"), ")/ {")
	w.line("  ", since("next_pid"), " = ", since("next_pid"), " + (nsecs - ", left("next_pid"), ");")
	w.line("  delete(", left("next_pid"), ");")
	w.line("}")
}

func (p *Program) bpftraceCount(w *writer, c clause) {
	var required []string
	for _, s := range c.require {
		required = append(required, s.isThere(Bpftrace))
	}
	fromSave, isSaved := p.savedZone(c)
	inside := c.late
	if len(c.require) == 0 {
		w.line(strings.Join(c.probes, ",\n"), filter(p.scopeOf(), paren(c.own), texts(c.early, Bpftrace)), " {")
	} else { // what was saved is forgotten whether it counts or not
		w.line(strings.Join(c.probes, ",\n"), filter(strings.Join(required, " && "), paren(c.own)), " {")
		inside = append(append([]cond(nil), c.early...), c.late...)
	}
	zone, conditions := "(uint64)0", []string{}
	if !p.wish.Whole {
		zone = "$z"
		from := scopeText(p.wish.Variant.Scope)
		if isSaved {
			from = fromSave.zone(Bpftrace)
		}
		w.line("  $z = ", from, ";")
		conditions = append(conditions, "($z != 0)")
	}
	if c.arguments {
		w.line(argumentVars)
	}
	for _, l := range c.locals {
		w.line("  ", Bpftrace.local(l.name), " = ", Bpftrace.number(l.expr, l.signed), ";")
	}
	if len(inside) > 0 {
		conditions = append(conditions, texts(inside, Bpftrace))
	}
	indent := "  "
	if len(conditions) > 0 {
		w.line("  if (", strings.Join(conditions, " && "), ") {")
		indent = "    "
	}
	keys := []string{zone}
	if b := c.bucket; b != nil {
		v := Bpftrace.local(b.local)
		w.line(indent, "$step = ", Bpftrace.number(b.step(v), b.signed), ";")
		w.line(indent, "$low = ", Bpftrace.number(b.low(v, "$step"), b.signed), ";")
		keys = append(keys, "$low")
	}
	keys = append(keys, c.keys...)
	for _, half := range []struct{ head, name string }{{"if (@generation == 0) {", "a"}, {"else {", "b"}} {
		text := indent + half.head
		if p.Keyed() {
			text += " @" + half.name + "[" + strings.Join(keys, ", ") + "] = " + c.amount(Bpftrace) + ";"
		}
		w.line(text, " @", half.name, "n[", zone, "] = ", c.amount(Bpftrace), "; }")
	}
	if len(conditions) > 0 {
		w.line("  }")
	}
	for _, s := range c.require {
		w.line("  delete(", s.text(Bpftrace), ");")
		if isSaved && s.name == fromSave.name {
			w.line("  delete(", s.zone(Bpftrace), ");")
		}
	}
	w.line("}")
}
