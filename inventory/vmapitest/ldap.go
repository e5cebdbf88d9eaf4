package vmapitest

import (
	"errors"
	"strings"
)

// maxFilterDepth bounds the nesting of a filter, for parsing it is recursive.
const maxFilterDepth = 100

var errFilter = errors.New("not a filter")

// parseFilter reads the text form of an LDAP filter, as far as VMAPI's data base knows it.
func parseFilter(text string) (*filter, error) {
	p := filterParser{text: text}
	f, err := p.node(0)
	if err != nil {
		return nil, err
	}
	if p.pos != len(text) {
		return nil, errFilter
	}
	return f, nil
}

type filterParser struct {
	text string
	pos  int
}

func (p *filterParser) next() byte {
	if p.pos < len(p.text) {
		return p.text[p.pos]
	}
	return 0
}

func (p *filterParser) node(depth int) (*filter, error) {
	if depth > maxFilterDepth || p.next() != '(' {
		return nil, errFilter
	}
	p.pos++
	var f *filter
	var err error
	switch p.next() {
	case '&', '|', '!':
		f, err = p.branch(depth)
	default:
		f, err = p.leaf()
	}
	if err != nil {
		return nil, err
	}
	if p.next() != ')' {
		return nil, errFilter
	}
	p.pos++
	return f, nil
}

func (p *filterParser) branch(depth int) (*filter, error) {
	f := &filter{op: map[byte]op{'&': opAnd, '|': opOr, '!': opNot}[p.next()]}
	p.pos++
	for p.next() == '(' {
		kid, err := p.node(depth + 1)
		if err != nil {
			return nil, err
		}
		f.kids = append(f.kids, kid)
	}
	if len(f.kids) == 0 || (f.op == opNot && len(f.kids) != 1) {
		return nil, errFilter
	}
	return f, nil
}

// leaf reads attr OP value up to its closing parenthesis.
func (p *filterParser) leaf() (*filter, error) {
	rest := p.text[p.pos:]
	end := strings.IndexByte(rest, ')')
	at := strings.IndexAny(rest, "=<>~:")
	if end < 0 || at <= 0 || at > end {
		return nil, errFilter
	}
	attr, tail := rest[:at], rest[at:end]
	if strings.ContainsAny(attr, "( \\*") {
		return nil, errFilter
	}
	p.pos += end
	f := &filter{attr: attr}
	switch {
	case strings.HasPrefix(tail, ">="):
		f.op, tail = opAtLeast, tail[2:]
	case strings.HasPrefix(tail, "<="):
		f.op, tail = opAtMost, tail[2:]
	case tail[0] == '<', tail[0] == '>':
		f.op, tail = opInvalid, tail[1:]
	case tail[0] == '=':
		f.op, tail = opEqual, tail[1:]
	case strings.HasPrefix(tail, ":caseIgnoreMatch:="):
		f.op, f.nocase, tail = opEqual, true, strings.TrimPrefix(tail, ":caseIgnoreMatch:=")
	case strings.HasPrefix(tail, ":caseIgnoreSubstringsMatch:="):
		f.op, f.nocase, tail = opEqual, true, strings.TrimPrefix(tail, ":caseIgnoreSubstringsMatch:=")
	default:
		return nil, errFilter
	}
	if f.op == opEqual && tail == "*" {
		f.op = opPresent
		return f, nil
	}
	parts, err := valueParts(tail)
	if err != nil {
		return nil, err
	}
	if len(parts) == 1 || f.op != opEqual {
		f.value = strings.Join(parts, "*")
		return f.prepare(), nil
	}
	f.op, f.parts = opSubstring, parts
	return f.prepare(), nil
}

// valueParts cuts a value at its wildcards and resolves the \XX escapes of what stands between them.
func valueParts(value string) ([]string, error) {
	var parts []string
	var part []byte
	for i := 0; i < len(value); i++ {
		switch c := value[i]; c {
		case '*':
			parts = append(parts, string(part))
			part = part[:0]
		case '(':
			return nil, errFilter
		case '\\':
			if i+2 >= len(value) {
				return nil, errFilter
			}
			high, low := hexDigit(value[i+1]), hexDigit(value[i+2])
			if high < 0 || low < 0 {
				return nil, errFilter
			}
			part = append(part, byte(high<<4|low))
			i += 2
		default:
			part = append(part, c)
		}
	}
	return append(parts, string(part)), nil
}

func hexDigit(c byte) int { return strings.IndexByte("0123456789abcdef", lower(c)) }

func lower(c byte) byte {
	if c >= 'A' && c <= 'F' {
		return c + ('a' - 'A')
	}
	return c
}
