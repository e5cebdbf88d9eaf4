package measure

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"unicode/utf8"
)

// ParsePredicate reads a predicate in CA 1.0's syntax: {"eq":["execname","mysqld"]}, {"and":[…]}, {"or":[…]}, and {},
// which is true, anywhere. Each object has one key, compounds have at least one member, numbers are integers. The result
// is simplified. The error is a *PredicateError.
func ParsePredicate(data []byte) (Predicate, error) {
	if len(data) > MaxPredicateBytes {
		return Predicate{}, invalidAt(nil, "it is larger than "+strconv.Itoa(MaxPredicateBytes)+" bytes")
	}
	if err := checkText(data); err != nil {
		return Predicate{}, invalidAt(nil, err.Error())
	}
	r := predicateReader{json.NewDecoder(bytes.NewReader(data))}
	r.UseNumber()
	p, err := r.read(nil, 1)
	if err != nil {
		return Predicate{}, err
	}
	if _, err := r.Token(); !errors.Is(err, io.EOF) {
		return Predicate{}, invalidAt(nil, "something follows it")
	}
	if err := p.Validate(); err != nil {
		return Predicate{}, err
	}
	return p.Simplify(), nil
}

// MarshalJSON writes CA 1.0's syntax, {} for the predicate that is always true.
func (p Predicate) MarshalJSON() ([]byte, error) { return p.appendJSON(nil), nil }

// UnmarshalJSON reads what ParsePredicate reads. Null is refused: a filter that is lost would let everything through.
func (p *Predicate) UnmarshalJSON(data []byte) error {
	parsed, err := ParsePredicate(data)
	if err != nil {
		return err
	}
	*p = parsed
	return nil
}

func (p Predicate) appendJSON(b []byte) []byte {
	if p.Op == "" {
		return append(b, "{}"...)
	}
	b = append(b, '{')
	b = appendString(b, string(p.Op))
	b = append(b, ":["...)
	if p.Op.IsComparison() {
		b = appendString(b, p.Field)
		b = append(b, ',')
		if p.Value.isN {
			b = strconv.AppendInt(b, p.Value.num, 10)
		} else {
			b = appendString(b, p.Value.str)
		}
	}
	for i, arg := range p.Args {
		if i > 0 {
			b = append(b, ',')
		}
		b = arg.appendJSON(b)
	}
	return append(b, "]}"...)
}

// appendString writes a JSON string. Encoding a string cannot fail.
func appendString(b []byte, s string) []byte {
	text, _ := json.Marshal(s)
	return append(b, text...)
}

// predicateReader reads token by token, because only so duplicate keys and the exact form of numbers are seen.
type predicateReader struct{ *json.Decoder }

func invalidAt(path []string, message string) *PredicateError {
	return &PredicateError{Code: InvalidPredicate, Path: slices.Clone(path), Message: message}
}

func (r predicateReader) next(path []string) (json.Token, error) {
	token, err := r.Token()
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, invalidAt(path, "the JSON ends too early")
		}
		return nil, invalidAt(path, "it is not valid JSON: "+err.Error())
	}
	return token, nil
}

func (r predicateReader) read(path []string, depth int) (Predicate, error) {
	if depth > MaxPredicateDepth {
		return Predicate{}, invalidAt(path, "it is nested deeper than "+strconv.Itoa(MaxPredicateDepth)+" levels")
	}
	token, err := r.next(path)
	if err != nil {
		return Predicate{}, err
	}
	if token != json.Delim('{') {
		return Predicate{}, invalidAt(path, `a predicate is an object such as {"eq":["execname","mysqld"]}`)
	}
	if token, err = r.next(path); err != nil {
		return Predicate{}, err
	}
	if token == json.Delim('}') {
		return Predicate{}, nil
	}
	key, _ := token.(string) // the decoder lets nothing but strings be keys
	p := Predicate{Op: Op(key)}
	inner := append(path, key)
	switch {
	case p.Op == And || p.Op == Or:
		p.Args, err = r.readMembers(inner, depth)
	case p.Op.IsComparison():
		p.Field, p.Value, err = r.readComparison(inner)
	default:
		err = invalidAt(path, "there is no operator "+strconv.Quote(shorten(key)))
	}
	if err != nil {
		return Predicate{}, err
	}
	if token, err = r.next(path); err != nil {
		return Predicate{}, err
	}
	if token != json.Delim('}') {
		return Predicate{}, invalidAt(path, "each object has exactly one operator")
	}
	return p, nil
}

func (r predicateReader) readMembers(path []string, depth int) ([]Predicate, error) {
	token, err := r.next(path)
	if err != nil {
		return nil, err
	}
	if token != json.Delim('[') {
		return nil, invalidAt(path, "it needs a list of predicates")
	}
	var members []Predicate
	for r.More() {
		member, err := r.read(append(path, strconv.Itoa(len(members))), depth+1)
		if err != nil {
			return nil, err
		}
		members = append(members, member)
	}
	_, err = r.next(path)
	return members, err
}

func (r predicateReader) readComparison(path []string) (string, Value, error) {
	const form = `it needs a field's name and a constant: ["execname","mysqld"]`
	fail := func(message string) (string, Value, error) { return "", Value{}, invalidAt(path, message) }
	var tokens [4]json.Token // [ name constant ]
	for i := range tokens {
		var err error
		if tokens[i], err = r.next(path); err != nil {
			return "", Value{}, err
		}
		switch delim, isDelim := tokens[i].(json.Delim); {
		case i == 0 && delim != '[', i == 3 && delim != ']', i > 0 && i < 3 && isDelim:
			return fail(form)
		}
	}
	field, ok := tokens[1].(string)
	if !ok {
		return fail(form)
	}
	value, err := valueOf(tokens[2])
	if err != nil {
		return fail(err.Error())
	}
	return field, value, nil
}

// checkText refuses what encoding/json would silently replace: bytes that are not UTF-8, and halves of surrogate pairs.
func checkText(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("it is not valid UTF-8")
	}
	for i := 0; i < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		i++
		switch unit := escapedUnit(data[i-1:]); {
		case unit >= 0xD800 && unit < 0xDC00:
			if low := escapedUnit(data[min(i+5, len(data)):]); low < 0xDC00 || low > 0xDFFF {
				return fmt.Errorf("it has half a surrogate pair, \\u%04x", unit)
			}
			i += 10
		case unit >= 0xDC00 && unit < 0xE000:
			return fmt.Errorf("it has half a surrogate pair, \\u%04x", unit)
		}
	}
	return nil
}

// escapedUnit returns the code unit of \uXXXX at the start of data, -1 if there is none.
func escapedUnit(data []byte) int64 {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return -1
	}
	unit, err := strconv.ParseInt(string(data[2:6]), 16, 32)
	if err != nil {
		return -1
	}
	return unit
}
