// Package event is one event of the Data API (RFD 17) and its text form, one JSON object on a line, shared by those who
// send and those who receive.
//
// Decode takes what RFD 17 allows (a count may be a string, unknown fields are kept as strings); Append always writes
// the same canonical form, and Decode(Append(e)) equals e.
package event

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"iapi/measure"
)

// Event is a count of what one source did during one interval.
type Event struct {
	Stream          string        // "" when it is given elsewhere, as by a path
	Timestamp       time.Time     // UTC, the start of the interval
	Interval        time.Duration // in whole microseconds; 0: not told
	Count           Number
	Instrumentation string
	Metric          string
	VM              uuid.UUID // Nil: a whole host
	Host            string    // only in operators' data
	Gauge           bool      // a snapshot at the interval's end
	Other           bool      // what a limit on keys has left out, in one sum
	Partial         bool      // part of the interval was not measured
	Gap             bool      // no measurement: Count points of the interval were lost on their way
	Fields          map[string]string
	Dist            map[string][]measure.Bucket // by numeric field; buckets include both bounds
}

// Number is the text of a JSON number, so that integers above 2^53 pass unharmed.
type Number string

// Int makes a number of an integer.
func Int(n int64) Number { return Number(strconv.FormatInt(n, 10)) }

// Float makes a number, or fails for an infinity or what is not a number.
func Float(f float64) (Number, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return "", fmt.Errorf("count: %v is not a JSON number", f)
	}
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		return Number(strconv.FormatFloat(f, 'e', -1, 64)), nil
	}
	return Number(strconv.FormatFloat(f, 'f', -1, 64)), nil
}

// Float64 is the number as a float, rounded where it has to be.
func (n Number) Float64() (float64, error) {
	f, err := strconv.ParseFloat(string(n), 64)
	if err != nil {
		return 0, fmt.Errorf("count: %q is not a number in range", string(n))
	}
	return f, nil
}

// Int64 is the number as an integer; false if it is not one, or out of range.
func (n Number) Int64() (int64, bool) {
	i, err := strconv.ParseInt(string(n), 10, 64)
	return i, err == nil
}

// Big is the number as an integer of any size; false if it is not one.
func (n Number) Big() (*big.Int, bool) {
	return new(big.Int).SetString(string(n), 10)
}

var numberForm = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

// Limits of one event.
const (
	MaxLine    = 64 << 10 // bytes of one event's text
	MaxFields  = 64
	MaxBuckets = 10_000 // of all distributions together
	maxNumber  = 64     // digits and signs
	maxName    = 128    // bytes of a field's name
)

var streamForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

// CheckStream makes sure that a name can be a stream's: 1 to 128 of A–Z, a–z, 0–9, dot, underscore and hyphen. The
// names "." and ".." cannot, for paths do not keep them.
func CheckStream(name string) error {
	if !streamForm.MatchString(name) || name == "." || name == ".." {
		return errors.New("stream: must be 1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-'")
	}
	return nil
}

// The members of the JSON object that are not fields. A field of such a name, or of such a name with underscores behind
// it, is written with one underscore more, which reading takes away again.
var reserved = map[string]bool{
	"stream": true, "timestamp": true, "count": true, "interval": true, "instrumentation": true, "metric": true,
	"vm": true, "host": true, "dist": true, "gauge": true, "other": true, "partial": true, "gap": true,
}

func fieldToKey(name string) string {
	if reserved[strings.TrimRight(name, "_")] {
		return name + "_"
	}
	return name
}

func keyToField(key string) string {
	if strings.HasSuffix(key, "_") && reserved[strings.TrimRight(key, "_")] {
		return key[:len(key)-1]
	}
	return key
}
