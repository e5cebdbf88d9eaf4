package targets

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strconv"
	"strings"

	"iapi/measure"
)

// Names for statsd and graphite are
//
//	[prefix.]<module>.<stat>.<source>[.<field values, in their order>…][.<numeric field>.p50|p95|p99|max]
//
// The source is the zone's uuid. For operators it begins with the host's name and a short hash of the host's uuid, so
// that hosts of the same name stay apart: <host>_<hash> for a whole host, <host>_<hash>_<uuid> for a zone. What a limit
// on keys has left out is the one field value "_other".
//
// Two instrumentations of the same metric use the same names: give each a prefix of its own.
type namer struct {
	opts   Options
	prefix string // ends with a dot, or is empty
	tags   bool   // fields and source are tags, not parts of the path
}

func newNamer(prefix string, tags bool, o Options) namer {
	n := namer{opts: o, tags: tags}
	for part := range strings.SplitSeq(prefix, ".") {
		if part != "" {
			n.prefix += pathSegment(part) + "."
		}
	}
	return n
}

type tag struct{ key, value string }

// name is a point's path and, where tags are in use, its tags.
func (n namer) name(p measure.Point) (path string, tags []tag, err error) {
	from, err := n.opts.originOf(p)
	if err != nil {
		return "", nil, err
	}
	var b strings.Builder
	b.WriteString(n.prefix)
	for i, part := range strings.SplitN(p.Metric, ".", 2) {
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(pathSegment(part))
	}
	fields := n.opts.fieldsOf(p)
	if n.tags {
		return b.String(), tagsOf(from, fields, p.Other), nil
	}
	b.WriteByte('.')
	b.WriteString(sourceSegment(from))
	if p.Other {
		b.WriteString("." + otherSegment)
		return b.String(), nil, nil
	}
	for _, f := range fields {
		b.WriteByte('.')
		b.WriteString(pathSegment(f.Value))
	}
	return b.String(), nil, nil
}

func tagsOf(from origin, fields []measure.Field, other bool) []tag {
	var tags []tag
	if from.vm != "" {
		tags = append(tags, tag{"vm", from.vm})
	}
	if from.host != "" {
		tags = append(tags, tag{"host", tagValue(from.host)})
	}
	if from.hostID != "" {
		tags = append(tags, tag{"host_uuid", from.hostID})
	}
	if other {
		return append(tags, tag{"other", "true"})
	}
	for _, f := range fields {
		key := pathSegment(f.Name)
		switch key {
		case "vm", "host", "host_uuid", "other", "name":
			key += "_"
		}
		tags = append(tags, tag{key, tagValue(f.Value)})
	}
	return tags
}

// sourceSegment is one segment, from which zone and host can be told again.
func sourceSegment(from origin) string {
	if from.host == "" {
		return from.vm
	}
	s := clean(from.host, pathByte)
	s = s[:min(len(s), maxSegment/2)] + "_" + shortHash(from.hostID)
	if from.vm != "" {
		s += "_" + from.vm
	}
	return s
}

const (
	maxSegment   = 200 // bytes
	hashLength   = 12
	otherSegment = "_other"
)

var hashedForm = regexp.MustCompile(`_[0-9a-f]{12}$`)

// pathSegment makes a text one part of a path: letters, digits, underscore and hyphen, at most 200 bytes. A text that has to
// be changed for that gets a short hash behind it, and so does one that could be taken for such a text or for the name
// of the rest, so that two texts never become one.
func pathSegment(raw string) string { return distinct(raw, pathByte) }

// tagValue is pathSegment for tags, where dots may stay.
func tagValue(raw string) string { return distinct(raw, tagByte) }

func distinct(raw string, keep func(byte) bool) string {
	text := clean(raw, keep)
	if text == raw && raw != "" && len(raw) <= maxSegment && raw != otherSegment && !hashedForm.MatchString(raw) {
		return raw
	}
	return text[:min(len(text), maxSegment-1-hashLength)] + "_" + shortHash(raw)
}

func shortHash(raw string) string {
	sum := sha256.Sum256([]byte(raw))
	return hex.EncodeToString(sum[:])[:hashLength]
}

func pathByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

func tagByte(c byte) bool { return pathByte(c) || c == '.' }

func clean(raw string, keep func(byte) bool) string {
	b := []byte(raw)
	for i, c := range b {
		if !keep(c) {
			b[i] = '_'
		}
	}
	return string(b)
}

// number is a value without an exponent, for receivers differ in reading those.
func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
