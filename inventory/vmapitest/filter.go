package vmapitest

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// VMAPI's data base evaluates a filter twice: in SQL, on indexed columns, with LIKE for substrings; and then, on the rows
// that LIMIT let through, exactly. The first knows wildcards that the second does not, which is why tag searches give
// short pages.

type op int

const (
	opAnd op = iota
	opOr
	opNot
	opEqual
	opAtLeast
	opAtMost
	opPresent
	opSubstring
	opInvalid // parsed, and refused when planned: the strict comparisons
)

// filter is a node of a search filter.
type filter struct {
	op     op
	kids   []*filter
	attr   string
	value  string
	parts  []string // of a substring: what stands between its wildcards, the first and last anchored
	like   string   // the parts as a LIKE pattern
	nocase bool

	isID     bool // value is a uuid in canonical form
	id       uuid.UUID
	isNumber bool
	number   float64
}

var textColumns = map[string]bool{
	"uuid": true, "owner_uuid": true, "image_uuid": true, "billing_id": true, "server_uuid": true, "package_name": true,
	"package_version": true, "tags": true, "brand": true, "state": true, "alias": true,
	"internal_metadata_search_array": true, "_key": true, "_etag": true,
}

var numberColumns = map[string]bool{
	"max_physical_memory": true, "create_timestamp": true, "data_version": true, "_mtime": true, "_id": true, "_txn_snap": true,
}

func indexed(attr string) bool { return textColumns[attr] || numberColumns[attr] || attr == "docker" }

// prepare makes the forms of a leaf's value that matching needs.
func (f *filter) prepare() *filter {
	if id, err := uuid.Parse(f.value); err == nil && id.String() == f.value {
		f.isID, f.id = true, id
	}
	if n, err := strconv.ParseFloat(f.value, 64); err == nil {
		f.isNumber, f.number = true, n
	}
	if f.nocase {
		f.value = strings.ToLower(f.value)
		for i := range f.parts {
			f.parts[i] = strings.ToLower(f.parts[i])
		}
	}
	f.like = strings.Join(f.parts, "%")
	return f
}

// plan is what of a filter the SQL stage evaluates: members of an and that have no index are left to the second stage;
// anywhere else they are an error, whose text the caller completes.
func (f *filter) plan() (*filter, error) {
	p, err := f.sqlPart()
	if err == nil && p == nil {
		err = errNoIndex
	}
	return p, err
}

type planError string

func (e planError) Error() string { return string(e) }

const (
	errNoIndex planError = "no index"
	errInvalid planError = "invalid"
)

func (f *filter) sqlPart() (*filter, error) {
	switch f.op {
	case opInvalid:
		return nil, errInvalid
	case opAnd, opOr, opNot:
		out := &filter{op: f.op}
		for _, kid := range f.kids {
			p, err := kid.sqlPart()
			if err != nil {
				return nil, err
			}
			if p == nil && f.op == opOr {
				return nil, errNoIndex
			}
			if p != nil {
				out.kids = append(out.kids, p)
			}
		}
		if len(out.kids) == 0 {
			return nil, nil
		}
		return out, nil
	}
	if !indexed(f.attr) {
		return nil, nil
	}
	return f, nil
}

// exactInSQL reports whether the first stage cannot let a row through that the second would drop.
func (f *filter) exactInSQL() bool {
	for _, kid := range f.kids {
		if !kid.exactInSQL() {
			return false
		}
	}
	return f.op <= opNot || (indexed(f.attr) && f.op != opSubstring)
}

// uuids are the values of a filter that is a choice of uuids, nil for any other.
func (f *filter) uuids() []uuid.UUID {
	switch {
	case f.op == opEqual && f.attr == "uuid" && f.isID:
		return []uuid.UUID{f.id}
	case f.op == opOr:
		var ids []uuid.UUID
		for _, kid := range f.kids {
			if kid.op != opEqual || kid.attr != "uuid" || !kid.isID {
				return nil
			}
			ids = append(ids, kid.id)
		}
		return ids
	}
	return nil
}

// match evaluates the filter, in the SQL stage or exactly.
func (f *filter) match(r *record, sql bool) bool {
	switch f.op {
	case opAnd:
		for _, kid := range f.kids {
			if !kid.match(r, sql) {
				return false
			}
		}
		return true
	case opOr:
		for _, kid := range f.kids {
			if kid.match(r, sql) {
				return true
			}
		}
		return false
	case opNot:
		return !f.kids[0].match(r, sql)
	}
	switch f.attr {
	case "uuid":
		return f.matchID(r.id, sql)
	case "owner_uuid":
		return f.matchID(r.owner, sql)
	case "server_uuid":
		return f.matchID(r.host, sql)
	}
	if numberColumns[f.attr] {
		return f.matchNumber(r.numberOf(f.attr))
	}
	text, present := r.textOf(f.attr)
	return present && f.matchText(text, sql)
}

