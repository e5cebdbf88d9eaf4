// Package scalar reads and writes the API's scalars. What comes in is checked here, once; the errors are for callers.
package scalar

import (
	"encoding/json"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/google/uuid"

	"iapi/measure"
)

// Error is why a value is refused. Its text is for the caller.
type Error string

func (e Error) Error() string { return string(e) }

const errInt = Error("an Int must be an integer of up to 32 bits")

const timeLayout = "2006-01-02T15:04:05.000Z"

// MarshalString writes a String.
func MarshalString(s string) graphql.Marshaler { return graphql.MarshalString(s) }

// UnmarshalString reads a String. A number or a truth value is none, also in a variable.
func UnmarshalString(v any) (string, error) {
	s, ok := v.(string)
	if !ok {
		return "", Error("a String must be a string")
	}
	return s, nil
}

// MarshalDateTime writes RFC 3339 in UTC with milliseconds.
func MarshalDateTime(t time.Time) graphql.Marshaler {
	return raw(`"` + FormatDateTime(t) + `"`)
}

// FormatDateTime formats a time as DateTime does.
func FormatDateTime(t time.Time) string { return t.UTC().Format(timeLayout) }

// UnmarshalDateTime reads RFC 3339 with any zone and any fraction.
func UnmarshalDateTime(v any) (time.Time, error) {
	s, ok := v.(string)
	if !ok {
		return time.Time{}, Error("a DateTime must be a string")
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, Error("a DateTime must be RFC 3339, for example 2026-01-31T23:59:59.000Z")
	}
	if t = t.UTC(); t.Year() < 0 || t.Year() > 9999 { // as zones make of the first and the last hours
		return time.Time{}, Error("a DateTime must be of the years 0 to 9999 in UTC")
	}
	return t, nil
}

// MarshalUUID writes the lower-case form.
func MarshalUUID(u uuid.UUID) graphql.Marshaler {
	return raw(`"` + u.String() + `"`)
}

// UnmarshalUUID reads 8-4-4-4-12 hexadecimal digits and nothing else.
func UnmarshalUUID(v any) (uuid.UUID, error) {
	s, ok := v.(string)
	if ok && len(s) == 36 {
		if u, err := uuid.Parse(s); err == nil {
			return u, nil
		}
	}
	return uuid.Nil, Error("a UUID must be 8-4-4-4-12 hexadecimal digits")
}

// MarshalJSON writes the bytes as they are; none are null.
func MarshalJSON(v json.RawMessage) graphql.Marshaler {
	if len(v) == 0 {
		return graphql.Null
	}
	return raw(v)
}

// UnmarshalJSON keeps any value as its bytes.
func UnmarshalJSON(v any) (json.RawMessage, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, Error("a JSON must be a JSON value")
	}
	return b, nil
}

// MarshalFieldValue writes a string or an integer.
func MarshalFieldValue(v measure.Value) graphql.Marshaler {
	if v.IsNumber() {
		return raw(strconv.FormatInt(v.Num(), 10))
	}
	return graphql.MarshalString(v.Str())
}

// UnmarshalFieldValue reads a string or an integer of up to 64 bits.
func UnmarshalFieldValue(v any) (measure.Value, error) {
	switch v := v.(type) {
	case string:
		return measure.String(v), nil
	case int64:
		return measure.Int(v), nil
	case int:
		return measure.Int(int64(v)), nil
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return measure.Int(n), nil
		}
	}
	return measure.Value{}, Error("a FieldValue must be a string or an integer of up to 64 bits")
}

// MarshalInt writes an Int.
func MarshalInt(n int) graphql.Marshaler { return MarshalInt64(int64(n)) }

// UnmarshalInt reads an Int, which has 32 bits.
func UnmarshalInt(v any) (int, error) {
	n, err := UnmarshalInt64(v)
	return int(n), err
}

// MarshalInt64 writes an Int whose Go type is int64. What an Int cannot hold is written as its nearest bound.
func MarshalInt64(n int64) graphql.Marshaler {
	return raw(strconv.FormatInt(min(max(n, math.MinInt32), math.MaxInt32), 10))
}

// UnmarshalInt64 reads an Int, which has 32 bits.
func UnmarshalInt64(v any) (int64, error) {
	var n int64
	switch v := v.(type) {
	case int:
		n = int64(v)
	case int64:
		n = v
	case json.Number:
		var err error
		if n, err = strconv.ParseInt(Integral(v).String(), 10, 64); err != nil {
			return 0, errInt
		}
	default:
		return 0, errInt
	}
	if n < math.MinInt32 || n > math.MaxInt32 {
		return 0, errInt
	}
	return n, nil
}

// Integral writes a number that an Int can hold as an integer: 2.0 and 2e0 are 2. It leaves others as they are.
func Integral(n json.Number) json.Number {
	if _, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
		return n
	}
	f, err := n.Float64()
	if err != nil || f != math.Trunc(f) || f < math.MinInt32 || f > math.MaxInt32 {
		return n
	}
	return json.Number(strconv.FormatInt(int64(f), 10))
}

// raw is JSON that is written as it is.
type raw []byte

// MarshalGQL writes to a buffer, which never fails.
func (r raw) MarshalGQL(w io.Writer) { _, _ = w.Write(r) }
