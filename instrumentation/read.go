package instrumentation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"iapi/measure"
)

// This file reads the inputs of which exactly one member may be set. GraphQL does not enforce that for values that arrive
// in variables, and once they are in a struct, a member that is null, false or empty cannot be told from an absent one.

// maxNesting bounds how deep JSON is read at all; the policy sets lower limits on what it means.
const maxNesting = 64

// ParseScope reads the JSON of a ScopeInput. Unknown, duplicate and null members, and more or fewer than one member, are
// refused, and nothing may follow. The error is UserErrors, with paths that begin at the scope. Whether the scope keeps
// the policy's limits and is allowed is for the use cases to say.
func ParseScope(data []byte) (Scope, error) {
	tree, err := parseJSON(data)
	if err != nil {
		return Scope{}, UserErrors{{Code: CodeInvalidScope, Message: err.Error()}}
	}
	r := reader{code: CodeInvalidScope}
	s := r.scope(tree, nil, 1)
	return s, r.found.orNil()
}

// ScopeFrom reads a ScopeInput as GraphQL has coerced it: maps, lists, strings and booleans. Paths begin with the given
// one, by default "scope".
func ScopeFrom(in map[string]any, path ...string) (Scope, UserErrors) {
	r := reader{code: CodeInvalidScope, coerce: true}
	s := r.scope(in, orPath(path, "scope"), 1)
	return s, r.found
}

// PredicateFrom reads a PredicateInput as GraphQL has coerced it. Paths begin with the given one, by default "predicate".
func PredicateFrom(in map[string]any, path ...string) (measure.Predicate, UserErrors) {
	r := reader{code: CodeInvalidPredicate, coerce: true}
	p := r.predicate(in, orPath(path, "predicate"), 1)
	return p, r.found
}

// TargetsFrom reads a list of TargetInput as GraphQL has coerced it. Paths begin with the given one, by default "targets".
func TargetsFrom(in []map[string]any, path ...string) ([]measure.Target, UserErrors) {
	r := reader{code: CodeInvalidTarget, coerce: true}
	var out []measure.Target
	for i, t := range in {
		out = append(out, r.target(t, append(slices.Clone(orPath(path, "targets")), strconv.Itoa(i))))
	}
	return out, r.found
}

func orPath(path []string, or string) []string {
	if len(path) == 0 {
		return []string{or}
	}
	return path
}

// reader turns a tree of maps, lists and scalars into what it means, and gathers the mistakes.
type reader struct {
	collector
	code   Code // of mistakes of form
	coerce bool // a single value stands for a list of it, as in GraphQL
}

func (r *reader) wrong(path []string, format string, args ...any) {
	r.add(r.code, path, format, args...)
}

// one returns the only member of an object, of which exactly one may be set.
func (r *reader) one(v any, path []string, depth int, names string) (name string, value any, ok bool) {
	in, isMap := v.(map[string]any)
	if !isMap {
		r.wrong(path, "an object is needed")
		return "", nil, false
	}
	if depth > maxNesting {
		r.wrong(path, "it is nested deeper than %d levels", maxNesting)
		return "", nil, false
	}
	for name, value = range in {
		if !slices.Contains(strings.Split(names, ", "), name) {
			r.wrong(append(path, clip(name)), "there is no such member; it is one of %s", names)
			return "", nil, false
		}
	}
	if len(in) != 1 {
		r.wrong(path, oneOfMessage, names)
		return "", nil, false
	}
	if value == nil {
		r.wrong(append(path, name), "it cannot be null")
		return "", nil, false
	}
	return name, value, true
}

func (r *reader) list(v any, path []string) ([]any, bool) {
	switch t := v.(type) {
	case []any:
		return t, true
	case []map[string]any:
		out := make([]any, len(t))
		for i := range t {
			out[i] = t[i]
		}
		return out, true
	case []string:
		out := make([]any, len(t))
		for i := range t {
			out[i] = t[i]
		}
		return out, true
	}
	if !r.coerce {
		r.wrong(path, "a list is needed")
		return nil, false
	}
	return []any{v}, true
}

func (r *reader) text(v any, path []string) string {
	switch t := v.(type) {
	case string:
		return t
	case *string:
		if t != nil {
			return *t
		}
	}
	r.wrong(path, "a string is needed")
	return ""
}

