package event

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"iapi/measure"
)

// Append writes the event as one JSON object without a line end. Text that is not UTF-8 is written with replacement
// characters. The count must be a number that this package made or read.
func (e Event) Append(b []byte) []byte {
	b = append(b, '{')
	if e.Stream != "" {
		b = append(appendString(append(b, `"stream":`...), e.Stream), ',')
	}
	b = append(b, `"timestamp":"`...)
	b = e.Timestamp.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","count":`...)
	b = append(b, cmp.Or(e.Count, "0")...)
	if e.Interval != 0 {
		b = append(b, `,"interval":`...)
		b = strconv.AppendFloat(b, e.Interval.Seconds(), 'f', -1, 64)
	}
	if e.Instrumentation != "" {
		b = appendString(append(b, `,"instrumentation":`...), e.Instrumentation)
	}
	if e.Metric != "" {
		b = appendString(append(b, `,"metric":`...), e.Metric)
	}
	if e.VM != uuid.Nil {
		b = append(append(append(b, `,"vm":"`...), e.VM.String()...), '"')
	}
	if e.Host != "" {
		b = appendString(append(b, `,"host":`...), e.Host)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Fields)) {
		b = append(b, ',')
		b = append(appendString(b, fieldToKey(name)), ':')
		b = appendString(b, e.Fields[name])
	}
	if len(e.Dist) > 0 {
		b = appendDist(append(b, `,"dist":`...), e.Dist)
	}
	for _, flag := range []struct {
		set  bool
		text string
	}{{e.Gauge, `,"gauge":true`}, {e.Other, `,"other":true`}, {e.Partial, `,"partial":true`}, {e.Gap, `,"gap":true`}} {
		if flag.set {
			b = append(b, flag.text...)
		}
	}
	return append(b, '}')
}

// MarshalJSON is Append.
func (e Event) MarshalJSON() ([]byte, error) { return e.Append(nil), nil }

func appendDist(b []byte, dist map[string][]measure.Bucket) []byte {
	b = append(b, '{')
	for i, name := range slices.Sorted(maps.Keys(dist)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, name), ':', '[')
		for j, bucket := range dist[name] {
			if j > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(append(b, '[', '['), bucket.Low, 10)
			b = strconv.AppendInt(append(b, ','), bucket.High, 10)
			b = strconv.AppendInt(append(b, ']', ','), bucket.Count, 10)
			b = append(b, ']')
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

// appendString writes a JSON string; the common case of plain text without a detour.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s)
			if err != nil { // cannot happen: every string has a JSON form
				return strconv.AppendQuoteToASCII(b, s)
			}
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}
