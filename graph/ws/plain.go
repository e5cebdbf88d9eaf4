package ws

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
)

// plain reads JSON exactly as encoding/json writes a known struct: members in their order, without spaces. Whatever is written
// in another way makes it fail, and what has failed stays so. It keeps nothing of the text.
type plain struct {
	rest   []byte
	failed bool
}

func (p *plain) fail() { p.rest, p.failed = nil, true }

// has passes over a text if it is the next.
func (p *plain) has(text string) bool {
	if len(p.rest) < len(text) || string(p.rest[:len(text)]) != text {
		return false
	}
	p.rest = p.rest[len(text):]
	return true
}

// must passes over a text that has to be the next.
func (p *plain) must(text string) {
	if !p.has(text) {
		p.fail()
	}
}

// end reports whether all was read, and nothing failed.
func (p *plain) end() bool { return !p.failed && len(p.rest) == 0 }

// quoted passes over a string and gives what it says, which is a part of the text where it has no escapes.
func (p *plain) quoted() []byte {
	p.must(`"`)
	for i, c := range p.rest {
		switch {
		case c == '"':
			inner := p.rest[:i]
			p.rest = p.rest[i+1:]
			return inner
		case c == '\\':
			return p.escaped()
		case c < ' ':
			p.fail()
			return nil
		}
	}
	p.fail()
	return nil
}

// escaped is quoted, behind the first quote, for a string that has escapes.
func (p *plain) escaped() []byte {
	for i := 0; i < len(p.rest); i++ {
		switch p.rest[i] {
		case '\\':
			i++
		case '"':
			var s string
			if json.Unmarshal(append([]byte{'"'}, p.rest[:i+1]...), &s) != nil {
				p.fail()
				return nil
			}
			p.rest = p.rest[i+1:]
			return []byte(s)
		}
	}
	p.fail()
	return nil
}

func (p *plain) string() string { return string(p.quoted()) }

// uuid reads a UUID in the one spelling that the schema has.
func (p *plain) uuid() (id uuid.UUID) {
	text := p.quoted()
	if len(text) != 36 || id.UnmarshalText(text) != nil {
		p.fail()
	}
	return id
}

// time reads a time, and gives it in UTC.
func (p *plain) time() (t time.Time) {
	if t.UnmarshalText(p.quoted()) != nil {
		p.fail()
	}
	if t = t.UTC(); t.Year() < 0 || t.Year() > 9999 { // which cannot be written again
		p.fail()
	}
	return t
}

func (p *plain) bool() bool {
	if p.has("true") {
		return true
	}
	p.must("false")
	return false
}

// int reads an Int of GraphQL.
func (p *plain) int() int64 {
	n := 0
	for n < len(p.rest) && (p.rest[n] >= '0' && p.rest[n] <= '9' || n == 0 && p.rest[n] == '-') {
		n++
	}
	digits := bytes.TrimPrefix(p.rest[:n], []byte{'-'})
	v, err := strconv.ParseInt(string(p.rest[:n]), 10, 32)
	if err != nil || len(digits) > 1 && digits[0] == '0' {
		p.fail()
		return 0
	}
	p.rest = p.rest[n:]
	return v
}

// list has element read each element of a list.
func (p *plain) list(element func()) {
	p.must("[")
	if p.has("]") {
		return
	}
	for !p.failed {
		element()
		if p.has("]") {
			return
		}
		p.must(",")
	}
}

func (p *plain) version() (v assignment.Version) {
	p.must(`{"epoch":`)
	v.Epoch = p.string()
	p.must(`,"generation":`)
	v.Generation = p.int()
	p.must(`,"hash":`)
	v.Hash = p.string()
	p.must(`}`)
	return v
}
