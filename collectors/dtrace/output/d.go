package output

import (
	"io"
	"strconv"
	"strings"
)

// D reads the records that D programs print until the stream ends: S, B with the second, N with a zone and its total, R
// with a zone, a key and its amount, and E, with tabs between. Texts are printed with %S, so that none holds a tab or the
// end of a line.
func D(stream io.Reader, h Handler) error {
	r := &reader{Handler: h}
	return r.read(stream, r.dLine)
}

func (r *reader) dLine(line []byte) {
	parts := strings.Split(string(line), "\t")
	switch {
	case len(parts) == 1:
		r.mark(parts[0])
	case len(parts) == 2 && parts[0] == "B":
		r.mark("B " + parts[1])
	case !r.begun || r.bytes > maxInterval:
	case parts[0] == "N" && len(parts) == 3:
		if zone, amount, ok := r.dEnds(parts); ok {
			r.current.Totals[zone] += amount
		}
	case parts[0] == "R" && len(parts) == r.Keys+3:
		zone, amount, ok := r.dEnds(parts)
		keys := make([]string, r.Keys)
		for i := range keys {
			text, good := unescape(parts[i+2])
			keys[i], ok = text, ok && good
		}
		if ok {
			r.current.Rows = append(r.current.Rows, Row{Zone: zone, Keys: keys, Amount: amount})
		}
	}
}

// dEnds reads what each record begins and ends with.
func (r *reader) dEnds(parts []string) (zone string, amount int64, ok bool) {
	zone, ok = unescape(parts[1])
	amount, err := strconv.ParseInt(parts[len(parts)-1], 10, 64)
	return zone, amount, ok && err == nil
}

var escapesD = map[byte]byte{
	'a': '\a', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t', 'v': '\v', '"': '"', '\'': '\'', '?': '?', '\\': '\\',
}

// unescape undoes what %S does: the escapes of C, with octal digits for what has no letter.
func unescape(s string) (string, bool) {
	if !strings.Contains(s, `\`) {
		return s, true
	}
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		if i++; i == len(s) {
			return "", false
		}
		digits := 0
		for digits < 3 && i+digits < len(s) && s[i+digits] >= '0' && s[i+digits] <= '7' {
			digits++
		}
		if digits > 0 {
			n, err := strconv.ParseUint(s[i:i+digits], 8, 8)
			if err != nil {
				return "", false
			}
			out = append(out, byte(n))
			i += digits - 1
			continue
		}
		plain, ok := escapesD[s[i]]
		if !ok {
			return "", false
		}
		out = append(out, plain)
	}
	return string(out), true
}
