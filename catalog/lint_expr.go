package catalog

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// token is how expressions are spelled: names, $names, numbers, plain string constants, operators, spaces.
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
	var tokens []string // without spaces
	before, open, issues := "", 0, len(l.issues)
	for rest := expr; rest != "" && open >= 0; {
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
		case text == "(" || text == "[":
			open++
		case text == ")" || text == "]":
			open--
		}
		tokens = append(tokens, text)
		before, rest = text, rest[len(text):]
	}
	if open != 0 {
		l.add(path, "its parentheses do not match")
	}
	if len(l.issues) > issues {
		return
	}
	e := &expression{rest: tokens, lang: lang}
	if err := e.whole(); err != nil {
		l.add(path, "%v", err)
	}
}

func (l *linter) lintName(path, name, rest string, lang language) {
	_, isRoot := lang.roots[name]
	switch {
	case name == "copyinstr" && slices.Contains(lang.functions, name) && !copyinstrOf.MatchString(rest):
		l.add(path, "copyinstr is refused but for an argument of the probe, or what was saved of one")
	case isRoot || lang.isType(name) || slices.Contains(lang.names, name) || slices.Contains(lang.functions, name):
	case refused[name] != "":
		l.add(path, "%s is refused: it %s", name, refused[name])
	default:
		l.add(path, "%s is refused: it is not on the list of what definitions may use", name)
	}
}

// isType reports whether a token is the name of an integer type.
func (lang language) isType(name string) bool {
	return intType.MatchString(name) && strings.HasSuffix(name, "_t") == lang.isD()
}

// expression reads the tokens of an expression by a grammar in which nothing but the ways that begin at a root of the language
// leads to memory. There are no pointers in it: no type but a number's, no address of, no indirection, and no index but those
// of args and fds in D. What it cannot read is refused.
//
//	expression = unary {binary unary} ["?" expression ":" expression]
//	unary      = {"-" | "!" | "~" | "(" type ")"} value
//	value      = number | text | $saved | name | function "(" expression {"," expression} ")" | way | "(" expression ")"
type expression struct {
	rest []string
	last string // the token that was read last
	lang language
}

func (e *expression) whole() error {
	if err := e.ternary(); err != nil {
		return err
	}
	return e.unexpected()
}

// peek is the next token, "" at the end.
func (e *expression) peek() string {
	if len(e.rest) == 0 {
		return ""
	}
	return e.rest[0]
}

func (e *expression) next() string {
	text := e.peek()
	if text != "" {
		e.last, e.rest = text, e.rest[1:]
	}
	return text
}

func (e *expression) accept(text string) bool {
	if e.peek() != text {
		return false
	}
	e.next()
	return true
}

func (e *expression) expect(text string) error {
	if !e.accept(text) {
		return e.unexpected()
	}
	return nil
}

// unexpected refuses the next token, or the end of a part that is not complete.
func (e *expression) unexpected() error {
	switch text := e.peek(); text {
	case "":
		return nil
	case "*":
		return fmt.Errorf(`"*" is refused: a pointer that is followed reads any memory`)
	case "[", "->", ".":
		return fmt.Errorf("%q is refused: what is followed but from %s reads any memory", text, e.lang.rootNames())
	case "&":
		return fmt.Errorf(`"&" is refused: an address tells of the kernel, and reads any memory where it is followed`)
	default:
		return fmt.Errorf("%q is refused: it is not where an expression can have it", text)
	}
}

