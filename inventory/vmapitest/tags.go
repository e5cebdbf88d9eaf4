package vmapitest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// VMAPI keeps a VM's tags in one column of text, -K=V-K=V-, and loses some of them on the way back; so does this.

// tagSet is the tags of a VM: the column, and the JSON object that is read back from it. Equal ones are shared.
type tagSet struct {
	text string // "" for no tags, which is stored as NULL
	json []byte
}

var noTags = &tagSet{json: []byte("{}")}

var (
	encodeTag = strings.NewReplacer("-", "%2D", "=", "%3D")
	decodeTag = strings.NewReplacer("%2D", "-", "%3D", "=")
	tagNumber = regexp.MustCompile(`^%n\{(-?[0-9]+(?:\.[0-9]+)?)\}$`)
	tagBool   = regexp.MustCompile(`^%b\{(true|false)\}$`)
)

// checkTags allows what VMAPI's metadata endpoints do: strings, numbers and booleans.
func checkTags(tags map[string]any) error {
	for key, value := range tags {
		switch value.(type) {
		case string, bool, int, float64, json.Number:
		default:
			return fmt.Errorf("%q must be a string, a number or a boolean", key)
		}
		if key == "" {
			return errors.New("a key is empty")
		}
	}
	return nil
}

// tagColumn is the text that VMAPI stores.
func tagColumn(tags map[string]any) string {
	if len(tags) == 0 {
		return ""
	}
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		b.WriteByte('-')
		b.WriteString(encodeTag.Replace(key))
		b.WriteByte('=')
		switch v := tags[key].(type) {
		case string:
			b.WriteString(encodeTag.Replace(v))
		case bool:
			fmt.Fprintf(&b, "%%b{%t}", v)
		default:
			b.WriteString(encodeTag.Replace("%n{" + numberText(v) + "}"))
		}
	}
	b.WriteByte('-')
	return b.String()
}

// numberText is a number as JavaScript prints it.
func numberText(v any) string {
	if n, ok := v.(json.Number); ok {
		if f, err := n.Float64(); err == nil {
			v = f
		}
	}
	text, err := json.Marshal(v)
	if err != nil { // NaN and infinities, which JSON cannot bring
		return "null"
	}
	return string(text)
}

// columnTags reads a column back, as lossy as VMAPI does: %2D and %3D of the user's own become - and =, and a number in
// exponent form stays the text of its encoding.
func columnTags(column string) map[string]any {
	if column == "" {
		return nil
	}
	tags := make(map[string]any)
	for pair := range strings.SplitSeq(strings.Trim(column, "-"), "-") {
		rawKey, rawValue, ok := strings.Cut(pair, "=")
		if !ok {
			continue
		}
		key, value := decodeTag.Replace(rawKey), decodeTag.Replace(rawValue)
		if m := tagNumber.FindStringSubmatch(value); m != nil {
			tags[key] = json.Number(m[1])
		} else if m := tagBool.FindStringSubmatch(value); m != nil {
			tags[key] = m[1] == "true"
		} else {
			tags[key] = value
		}
	}
	return tags
}

// newTagSet prepares both forms.
func newTagSet(column string) *tagSet {
	if column == "" {
		return noTags
	}
	text, err := json.Marshal(columnTags(column))
	if err != nil { // strings, numbers that a pattern has matched and booleans always marshal
		text = noTags.json
	}
	return &tagSet{text: column, json: text}
}

var looksNumeric = regexp.MustCompile(`^[+-]?(?:[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?|0[xX][0-9a-fA-F]+|Infinity)$`)

// tagFilter is the filter that VMAPI makes of tag.KEY=value: a search in the column that takes the value for a string
// and for a number or boolean of that spelling. Only - is escaped.
func tagFilter(key, value string) string {
	k, v := strings.ReplaceAll(key, "-", "%2D"), strings.ReplaceAll(value, "-", "%2D")
	asString := "(tags=*-" + k + "=" + v + "-*)"
	switch {
	case value == "true" || value == "false":
		return "(|(tags=*-" + k + "=%b{" + value + "}-*)" + asString + ")"
	case looksNumeric.MatchString(value):
		return "(|(tags=*-" + k + "=%n{" + value + "}-*)" + asString + ")"
	}
	return asString
}
