package output

import (
	"bytes"
	"io"
	"strconv"
	"strings"
)

// Bpftrace reads the lines of "bpftrace -f json" until the stream ends.
func Bpftrace(stream io.Reader, h Handler) error {
	r := &reader{Handler: h}
	return r.read(stream, r.bpftraceLine)
}

var (
	printfHead = []byte(`{"type": "printf", "data": `)
	mapHead    = []byte(`{"type": "map", "data": {`)
)

// bpftraceLine reads one line. A line whose JSON breaks off counts as far as it goes.
func (r *reader) bpftraceLine(line []byte) {
	if rest, is := bytes.CutPrefix(line, printfHead); is {
		if text, _, ok := jsonString(rest); ok {
			r.mark(text)
		}
		return
	}
	rest, is := bytes.CutPrefix(line, mapHead)
	if !is || !r.begun || r.bytes > maxInterval {
		return
	}
	name, rest, ok := jsonString(rest)
	if !ok {
		return
	}
	total, lost := name == "@an" || name == "@bn", name == "@al" || name == "@bl"
	if !total && !lost && name != "@a" && name != "@b" {
		return
	}
	if rest, is = bytes.CutPrefix(rest, []byte(": {")); !is {
		return
	}
	for {
		var key string
		var amount int64
		if key, rest, ok = jsonString(rest); !ok {
			return
		}
		if rest, is = bytes.CutPrefix(rest, []byte(": ")); !is {
			return
		}
		if amount, rest, ok = jsonInteger(rest); !ok {
			return
		}
		switch {
		case total:
			r.current.Totals[key] += amount
		case lost:
			r.current.Lost += amount
		default:
			r.bpftraceRow(key, amount)
		}
		if rest, is = bytes.CutPrefix(rest, []byte(", ")); !is {
			return
		}
	}
}

// bpftraceRow takes a key apart. Its parts are joined by commas, which only the last may hold, and stacks. A stack is
// empty, or lines of which each ends with the line's end, so that a comma after one is not its own.
func (r *reader) bpftraceRow(key string, amount int64) {
	plain := r.Keys + 1
	if r.Stacks > 0 {
		plain -= r.Stacks - 1
		if r.Text {
			plain--
		}
	}
	parts := strings.SplitN(key, ",", plain)
	if len(parts) != plain {
		return
	}
	if r.Stacks > 0 {
		rest := parts[plain-1]
		parts = parts[:plain-1]
		for i := range r.Stacks {
			stack, after, more := rest, "", false
			if i < r.Stacks-1 || r.Text {
				if stack, after, more = cutStack(rest); !more {
					return
				}
			}
			parts = append(parts, stack)
			rest = after
		}
		if r.Text {
			parts = append(parts, rest)
		}
	}
	r.current.Rows = append(r.current.Rows, Row{Zone: parts[0], Keys: parts[1:], Amount: amount})
}

// cutStack splits at the comma after a stack.
func cutStack(text string) (stack, rest string, found bool) {
	if rest, found = strings.CutPrefix(text, ","); found {
		return "", rest, true
	}
	if stack, rest, found = strings.Cut(text, "\n,"); !found {
		return "", "", false
	}
	return stack + "\n", rest, true
}

func jsonInteger(text []byte) (int64, []byte, bool) {
	n := 0
	for n < len(text) && (text[n] >= '0' && text[n] <= '9' || n == 0 && text[n] == '-') {
		n++
	}
	if n == len(text) { // the line broke off within the number, or right after it
		return 0, nil, false
	}
	value, err := strconv.ParseInt(string(text[:n]), 10, 64)
	return value, text[n:], err == nil
}

// jsonString reads a string as bpftrace writes it. A byte of 0x80 and above, of which it prints \uffffffXX, becomes that
// byte again; other escapes are JSON's.
func jsonString(text []byte) (string, []byte, bool) {
	if len(text) == 0 || text[0] != '"' {
		return "", nil, false
	}
	text = text[1:]
	if i := bytes.IndexAny(text, `"\`); i >= 0 && text[i] == '"' {
		return string(text[:i]), text[i+1:], true
	}
	var out []byte
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '"':
			return string(out), text[i+1:], true
		case '\\':
			if i++; i == len(text) {
				return "", nil, false
			}
			if text[i] != 'u' {
				plain, ok := escapes[text[i]]
				if !ok {
					return "", nil, false
				}
				out = append(out, plain)
				continue
			}
			digits := text[i+1:]
			if high, is := bytes.CutPrefix(digits, []byte("ffffff")); is && len(high) >= 2 {
				if n, err := strconv.ParseUint(string(high[:2]), 16, 8); err == nil && n >= 0x80 {
					out = append(out, byte(n))
					i += 8
					continue
				}
			}
			if len(digits) < 4 {
				return "", nil, false
			}
			n, err := strconv.ParseUint(string(digits[:4]), 16, 16)
			if err != nil {
				return "", nil, false
			}
			out = append(out, string(rune(n))...)
			i += 4
		default:
			out = append(out, c)
		}
	}
	return "", nil, false
}

var escapes = map[byte]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}
