package program

import (
	"slices"
	"strings"

	"github.com/google/uuid"

	"iapi/catalog"
)

// The options of every D program; a definition may set those of its allow-list. The rates make a second's rows come at
// most a tenth of a second late.
var dOptions = map[string]string{
	"aggrate": "10hz", "aggsize": "4m", "bufsize": "256k", "cleanrate": "101hz", "dynvarsize": "32m", "strsize": "128", "switchrate": "10hz",
}

// writeD writes a program that gives out its aggregations at each whole second. The consumer takes a snapshot of buffers
// that the kernel has switched, so that printing and clearing loses nothing.
func (p *Program) writeD(w *writer, r Remote) {
	options := map[string]string{}
	for name, value := range dOptions {
		options[name] = value
	}
	for name, value := range p.wish.Variant.Source.DTrace.Options {
		if name != "strsize" { // the bounds of constants go with it
			options[name] = value
		}
	}
	w.line("#pragma D option quiet")
	for _, name := range sortedKeys(options) {
		w.line("#pragma D option ", name, "=", options[name])
	}
	w.line("BEGIN {")
	w.line("  iapi_end = timestamp + ", number(max(0, int64(r.Left))), ";")
	w.line("  iapi_second = walltimestamp / 1000000000;")
	w.line(`  printf("S\n");`)
	w.line("}")
	zoneKept := map[string]bool{}
	for _, c := range p.clauses {
		if s, is := p.savedZone(c); is {
			zoneKept[s.name] = true
		}
	}
	for _, c := range p.clauses {
		if c.role == catalog.Entry {
			p.entryD(w, c, zoneKept)
		} else {
			p.countD(w, c, zoneKept)
		}
	}
	for _, clean := range p.cleans {
		s := clean.save
		s.keys = clean.keys
		w.line(clean.probe, filter(paren(clean.own)), " {")
		p.forgetD(w, s, zoneKept)
		w.line("}")
	}
	w.line("syscall::lseek:entry /(pid == ", number(int64(r.PID)), ") && ((int)arg0 == -1) && ((int)arg2 == ", number(int64(r.Whence)), ")/ {")
	w.line("  iapi_end = timestamp + (int64_t)arg1;")
	w.line("}")
	w.line("profile:::tick-100hz /timestamp > iapi_end/ { exit(0); }")
	w.line("profile:::tick-100hz /(walltimestamp / 1000000000) != iapi_second/ {")
	w.line("  iapi_second = walltimestamp / 1000000000;")
	w.line(`  printf("B\t%d\n", iapi_second);`)
	w.line(`  printa("N\t%S\t%@d\n", @total);`)
	if p.Keyed() {
		w.line(`  printa("R\t%S`, p.formatD(), `\t%@d\n", @rows);`)
	}
	w.line(`  printf("E\n");`)
	w.line("  trunc(@total);")
	if p.Keyed() {
		w.line("  trunc(@rows);")
	}
	w.line("}")
}

// formatD prints each part of a key so that it is one word: %S writes what is not printable as an escape.
func (p *Program) formatD() string {
	var b strings.Builder
	for _, k := range p.keys {
		switch {
		case k.kind > numberKey:
			b.WriteString(`\t%S`)
		case k.trace.CType == "int":
			b.WriteString(`\t%d`)
		default:
			b.WriteString(`\t%u`)
		}
	}
	return b.String()
}

// scopeD is true in the zones that the program is kept to. UUIDs print as nothing but hex digits and dashes.
func (p *Program) scopeD() string {
	if p.wish.Whole {
		return ""
	}
	zones := slices.Clone(p.wish.Zones)
	slices.SortFunc(zones, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	if len(zones) == 0 {
		return "(0)"
	}
	parts := make([]string, len(zones))
	for i, id := range zones {
		parts[i] = "(zonename == " + quote(id.String()) + ")"
	}
	return "(" + strings.Join(parts, " || ") + ")"
}

func (p *Program) entryD(w *writer, c clause, zoneKept map[string]bool) {
	w.line(strings.Join(c.probes, ",\n"), filter(p.scopeD(), paren(c.own), texts(c.early, D)), " {")
	for _, s := range c.saves {
		w.line("  ", s.text(D), " = ", s.expr, ";")
		if zoneKept[s.name] {
			w.line("  ", s.zone(D), " = zonename;")
		}
	}
	w.line("}")
}

// countD writes the clauses of one counting clause: D has no if, so each condition needs a clause of its own.
func (p *Program) countD(w *writer, c clause, zoneKept map[string]bool) {
	probes := strings.Join(c.probes, ",\n")
	var required []string
	for _, s := range c.require {
		required = append(required, s.isThere(D))
	}
	fromSave, isSaved := p.savedZone(c)
	zone, scope := "zonename", p.scopeD()
	switch {
	case p.wish.Whole:
		zone = `""`
	case isSaved: // it was in scope when it was saved
		zone, scope = fromSave.zone(D), ""
	}
	seen := append([]string{scope}, required...)
	seen = append(seen, paren(c.own))
	if len(c.locals) > 0 {
		w.line(probes, filter(seen...), " {")
		for _, l := range c.locals {
			w.line("  ", D.local(l.name), " = ", D.number(l.expr, l.signed), ";")
		}
		if b := c.bucket; b != nil {
			v := D.local(b.local)
			w.line("  this->step = ", D.number(b.step(v), b.signed), ";")
			w.line("  this->low = ", D.number(b.low(v, "this->step"), b.signed), ";")
		}
		w.line("}")
	}
	w.line(probes, filter(append(seen, texts(c.early, D), texts(c.late, D))...), " {")
	if p.Keyed() {
		keys := []string{zone}
		if c.bucket != nil {
			keys = append(keys, "this->low")
		}
		w.line("  @rows[", strings.Join(append(keys, c.keys...), ", "), "] = ", c.amount(D), ";")
	}
	w.line("  @total[", zone, "] = ", c.amount(D), ";")
	w.line("}")
	if len(c.require) == 0 {
		return
	}
	w.line(probes, filter(append(required, paren(c.own))...), " {")
	for _, s := range c.require {
		p.forgetD(w, s, zoneKept)
	}
	w.line("}")
}

// forgetD gives the memory of what was saved back.
func (p *Program) forgetD(w *writer, s save, zoneKept map[string]bool) {
	w.line("  ", s.text(D), " = 0;")
	if zoneKept[s.name] {
		w.line("  ", s.zone(D), " = 0;")
	}
}
