package program

import (
	"regexp"
	"slices"
	"strings"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/measure"
)

// threadExit is where a thread ends that may have entered something which it will not leave.
const threadExit = "tracepoint:sched:sched_process_exit"

func (c *compiler) compileClauses() error {
	dropped := c.unneeded()
	kept := map[string]bool{}
	for i := range c.source.Clauses {
		def := &c.source.Clauses[i]
		if def.Role == catalog.Entry {
			continue
		}
		for _, name := range def.Require {
			kept[name] = kept[name] || !dropped[name]
		}
	}
	for i := range c.source.Clauses {
		def := &c.source.Clauses[i]
		out := clause{probes: def.Probes, role: def.Role, own: c.resolve(def.If, def)}
		for _, name := range def.Require {
			if _, saved := c.saves[name]; !saved {
				return collect.Errorf(collect.Failed, "nothing is saved as %s", name)
			}
			if kept[name] {
				out.require = append(out.require, c.saveAt(name, def))
			}
		}
		var err error
		if def.Role == catalog.Entry {
			for name := range def.Save {
				if kept[name] {
					s := c.saves[name]
					s.of, s.expr = def.Save[name].Of, c.saved(def.Save[name])
					out.saves = append(out.saves, s)
				}
			}
			if len(out.saves) == 0 {
				continue
			}
			slices.SortFunc(out.saves, func(a, b save) int { return strings.Compare(a.name, b.name) })
			err = c.entry(&out, def)
		} else {
			err = c.counting(&out, def)
		}
		if err != nil {
			return err
		}
		c.p.clauses = append(c.p.clauses, out)
	}
	c.cleanUp(kept)
	return nil
}

// unneeded finds the saved names that this wish does without. Only what a thread saves unconditionally for itself is left
// out, because everything else may also say which events count.
func (c *compiler) unneeded() map[string]bool {
	names := map[string]bool{}
	for name, s := range c.saves {
		names[name] = s.thread
	}
	used := append(c.predicate.Fields(), c.wish.Decompositions...)
	for _, def := range c.source.Clauses {
		if def.Role == catalog.Entry {
			for name := range def.Save {
				names[name] = names[name] && def.If == ""
			}
			continue
		}
		exprs := []string{def.If, def.Value}
		for _, field := range used {
			exprs = append(exprs, def.Fields[field].Expr)
		}
		for _, expr := range exprs {
			for _, match := range savedName.FindAllStringSubmatch(expr, -1) {
				names[match[1]] = false
			}
		}
	}
	return names
}

var savedName = regexp.MustCompile(`\$([a-z][a-z0-9_]*)`)

// saveAt is what was saved, as a clause reads it.
func (c *compiler) saveAt(name string, def *catalog.Clause) save {
	s := c.saves[name]
	if len(def.At) > 0 {
		s.keys = def.At
	}
	return s
}

// resolve replaces $name by what was saved.
func (c *compiler) resolve(expr string, def *catalog.Clause) string {
	return savedName.ReplaceAllStringFunc(expr, func(name string) string { return c.saveAt(name[1:], def).text(c.lang) })
}

// entry gives an entry the conjuncts of the predicate that it can evaluate, so that what cannot count is not remembered.
// The exit evaluates all of them again: a process may have become another in between.
func (c *compiler) entry(out *clause, def *catalog.Clause) error {
	if out.foreign() { // its fields would be those of another thread
		return nil
	}
	for _, conjunct := range conjuncts(c.predicate) {
		if slices.ContainsFunc(conjunct.Fields(), func(name string) bool { _, has := def.Fields[name]; return !has }) || ofArguments(conjunct, def) {
			continue
		}
		made, err := c.cond(conjunct, def, func(name string) string { return c.numberText(name, def) })
		if err != nil {
			return err
		}
		out.early = append(out.early, made)
	}
	return nil
}

// numberText is a numeric field's expression where it is not kept in a variable.
func (c *compiler) numberText(name string, def *catalog.Clause) string {
	t := def.Fields[name]
	return c.lang.number(c.expr(t, def), t.CType == catalog.CTypeInt)
}

func (c *compiler) counting(out *clause, def *catalog.Clause) error {
	isLocal := map[string]bool{}
	local1 := func(name string) string {
		t := def.Fields[name]
		if !isLocal[name] {
			isLocal[name] = true
			out.locals = append(out.locals, local{name: name, signed: t.CType == catalog.CTypeInt, expr: c.expr(t, def)})
		}
		return c.lang.local(name)
	}
	for _, conjunct := range conjuncts(c.predicate) {
		made, err := c.cond(conjunct, def, local1)
		if err != nil {
			return err
		}
		out.arguments = out.arguments || ofArguments(conjunct, def)
		if ofArguments(conjunct, def) || slices.ContainsFunc(conjunct.Fields(), func(name string) bool { return isLocal[name] }) {
			out.late = append(out.late, made)
		} else {
			out.early = append(out.early, made)
		}
	}
	for _, k := range c.p.keys {
		t, has := def.Fields[k.field.Name]
		if !has {
			return collect.Errorf(collect.Failed, "a clause lacks the field %s", k.field.Name)
		}
		if k.kind != bucketKey && k.kind != kindOf(t) {
			return collect.Errorf(collect.Failed, "the clauses give the field %s different types", k.field.Name)
		}
		expr := c.expr(t, def)
		switch k.kind {
		case bucketKey:
			local1(k.field.Name)
			out.bucket = &bucketing{local: k.field.Name, signed: t.CType == catalog.CTypeInt, by: k.field.Buckets}
			continue
		case numberKey:
			expr = c.lang.number(expr, t.CType == catalog.CTypeInt)
		case stackKey:
		default:
			expr = paren(expr)
		}
		out.keys = append(out.keys, expr)
		if t.Map != nil { // what the map lacks is no event of this metric
			made, err := c.mapped(k.field, t, def, "", measure.Ne)
			if err != nil {
				return err
			}
			out.early = append(out.early, made)
		}
	}
	out.value = c.lang.noAddress(c.resolve(def.Value, def))
	return nil
}

// cleanUp forgets what is saved for a thread when it ends, and what the definition says.
func (c *compiler) cleanUp(kept map[string]bool) {
	atExit := map[string]bool{}
	for _, def := range c.source.Clean {
		if !kept[def.Save] {
			continue
		}
		s := c.saves[def.Save]
		made := clean{probe: def.Probe, own: def.If, save: s, keys: def.Key}
		if len(def.Key) == 0 {
			made.keys = s.keys
		}
		c.p.cleans = append(c.p.cleans, made)
		atExit[def.Save] = atExit[def.Save] || def.Probe == threadExit
	}
	if c.lang != Bpftrace { // a thread's variables go with the thread
		return
	}
	for _, name := range sortedKeys(kept) {
		if s := c.saves[name]; kept[name] && s.thread && s.of == "" && !atExit[name] {
			c.p.cleans = append(c.p.cleans, clean{probe: threadExit, save: s, keys: s.keys})
		}
	}
}
