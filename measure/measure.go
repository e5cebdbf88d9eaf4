// Package measure holds the words that the control plane and the agents share: predicates, targets, data points and
// distributions. It is pure and imports no other room.
package measure

import (
	"time"

	"github.com/google/uuid"
)

// Op is the operator of a predicate.
type Op string

// The operators of CA 1.0's predicate language.
const (
	Eq  Op = "eq"
	Ne  Op = "ne"
	Lt  Op = "lt"
	Le  Op = "le"
	Gt  Op = "gt"
	Ge  Op = "ge"
	And Op = "and"
	Or  Op = "or"
)

// Predicate is a filter on fields, applied at the source. A comparison has Field and Value, and and or have Args.
// The zero Predicate is true for every event.
type Predicate struct {
	Op    Op
	Field string
	Value Value
	Args  []Predicate
}

// IsZero reports whether the predicate filters nothing.
func (p Predicate) IsZero() bool { return p.Op == "" }

// Value is what a field is compared with: a string or an integer of up to 64 bits.
type Value struct {
	str string
	num int64
	isN bool
}

// String makes a string value.
func String(s string) Value { return Value{str: s} }

// Int makes a numeric value.
func Int(n int64) Value { return Value{num: n, isN: true} }

// IsNumber reports whether the value is an integer.
func (v Value) IsNumber() bool { return v.isN }

// Str returns the text of a string value, "" for a number.
func (v Value) Str() string { return v.str }

// Num returns the number of a numeric value, 0 for a string.
func (v Value) Num() int64 { return v.num }

// Point is one value of one source (a zone, or a whole host) during one interval, with its discrete fields.
type Point struct {
	Instrumentation string
	Metric          string
	Owner           uuid.UUID // of the instrumentation; Nil: the operators
	Host            uuid.UUID // the host it was measured on; renderings for tenants never show it
	VM              uuid.UUID // the zone it was measured in; Nil: the whole host
	Start           time.Time // UTC, start of the interval, on whole seconds
	Interval        time.Duration
	Gauge           bool    // a snapshot at Start+Interval rather than an activity during the interval
	Fields          []Field // the discrete decompositions, in their order
	Value           float64
	Distribution    *Distribution // when decomposed by a numeric field
	Other           bool          // what a limit on keys has left out, in one sum
	Partial         bool          // part of the interval was not measured
}

// Field is a field's name and its value in one point.
type Field struct {
	Name  string
	Value string
}

// Distribution counts a numeric field's values by bucket. Buckets are sorted, do not overlap, and are never empty.
type Distribution struct {
	Field   string
	Unit    string // of Low and High, for example ns
	Buckets []Bucket
}

// Bucket counts the values from Low to High, both included.
type Bucket struct {
	Low, High int64
	Count     int64
}

// TargetKind says what a target speaks.
type TargetKind string

// The kinds of targets.
const (
	DataAPI  TargetKind = "dataapi"
	Statsd   TargetKind = "statsd"
	Graphite TargetKind = "graphite"
	OTLP     TargetKind = "otlp"
)

// Transport says how a Data API target is reached.
type Transport string

// The transports of the Data API, as the schema names them.
const (
	HTTP      Transport = "HTTP"
	WebSocket Transport = "WEBSOCKET"
	UDP       Transport = "UDP"
)

// Target is where agents send the data.
type Target struct {
	Kind      TargetKind        `json:"kind"`
	Address   string            `json:"address"`             // Data API and OTLP: a URL; statsd and graphite: host:port
	Prefix    string            `json:"prefix,omitempty"`    // statsd and graphite
	Transport Transport         `json:"transport,omitempty"` // Data API
	Headers   map[string]string `json:"headers,omitempty"`   // write-only: no API, log or error text ever shows the values
}