func (lang language) rootNames() string {
	var names []string
	for name := range lang.roots {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

var binary = []string{"+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>", "<", "<=", ">", ">=", "==", "!=", "&&", "||"}

func (e *expression) ternary() error {
	for {
		if err := e.unary(); err != nil {
			return err
		}
		if !slices.Contains(binary, e.peek()) {
			break
		}
		e.next()
	}
	if !e.accept("?") {
		return nil
	}
	if err := e.ternary(); err != nil {
		return err
	}
	if err := e.expect(":"); err != nil {
		return err
	}
	return e.ternary()
}

func (e *expression) unary() error {
	for {
		switch {
		case e.accept("-") || e.accept("!") || e.accept("~"):
		case e.peek() == "(" && len(e.rest) > 1 && e.lang.isType(e.rest[1]):
			e.next()
			e.next()
			if err := e.expect(")"); err != nil { // a * here makes a pointer of a number
				return err
			}
		default:
			return e.value()
		}
	}
}

func (e *expression) value() error {
	name, before := e.peek(), e.last
	root, isRoot := e.lang.roots[name]
	switch {
	case name == "":
		return fmt.Errorf("it is refused: its end is missing")
	case isRoot:
		e.next()
		return e.way(name, root, before)
	case slices.Contains(e.lang.functions, name):
		e.next()
		return e.call()
	case e.lang.isType(name):
		return fmt.Errorf("%s is refused: a type stands alone in parentheses, before what is made a number of its kind", name)
	case tokenName.MatchString(name), strings.ContainsAny(name[:1], `$"0123456789`):
		e.next()
		return nil
	case e.accept("("):
		if err := e.ternary(); err != nil {
			return err
		}
		return e.expect(")")
	}
	return e.unexpected()
}

func (e *expression) call() error {
	if err := e.expect("("); err != nil {
		return err
	}
	for {
		if err := e.ternary(); err != nil {
			return err
		}
		if !e.accept(",") {
			return e.expect(")")
		}
	}
}

// way reads what is followed from a root. In bpftrace args is a structure of numbers and texts, of which a member may be an
// address that a program has chosen: it is not followed. In D the probes give args their types.
func (e *expression) way(name string, s structures, before string) error {
	most := 16
	switch {
	case name == "args" && !e.lang.isD():
		most = 1
	case name == "args":
		if err := e.index(); err != nil {
			return err
		}
		if e.peek() == "[" && len(e.rest) > 1 && e.rest[1] == "0" { // a pointer to a pointer
			if err := e.index(); err != nil {
				return err
			}
		}
	case name == "fds":
		if err := e.expect("["); err != nil {
			return err
		}
		if err := e.ternary(); err != nil {
			return err
		}
		if err := e.expect("]"); err != nil {
			return err
		}
	}
	last := ""
	for range most {
		if !e.accept("->") && !e.accept(".") {
			break
		}
		if last = e.next(); !tokenName.MatchString(last) || !s.any && !slices.Contains(slices.Concat(s.through, s.to, s.set), last) {
			return fmt.Errorf("%s is refused: of %s only %s can be read", last, name, strings.Join(slices.Concat(s.through, s.to, s.set), ", "))
		}
		if slices.Contains(s.set, last) {
			return e.isSet(last, before)
		}
	}
	if last == "" || !s.any && !slices.Contains(s.to, last) {
		return fmt.Errorf("%s is refused: an address tells of the kernel; a way ends at a member that holds none", name)
	}
	return nil
}

// isSet reads the comparison of an address with 0, which tells nothing but whether it is there. It stands alone, or between
// && and ||: what is computed of an address would tell of it.
func (e *expression) isSet(name, before string) error {
	compared := (e.accept("==") || e.accept("!=")) && e.accept("0")
	if compared && slices.Contains([]string{"", "(", "&&", "||"}, before) && slices.Contains([]string{"", ")", "&&", "||"}, e.peek()) {
		return nil
	}
	return fmt.Errorf("%s is refused: it is an address, which is compared with 0 and nothing else", name)
}

// index reads the number of an argument.
func (e *expression) index() error {
	if err := e.expect("["); err != nil {
		return err
	}
	if n := e.peek(); len(n) != 1 || n[0] < '0' || n[0] > '9' {
		return fmt.Errorf("%q is refused: an argument is known by one digit", n)
	}
	e.next()
	return e.expect("]")
}

func firstRune(s string) string {
	for _, r := range s {
		return string(r)
	}
	return ""
}