func (f *filter) matchID(id uuid.UUID, sql bool) bool {
	if id == uuid.Nil {
		return false
	}
	if !f.isID || f.op == opSubstring || f.nocase {
		return f.matchText(id.String(), sql)
	}
	switch c := compareIDs(id, f.id); f.op {
	case opEqual:
		return c == 0
	case opAtLeast:
		return c >= 0
	case opAtMost:
		return c <= 0
	}
	return true
}

func (f *filter) matchNumber(n int64) bool {
	if n == 0 {
		return false
	}
	switch f.op {
	case opPresent:
		return true
	case opEqual:
		return f.isNumber && float64(n) == f.number
	case opAtLeast:
		return f.isNumber && float64(n) >= f.number
	case opAtMost:
		return f.isNumber && float64(n) <= f.number
	}
	return false
}

func (f *filter) matchText(text string, sql bool) bool {
	if f.nocase {
		text = strings.ToLower(text)
	}
	switch f.op {
	case opPresent:
		return true
	case opEqual:
		return text == f.value
	case opAtLeast:
		return text >= f.value
	case opAtMost:
		return text <= f.value
	case opSubstring:
		if sql {
			return matchLike(f.like, text)
		}
		return matchParts(f.parts, text)
	}
	return false
}

// matchParts matches text that consists of the parts in their order, with anything between them.
func matchParts(parts []string, text string) bool {
	last := len(parts) - 1
	rest, ok := strings.CutPrefix(text, parts[0])
	if !ok {
		return false
	}
	for _, part := range parts[1:last] {
		if _, rest, ok = strings.Cut(rest, part); !ok {
			return false
		}
	}
	return strings.HasSuffix(rest, parts[last])
}

// matchLike is SQL's LIKE: % is anything, _ any one character, \ takes the next one literally.
func matchLike(pattern, text string) bool {
	var p, t int
	star, resume := -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '%':
			star, resume = p, t
			p++
			continue
		case p < len(pattern) && pattern[p] == '_':
			_, size := utf8.DecodeRuneInString(text[t:])
			p++
			t += size
			continue
		case p < len(pattern):
			literal, width := pattern[p], 1
			if literal == '\\' && p+1 < len(pattern) {
				literal, width = pattern[p+1], 2
			}
			if literal == text[t] {
				p += width
				t++
				continue
			}
		}
		if star < 0 {
			return false
		}
		_, size := utf8.DecodeRuneInString(text[resume:])
		resume += size
		p, t = star+1, resume
	}
	return strings.Trim(pattern[p:], "%") == ""
}

// textOf is a text column's value; un-indexed attributes have text too, for the second stage.
func (r *record) textOf(attr string) (string, bool) {
	switch attr {
	case "uuid", "_key":
		return r.id.String(), true
	case "alias":
		return r.alias, r.alias != ""
	case "state":
		return r.state, true
	case "tags":
		return r.tags.text, r.tags.text != ""
	case "brand":
		return r.shape.brand, true
	case "image_uuid":
		return r.shape.image.String(), r.shape.image != uuid.Nil
	case "billing_id":
		return r.shape.billing.String(), r.shape.billing != uuid.Nil
	case "docker":
		return strconv.FormatBool(r.shape.docker > 0), r.shape.docker != 0
	case "_etag":
		return strconv.FormatInt(r.writtenAt, 36), true
	case "zone_state":
		return r.shape.zoneState, true
	case "quota":
		return strconv.Itoa(r.shape.quota), r.shape.quota != 0
	case "cpu_cap":
		return strconv.Itoa(r.shape.cpuCap), r.shape.cpuCap != 0
	case "ram":
		return strconv.Itoa(r.shape.ram), r.shape.ram != 0
	case "last_modified":
		return fmt.Sprint(r.modified), r.modified != 0
	case "destroyed":
		return fmt.Sprint(r.destroyed), r.destroyed != 0
	}
	return "", false
}

func (r *record) numberOf(attr string) int64 {
	switch attr {
	case "max_physical_memory":
		return int64(r.shape.ram)
	case "create_timestamp":
		return r.created
	case "_mtime":
		return r.writtenAt
	}
	return 0
}
