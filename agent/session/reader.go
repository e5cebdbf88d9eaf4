package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// reader reads JSON in one pass, where a document is large and comes often: encoding/json looks at every byte at least twice
// for each level that is kept raw. It takes members in any order, passes over those that it does not know, and treats null
// as nothing. The first error stays, and ends everything.
type reader struct {
	text []byte
	at   int
	err  error
}

var errJSON = errors.New("it is not the JSON that was expected")

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = fmt.Errorf("at byte %d: %w", r.at, err)
	}
	r.at = len(r.text)
}

// peek gives the next byte that is no space, 0 at the end.
func (r *reader) peek() byte {
	for ; r.at < len(r.text); r.at++ {
		switch c := r.text[r.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// take passes over one byte, if it is the next.
func (r *reader) take(c byte) bool {
	if r.peek() != c {
		return false
	}
	r.at++
	return true
}

// null passes over a null, if it is the next.
func (r *reader) null() bool {
	if r.peek() != 'n' {
		return false
	}
	if !bytes.HasPrefix(r.text[r.at:], []byte("null")) {
		r.fail(errJSON)
		return true
	}
	r.at += len("null")
	return true
}

// object hands over each member's name, whose value member then has to read. It reports whether there was an object.
func (r *reader) object(member func(name []byte)) bool {
	if r.err != nil || r.null() {
		return false
	}
	if !r.take('{') {
		r.fail(errJSON)
		return false
	}
	if r.take('}') {
		return true
	}
	for r.err == nil {
		name := r.unquoted()
		if !r.take(':') {
			r.fail(errJSON)
			return false
		}
		member(name)
		if r.take('}') {
			return r.err == nil
		}
		if !r.take(',') {
			r.fail(errJSON)
		}
	}
	return false
}

// list has element read each element. It reports whether there was a list.
func (r *reader) list(element func()) bool {
	if r.err != nil || r.null() {
		return false
	}
	if !r.take('[') {
		r.fail(errJSON)
		return false
	}
	if r.take(']') {
		return true
	}
	for r.err == nil {
		element()
		if r.take(']') {
			return r.err == nil
		}
		if !r.take(',') {
			r.fail(errJSON)
		}
	}
	return false
}

// quoted passes over a string and gives it as it is written, quotes included.
func (r *reader) quoted() []byte {
	if r.peek() != '"' {
		r.fail(errJSON)
		return nil
	}
	begin := r.at
	for i := r.at + 1; ; {
		n := bytes.IndexByte(r.text[i:], '"')
		if n < 0 {
			r.fail(errJSON)
			return nil
		}
		i += n + 1
		escapes := 0
		for r.text[i-2-escapes] == '\\' { // the quote at the beginning ends it
			escapes++
		}
		if escapes%2 == 0 {
			r.at = i
			return r.text[begin:i]
		}
	}
}

// unquoted passes over a string and gives what it says: a part of the text, but where that is more than printable ASCII
// without escapes, as it hardly ever is.
func (r *reader) unquoted() []byte {
	quoted := r.quoted()
	if r.err != nil {
		return nil
	}
	inner := quoted[1 : len(quoted)-1]
	for _, c := range inner {
		if c < ' ' || c == '\\' || c > '~' {
			var s string
			if err := json.Unmarshal(quoted, &s); err != nil {
				r.fail(err)
			}
			return []byte(s)
		}
	}
	return inner
}

// string reads a string. It is a copy: a part of the text would keep all of it.
func (r *reader) string() string {
	if r.err != nil || r.null() {
		return ""
	}
	return string(r.unquoted())
}

// optional reads a string, nil for null.
func (r *reader) optional() *string {
	if r.err != nil || r.null() {
		return nil
	}
	s := r.string()
	return &s
}

// strings reads a list of strings, nil for null.
func (r *reader) strings() []string {
	all := []string{}
	if !r.list(func() { all = append(all, r.string()) }) {
		return nil
	}
	return all
}

// parsed has parse read what a string says, and reports whether there was one that it took.
func (r *reader) parsed(parse func(text []byte) error) bool {
	if r.err != nil || r.null() {
		return false
	}
	if text := r.unquoted(); r.err == nil {
		if err := parse(text); err != nil {
			r.fail(err)
		}
	}
	return r.err == nil
}

// int reads a whole number.
func (r *reader) int() int64 {
	if r.err != nil || r.null() {
		return 0
	}
	raw := r.raw()
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err == nil && (len(raw) > 1 && raw[0] == '0' || raw[0] == '+' || len(raw) > 2 && raw[0] == '-' && raw[1] == '0') {
		err = errJSON
	}
	if err != nil {
		r.fail(err)
	}
	return n
}

func (r *reader) bool() bool {
	if r.err != nil || r.null() {
		return false
	}
	switch raw := r.raw(); string(raw) {
	case "true":
		return true
	case "false":
	default:
		r.fail(errJSON)
	}
	return false
}

// raw passes over any value and gives its bytes. It looks no deeper than it takes to find the end.
func (r *reader) raw() []byte {
	first := r.peek()
	begin := r.at
	switch first {
	case '"':
		return r.quoted()
	case '{', '[':
		for depth := 0; r.at < len(r.text); {
			switch r.text[r.at] {
			case '"':
				r.quoted()
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			r.at++
			if depth == 0 {
				return r.text[begin:r.at]
			}
		}
	default:
		for r.at < len(r.text) && !bytes.ContainsRune([]byte(",]} \t\r\n:"), rune(r.text[r.at])) {
			r.at++
		}
		if r.at > begin {
			return r.text[begin:r.at]
		}
	}
	r.fail(errJSON)
	return nil
}

// end makes sure that nothing follows, and gives the error.
func (r *reader) end() error {
	if r.err == nil && r.peek() != 0 {
		r.fail(errJSON)
	}
	return r.err
}