func (r *reader) truth(v any, path []string) bool {
	if v != true {
		r.wrong(path, "it can only be true")
	}
	return true
}

func (r *reader) uuids(v any, path []string) []uuid.UUID {
	items, ok := r.list(v, path)
	if !ok {
		return nil
	}
	out := make([]uuid.UUID, 0, len(items))
	for i, item := range items {
		id, ok := item.(uuid.UUID)
		if !ok {
			text, isText := item.(string)
			var err error
			if id, err = uuid.Parse(text); !isText || err != nil || len(text) != len(uuid.Nil.String()) {
				r.wrong(append(path, strconv.Itoa(i)), "a uuid is needed")
				continue
			}
		}
		out = append(out, id)
	}
	return out
}

func (r *reader) tagMatch(v any, path []string) *TagMatch {
	in, ok := r.members(v, path, "key, in")
	if !ok {
		return nil
	}
	t := &TagMatch{}
	if key, ok := in["key"]; ok {
		t.Key = r.text(key, append(path, "key"))
	} else {
		r.wrong(append(path, "key"), "it is needed")
	}
	if values, ok := in["in"]; ok && values != nil {
		items, _ := r.list(values, append(path, "in"))
		t.In = make([]string, len(items))
		for i, item := range items {
			t.In[i] = r.text(item, append(path, "in", strconv.Itoa(i)))
		}
	}
	return t
}

// members returns the members of an object that may have only those that are named.
func (r *reader) members(v any, path []string, names string) (map[string]any, bool) {
	in, ok := v.(map[string]any)
	if !ok {
		r.wrong(path, "an object is needed")
		return nil, false
	}
	for name := range in {
		if !slices.Contains(strings.Split(names, ", "), name) {
			r.wrong(append(path, clip(name)), "there is no such member; there are %s", names)
			return nil, false
		}
	}
	return in, true
}

func (r *reader) scope(v any, path []string, depth int) (s Scope) {
	name, value, ok := r.one(v, path, depth, scopeNames)
	if !ok {
		return s
	}
	path = append(slices.Clone(path), name)
	switch name {
	case "all":
		s.All = r.truth(value, path)
	case "everyHost":
		s.EveryHost = r.truth(value, path)
	case "vms":
		s.VMs = r.uuids(value, path)
	case "vmAlias":
		if value == "" {
			r.wrong(path, "it is empty")
		}
		s.VMAlias = r.text(value, path)
	case "vmTag":
		s.VMTag = r.tagMatch(value, path)
	case "hosts":
		s.Hosts = r.uuids(value, path)
	case "hostTag":
		s.HostTag = r.tagMatch(value, path)
	case "and":
		s.And = r.scopes(value, path, depth)
	case "or":
		s.Or = r.scopes(value, path, depth)
	case "not":
		not := r.scope(value, path, depth+1)
		s.Not = &not
	}
	return s
}

func (r *reader) scopes(v any, path []string, depth int) []Scope {
	items, ok := r.list(v, path)
	if !ok {
		return nil
	}
	out := make([]Scope, len(items))
	for i, item := range items {
		out[i] = r.scope(item, append(path, strconv.Itoa(i)), depth+1)
	}
	return out
}

func (r *reader) predicate(v any, path []string, depth int) (p measure.Predicate) {
	name, value, ok := r.one(v, path, depth, "eq, ne, lt, le, gt, ge, and, or")
	if !ok {
		return p
	}
	path = append(slices.Clone(path), name)
	p.Op = measure.Op(name)
	if !p.Op.IsComparison() {
		items, _ := r.list(value, path)
		for i, item := range items {
			p.Args = append(p.Args, r.predicate(item, append(path, strconv.Itoa(i)), depth+1))
		}
		if len(items) == 0 {
			r.wrong(path, "the list is empty")
		}
		return p
	}
	in, ok := r.members(value, path, "field, value")
	if !ok {
		return p
	}
	p.Field = r.text(in["field"], append(path, "field"))
	constant, err := constantOf(in["value"])
	if err != nil {
		r.add(CodeTypeMismatch, append(path, "value"), "%s", err)
	}
	p.Value = constant
	return p
}

