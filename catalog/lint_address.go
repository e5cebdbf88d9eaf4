package catalog

import (
	"fmt"
	"regexp"
	"slices"
)

// addresses are members of args that are addresses in every kernel that has them. Where a program is started, the kernel is
// asked about all others.
var addresses = []string{"skaddr", "skbaddr", "ptr", "call_site", "filename", "interp", "parent_comm", "child_comm", "func", "pfn"}

// socketProbe is where a socket says whose an event is.
var socketProbe = regexp.MustCompile(`^tracepoint:(sock|tcp):`)

// argumentsOf finds the members of args that an expression of bpftrace reads.
var argumentsOf = regexp.MustCompile(`\bargs *(?:->|\.) *([A-Za-z_][A-Za-z0-9_]*)`)

// bareArgument is a key that is one argument and nothing else.
var bareArgument = regexp.MustCompile(`^ *(?:args *(?:->|\.) *[A-Za-z_][A-Za-z0-9_]*|arg[0-9]+) *$`)

// Arguments gives the members of args that an expression of bpftrace reads.
func Arguments(expr string) (names []string) {
	for _, match := range argumentsOf.FindAllStringSubmatch(expr, -1) {
		names = append(names, match[1])
	}
	return names
}

// lintAddresses refuses what would tell where the kernel keeps things. Of D no kernel is asked: what a compiler of D does not
// refuse as the address that it is, is for operators only.
func (l *linter) lintAddresses(path string, v *Variant, c *Clause, lang language) {
	tenants := l.doc.Visibility == "tenant" && slices.Contains(v.Places, Zone)
	for _, expr := range c.Values() {
		if !lang.isD() {
			for _, name := range Arguments(expr) {
				if slices.Contains(addresses, name) {
					l.add(path, "args->%s is refused: it is an address, which tells of the kernel, and can be but a key of what is saved", name)
				}
			}
			continue
		}
		tokens := tokensOf(expr)
		for i, name := range tokens {
			if tenants && argument.MatchString(name) && !c.isNumber(name, lang) {
				l.add(path, "%s is for operators: of these probes it may be an address, which tells of the kernel", name)
			}
			if i > 0 && tokens[i-1] == "(" && lang.isType(name) && !c.countsBy(expr) {
				l.add(path, "(%s) is refused: only a number is made of another, for a type hides an address from the compiler", name)
			}
		}
	}
	if tenants && v.Scope == ScopeSocketCgroup {
		for i, probe := range c.Probes {
			if !socketProbe.MatchString(probe) {
				l.add(fmt.Sprintf("%s.probes[%d]", path, i), "the probe %q is for operators: its events are of no socket", probe)
			}
		}
	}
}

// isNumber reports whether an argument is a number at each of the clause's probes.
func (c *Clause) isNumber(arg string, lang language) bool {
	return !slices.ContainsFunc(c.Probes, func(probe string) bool { return !lang.numbers.MatchString(probe + " " + arg) })
}

// countsBy reports whether an expression of the clause is nowhere but where it has to be a number.
func (c *Clause) countsBy(expr string) bool {
	if expr == c.If {
		return false
	}
	for _, save := range c.Save {
		if save.Expr == expr && save.CType != "" {
			return false
		}
	}
	for _, f := range c.Fields {
		if f.Expr == expr && f.CType != CTypeInt && f.CType != CTypeUint {
			return false
		}
	}
	return true
}

// tokensOf gives the tokens of an expression, without spaces.
func tokensOf(expr string) (tokens []string) {
	for expr != "" {
		text := token.FindString(expr)
		if text == "" {
			return tokens // it is refused elsewhere
		}
		if text[0] != ' ' {
			tokens = append(tokens, text)
		}
		expr = expr[len(text):]
	}
	return tokens
}
