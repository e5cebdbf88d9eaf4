package vmapi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner reads JSON text from front to back without building anything. It accepts what encoding/json accepts.
type scanner struct {
	data []byte
	pos  int
}

const maxDepth = 10000 // of nested arrays and objects, as in encoding/json

var errEnds = errors.New("the JSON text ends too early")

func (s *scanner) bad(what string) error {
	if s.pos >= len(s.data) {
		return errEnds
	}
	return fmt.Errorf("not JSON: %q %s at byte %d", s.data[s.pos], what, s.pos)
}

// peek skips white space and returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	for s.pos < len(s.data) {
		c := s.data[s.pos]
		if c > ' ' || (c != ' ' && c != '\n' && c != '\t' && c != '\r') {
			return c
		}
		s.pos++
	}
	return 0
}

// end requires that nothing but white space follows.
func (s *scanner) end() error {
	if s.peek(); s.pos < len(s.data) {
		return s.bad("after the value")
	}
	return nil
}

// more steps through an array or object: it consumes the opening bracket or a comma and reports true when an element
// or a member follows, or consumes the closing bracket and reports false.
func (s *scanner) more(first bool, closing byte) (bool, error) {
	if first {
		s.pos++ // the opening bracket, seen by the caller
		if s.peek() == closing && s.pos < len(s.data) {
			s.pos++
			return false, nil
		}
		return true, nil
	}
	switch s.peek() {
	case ',':
		s.pos++
		return true, nil
	case closing:
		s.pos++
		return false, nil
	}
	return false, s.bad("where a comma or a closing bracket belongs")
}

// key reads a member's name and the colon. The bytes are valid until the text is.
func (s *scanner) key() ([]byte, error) {
	if s.peek() != '"' {
		return nil, s.bad("where a name belongs")
	}
	raw, plain, err := s.str()
	if err != nil {
		return nil, err
	}
	if s.peek() != ':' {
		return nil, s.bad("where a colon belongs")
	}
	s.pos++
	if !plain {
		return []byte(unquote(raw)), nil
	}
	return raw, nil
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// str reads the string at the current position, a quote, and returns what stands between its quotes; plain reports
// that nothing in it is escaped.
func (s *scanner) str() (raw []byte, plain bool, err error) {
	s.pos++
	start := s.pos
	plain = true
	for {
		// Eight bytes at a time, until one of them is a quote, a backslash or a control character.
		for s.pos+8 <= len(s.data) {
			w := binary.LittleEndian.Uint64(s.data[s.pos:])
			quote, slash := w^(ones*'"'), w^(ones*'\\')
			found := (((quote - ones) &^ quote) | ((slash - ones) &^ slash) | ((w - ones*0x20) &^ w)) & highs
			if found != 0 {
				s.pos += bits.TrailingZeros64(found) / 8
				break
			}
			s.pos += 8
		}
		if s.pos >= len(s.data) {
			return nil, false, errEnds
		}
		switch c := s.data[s.pos]; {
		case c == '"':
			raw = s.data[start:s.pos]
			s.pos++
			return raw, plain, nil
		case c == '\\':
			plain = false
			if err := s.escape(); err != nil {
				return nil, false, err
			}
		case c < 0x20:
			return nil, false, s.bad("in a string")
		default:
			s.pos++
		}
	}
}

// escape steps over one escape sequence.
func (s *scanner) escape() error {
	s.pos++
	if s.pos >= len(s.data) {
		return errEnds
	}
	switch s.data[s.pos] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.pos++
		return nil
	case 'u':
		s.pos++
		for range 4 {
			if s.pos >= len(s.data) || nibble[s.data[s.pos]] > 15 {
				return s.bad("in an escape")
			}
			s.pos++
		}
		return nil
	}
	return s.bad("in an escape")
}

// skip steps over one value of any kind and returns its text.
func (s *scanner) skip(depth int) ([]byte, error) {
	c := s.peek()
	start := s.pos
	var err error
	switch {
	case s.pos >= len(s.data):
		err = errEnds
	case c == '"':
		_, _, err = s.str()
	case c == '{':
		err = s.skipMembers('}', true, depth+1)
	case c == '[':
		err = s.skipMembers(']', false, depth+1)
	case c == 't':
		err = s.word("true")
	case c == 'f':
		err = s.word("false")
	case c == 'n':
		err = s.word("null")
	default:
		err = s.number()
	}
	return s.data[start:s.pos], err
}

func (s *scanner) skipMembers(closing byte, named bool, depth int) error {
	if depth > maxDepth {
		return errors.New("the JSON text is nested too deeply")
	}
	for first := true; ; first = false {
		more, err := s.more(first, closing)
		if err != nil || !more {
			return err
		}
		if named {
			if _, err := s.key(); err != nil {
				return err
			}
		}
		if _, err := s.skip(depth); err != nil {
			return err
		}
	}
}

func (s *scanner) word(w string) error {
	for i := range len(w) {
		if s.pos >= len(s.data) || s.data[s.pos] != w[i] {
			return s.bad("in " + w)
		}
		s.pos++
	}
	return nil
}

func (s *scanner) number() error {
	s.accept('-')
	if !s.accept('0') && s.digits() == 0 {
		return s.bad("where a value belongs")
	}
	if s.accept('.') && s.digits() == 0 {
		return s.bad("in a number")
	}
	if s.accept('e') || s.accept('E') {
		if !s.accept('+') {
			s.accept('-')
		}
		if s.digits() == 0 {
			return s.bad("in a number")
		}
	}
	return nil
}

func (s *scanner) accept(c byte) bool {
	if s.pos < len(s.data) && s.data[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

func (s *scanner) digits() (n int) {
	for s.pos < len(s.data) && s.data[s.pos]-'0' <= 9 {
		s.pos++
		n++
	}
	return n
}

// unquote resolves the escapes of a string that str has accepted, and replaces what is not UTF-8, as encoding/json does.
func unquote(raw []byte) string {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); {
		if c := raw[i]; c != '\\' {
			r, size := utf8.DecodeRune(raw[i:])
			out = utf8.AppendRune(out, r)
			i += size
			continue
		}
		i++
		switch c := raw[i]; c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := hexRune(raw[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				low := rune(utf8.RuneError)
				if len(raw) >= i+7 && raw[i+1] == '\\' && raw[i+2] == 'u' {
					low = hexRune(raw[i+3:])
				}
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
					i += 6
				}
			}
			out = utf8.AppendRune(out, r)
		default:
			out = append(out, c)
		}
		i++
	}
	return string(out)
}

func hexRune(b []byte) rune {
	return rune(nibble[b[0]])<<12 | rune(nibble[b[1]])<<8 | rune(nibble[b[2]])<<4 | rune(nibble[b[3]])
}

// nibble is the value of a hexadecimal digit, 255 for any other byte.
var nibble = func() (t [256]byte) {
	for i := range t {
		t[i] = 255
	}
	for i := range byte(10) {
		t['0'+i] = i
	}
	for i := range byte(6) {
		t['a'+i], t['A'+i] = 10+i, 10+i
	}
	return t
}()
