package model

import (
	"time"

	"iapi/catalog"
)

// Metric is a metric as a caller sees it.
type Metric struct{ Of *catalog.Metric }

// UnknownMetric stands for one that the catalogue does not have, or not for the caller.
func UnknownMetric(name string) *Metric {
	return &Metric{&catalog.Metric{Name: name, Label: name, Interval: catalog.Interval}}
}

// IsNode marks it as a Node.
func (Metric) IsNode() {}

// ID is the global id.
func (m Metric) ID() string { return GlobalID(MetricPrefix, []byte(m.Of.Name)) }

// Name is module.stat.
func (m Metric) Name() string { return m.Of.Name }

// Label is the name for people.
func (m Metric) Label() string { return m.Of.Label }

// Interval is what a data point is about.
func (m Metric) Interval() MetricInterval { return MetricInterval(m.Of.Interval) }

// Unit is the unit of the values.
func (m Metric) Unit() string { return m.Of.Unit }

// Collectors are how it is collected.
func (m Metric) Collectors() []CollectorKind {
	out := make([]CollectorKind, len(m.Of.Collectors))
	for i, c := range m.Of.Collectors {
		out[i] = CollectorKind(c)
	}
	return out
}

// Fields are in the definition's order.
func (m Metric) Fields() []MetricField {
	out := make([]MetricField, len(m.Of.Fields))
	for i, f := range m.Of.Fields {
		out[i] = MetricField{f}
	}
	return out
}

// MaxTTLSeconds is nil where unlimited.
func (m Metric) MaxTTLSeconds() *int {
	if m.Of.MaxTTL <= 0 {
		return nil
	}
	n := int(m.Of.MaxTTL / time.Second)
	return &n
}

// MetricField is a field of a metric.
type MetricField struct{ Of catalog.Field }

// Name is what predicates use.
func (f MetricField) Name() string { return f.Of.Name }

// Label is the name for people.
func (f MetricField) Label() string { return f.Of.Label }

// Arity tells names from numbers.
func (f MetricField) Arity() FieldArity { return FieldArity(f.Of.Arity) }

// Unit is "none" for names.
func (f MetricField) Unit() string {
	if f.Of.Unit == "" {
		return "none"
	}
	return f.Of.Unit
}