// constantOf makes a FieldValue of what GraphQL or JSON has made of it.
func constantOf(v any) (measure.Value, error) {
	switch t := v.(type) {
	case measure.Value:
		return t, nil
	case string:
		return measure.String(t), nil
	case int:
		return measure.Int(int64(t)), nil
	case int32:
		return measure.Int(int64(t)), nil
	case int64:
		return measure.Int(t), nil
	case json.Number:
		if n, err := strconv.ParseInt(t.String(), 10, 64); err == nil && t != "-0" {
			return measure.Int(n), nil
		}
	case float64:
		// 2⁵³ and more may have been rounded on the way.
		if t == math.Trunc(t) && math.Abs(t) < 1<<53 {
			return measure.Int(int64(t)), nil
		}
	}
	return measure.Value{}, errors.New("a string is needed, or an integer of up to 64 bits")
}

func (r *reader) target(v any, path []string) (t measure.Target) {
	name, value, ok := r.one(v, path, 1, "dataApi, statsd, graphite, otlp")
	if !ok {
		return t
	}
	path = append(slices.Clone(path), name)
	names := map[string]string{
		"dataApi": "url, transport, headers", "statsd": "address, prefix", "graphite": "address, prefix", "otlp": "endpoint, headers",
	}[name]
	in, ok := r.members(value, path, names)
	if !ok {
		return t
	}
	get := func(member string) string {
		if in[member] == nil {
			return ""
		}
		return r.text(in[member], append(path, member))
	}
	switch name {
	case "dataApi":
		t = measure.Target{Kind: measure.DataAPI, Address: get("url"), Transport: measure.Transport(get("transport"))}
		if t.Transport == "" {
			t.Transport = measure.HTTP
		}
	case "statsd":
		t = measure.Target{Kind: measure.Statsd, Address: get("address"), Prefix: get("prefix")}
	case "graphite":
		t = measure.Target{Kind: measure.Graphite, Address: get("address"), Prefix: get("prefix")}
	case "otlp":
		t = measure.Target{Kind: measure.OTLP, Address: get("endpoint")}
	}
	t.Headers = r.headers(in["headers"], append(path, "headers"))
	return t
}

// headers never puts a value into a message.
func (r *reader) headers(v any, path []string) map[string]string {
	if v == nil {
		return nil
	}
	items, _ := r.list(v, path)
	out := make(map[string]string, len(items))
	for i, item := range items {
		at := append(slices.Clone(path), strconv.Itoa(i))
		in, ok := r.members(item, at, "name, value")
		if !ok {
			continue
		}
		name := r.text(in["name"], append(at, "name"))
		if _, twice := out[name]; twice {
			r.wrong(append(at, "name"), "the header is given twice")
		}
		out[name] = r.text(in["value"], append(at, "value"))
	}
	return out
}

// parseJSON reads one JSON value into maps, lists, strings, json.Numbers, booleans and nil. It refuses duplicate keys,
// what is not UTF-8, and what is nested too deep.
func parseJSON(data []byte) (any, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("it is not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := parseValue(dec, 1)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows it")
	}
	return v, nil
}

func parseValue(dec *json.Decoder, depth int) (any, error) {
	token, err := dec.Token()
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return nil, errors.New("the JSON ends too early")
	case err != nil:
		return nil, errors.New("it is not valid JSON")
	case depth > 2*maxNesting+4:
		return nil, fmt.Errorf("it is nested deeper than %d levels", maxNesting)
	}
	switch token {
	case json.Delim('{'):
		out := map[string]any{}
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return nil, errors.New("it is not valid JSON")
			}
			name, _ := key.(string) // the decoder lets nothing but strings be keys
			if _, twice := out[name]; twice {
				return nil, fmt.Errorf("member %q occurs twice", clip(name))
			}
			if out[name], err = parseValue(dec, depth+1); err != nil {
				return nil, err
			}
		}
		return out, end(dec)
	case json.Delim('['):
		out := []any{}
		for dec.More() {
			v, err := parseValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		return out, end(dec)
	}
	return token, nil
}

func end(dec *json.Decoder) error {
	if _, err := dec.Token(); err != nil {
		return errors.New("the JSON ends too early")
	}
	return nil
}
