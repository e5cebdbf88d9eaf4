package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"

	"iapi/measure"
)

// Decode reads one event. The error names the member that is wrong, and never repeats what it holds.
func Decode(line []byte) (Event, error) {
	if len(line) > MaxLine {
		return Event{}, fmt.Errorf("an event has more than %d bytes", MaxLine)
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(line, &object); err != nil || object == nil {
		return Event{}, errors.New("not a JSON object")
	}
	var e Event
	for _, member := range members {
		raw, ok := object[member.name]
		if !ok {
			continue
		}
		delete(object, member.name)
		if err := member.read(&e, raw); err != nil {
			return Event{}, fmt.Errorf("%s: %w", member.name, err)
		}
	}
	if e.Timestamp.IsZero() {
		return Event{}, errors.New("timestamp: is missing")
	}
	if e.Count == "" {
		return Event{}, errors.New("count: is missing")
	}
	if len(object) > MaxFields {
		return Event{}, fmt.Errorf("more than %d fields", MaxFields)
	}
	for key, raw := range object {
		if key == "" || len(key) > maxName {
			return Event{}, fmt.Errorf("a field's name must have 1 to %d bytes", maxName)
		}
		if e.Fields == nil {
			e.Fields = make(map[string]string, len(object))
		}
		e.Fields[keyToField(key)] = text(raw)
	}
	return e, nil
}

// UnmarshalJSON is Decode.
func (e *Event) UnmarshalJSON(line []byte) error {
	decoded, err := Decode(line)
	if err == nil {
		*e = decoded
	}
	return err
}

// text keeps an unknown member: a string as it is, anything else as compact JSON.
func text(raw json.RawMessage) string {
	var s string
	if raw[0] == '"' && json.Unmarshal(raw, &s) == nil {
		return s
	}
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return string(raw)
	}
	return b.String()
}

type member struct {
	name string
	read func(*Event, json.RawMessage) error
}

var members = []member{
	{"stream", func(e *Event, raw json.RawMessage) (err error) {
		if e.Stream, err = str(raw); err != nil {
			return err
		}
		if CheckStream(e.Stream) != nil {
			return errors.New("is not a stream's name")
		}
		return nil
	}},
	{"timestamp", func(e *Event, raw json.RawMessage) (err error) { e.Timestamp, err = timestamp(raw); return err }},
	{"count", func(e *Event, raw json.RawMessage) (err error) { e.Count, err = count(raw); return err }},
	{"interval", func(e *Event, raw json.RawMessage) (err error) { e.Interval, err = interval(raw); return err }},
	{"instrumentation", func(e *Event, raw json.RawMessage) (err error) { e.Instrumentation, err = name(raw); return err }},
	{"metric", func(e *Event, raw json.RawMessage) (err error) { e.Metric, err = name(raw); return err }},
	{"vm", func(e *Event, raw json.RawMessage) error {
		s, err := str(raw)
		if err != nil {
			return err
		}
		if len(s) != 36 {
			return errors.New("is not a UUID")
		}
		if e.VM, err = uuid.Parse(s); err != nil {
			return errors.New("is not a UUID")
		}
		return nil
	}},
	{"host", func(e *Event, raw json.RawMessage) (err error) { e.Host, err = name(raw); return err }},
	{"dist", func(e *Event, raw json.RawMessage) (err error) { e.Dist, err = dist(raw); return err }},
	{"gauge", func(e *Event, raw json.RawMessage) (err error) { e.Gauge, err = flag(raw); return err }},
	{"other", func(e *Event, raw json.RawMessage) (err error) { e.Other, err = flag(raw); return err }},
	{"partial", func(e *Event, raw json.RawMessage) (err error) { e.Partial, err = flag(raw); return err }},
	{"gap", func(e *Event, raw json.RawMessage) (err error) { e.Gap, err = flag(raw); return err }},
}

func str(raw json.RawMessage) (string, error) {
	var s *string
	if json.Unmarshal(raw, &s) != nil || s == nil {
		return "", errors.New("is not a string")
	}
	return *s, nil
}

func name(raw json.RawMessage) (string, error) {
	s, err := str(raw)
	if err == nil && len(s) > 2*maxName {
		err = fmt.Errorf("has more than %d bytes", 2*maxName)
	}
	return s, err
}

func flag(raw json.RawMessage) (bool, error) {
	var b *bool
	if json.Unmarshal(raw, &b) != nil || b == nil {
		return false, errors.New("is neither true nor false")
	}
	return *b, nil
}

func timestamp(raw json.RawMessage) (time.Time, error) {
	s, err := str(raw)
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, errors.New("is not a time as RFC 3339 has it, with Z or an offset")
	}
	if t = t.UTC(); t.Year() < 1970 || t.Year() > 9999 {
		return time.Time{}, errors.New("is not between the years 1970 and 9999")
	}
	return t, nil
}

// numeral is the text of a number, which may be written as a string.
func numeral(raw json.RawMessage) (string, error) {
	if raw[0] == '"' {
		return str(raw)
	}
	return string(raw), nil
}

func count(raw json.RawMessage) (Number, error) {
	s, err := numeral(raw)
	if err != nil {
		return "", err
	}
	if len(s) > maxNumber || !numberForm.MatchString(s) {
		return "", errors.New("is not a number")
	}
	n := Number(s)
	if f, err := n.Float64(); err != nil || math.IsInf(f, 0) {
		return "", errors.New("is out of range")
	}
	return n, nil
}

const maxInterval = 366 * 24 * time.Hour

func interval(raw json.RawMessage) (time.Duration, error) {
	n, err := count(raw)
	if err != nil {
		return 0, err
	}
	f, err := n.Float64()
	if err != nil || f < 0 || f > maxInterval.Seconds() {
		return 0, errors.New("must be from 0 seconds to a year")
	}
	return time.Duration(math.Round(f*1e6)) * time.Microsecond, nil
}

// dist reads {"field": [[[low, high], count], …], …}.
func dist(raw json.RawMessage) (map[string][]measure.Bucket, error) {
	var fields map[string][][]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil || fields == nil {
		return nil, errors.New("is not an object of lists of [[low, high], count]")
	}
	if len(fields) > MaxFields {
		return nil, fmt.Errorf("has more than %d fields", MaxFields)
	}
	if len(fields) == 0 {
		return nil, nil
	}
	total := 0
	all := make(map[string][]measure.Bucket, len(fields))
	for field, rows := range fields {
		if total += len(rows); total > MaxBuckets {
			return nil, fmt.Errorf("has more than %d buckets", MaxBuckets)
		}
		buckets := make([]measure.Bucket, 0, len(rows))
		for _, row := range rows {
			var bounds []int64
			var b measure.Bucket
			if len(row) != 2 || json.Unmarshal(row[0], &bounds) != nil || len(bounds) != 2 || json.Unmarshal(row[1], &b.Count) != nil {
				return nil, errors.New("a bucket is not [[low, high], count] of integers")
			}
			b.Low, b.High = bounds[0], bounds[1]
			if b.Low > b.High || b.Count < 0 {
				return nil, errors.New("a bucket's bounds are the wrong way around, or its count is negative")
			}
			buckets = append(buckets, b)
		}
		all[field] = buckets
	}
	return all, nil
}
