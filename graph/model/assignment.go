package model

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/google/uuid"

	"iapi/assignment"
)

type version = assignment.Version

// Assignment is one host's document as it is sent.
type Assignment struct {
	Host    uuid.UUID
	Version assignment.Version
	SentAt  time.Time
	Items   []assignment.Item
	// Predicates are those of the items as the stored bytes have them, so that every way of asking gives the same text.
	Predicates []json.RawMessage
}

// IsAssignmentEvent marks it as an event.
func (Assignment) IsAssignmentEvent() {}

// Instrumentations are sorted by id.
func (a Assignment) Instrumentations() []AssignedInstrumentation {
	out := make([]AssignedInstrumentation, len(a.Items))
	for i, item := range a.Items {
		out[i] = AssignedInstrumentation{item, a.Predicates[i]}
	}
	return out
}

// AssignedInstrumentation is one instrumentation as one host must run it.
type AssignedInstrumentation struct {
	Item      assignment.Item
	predicate json.RawMessage
}

// ID is the instrumentation's.
func (a AssignedInstrumentation) ID() string { return a.Item.ID }

// Revision is the instrumentation's.
func (a AssignedInstrumentation) Revision() int { return a.Item.Revision }

// Owner is nil for the operators' own.
func (a AssignedInstrumentation) Owner() *uuid.UUID { return a.Item.Owner }

// Metric is the name.
func (a AssignedInstrumentation) Metric() string { return a.Item.Metric }

// DefinitionDigest names the definition.
func (a AssignedInstrumentation) DefinitionDigest() string { return a.Item.DefinitionDigest }

// Predicate is nil where every event counts.
func (a AssignedInstrumentation) Predicate() json.RawMessage { return a.predicate }

// Decompositions are the names of fields.
func (a AssignedInstrumentation) Decompositions() []string { return a.Item.Decompositions }

// WholeHost excludes VMs.
func (a AssignedInstrumentation) WholeHost() bool { return a.Item.WholeHost }

// VMs are sorted by uuid.
func (a AssignedInstrumentation) VMs() []assignment.VM { return a.Item.VMs }

// Targets are in the order of the instrumentation's.
func (a AssignedInstrumentation) Targets() []AssignedTarget {
	out := make([]AssignedTarget, len(a.Item.Targets))
	for i, t := range a.Item.Targets {
		out[i] = AssignedTarget{t}
	}
	return out
}

// GranularitySeconds is the length of an interval.
func (a AssignedInstrumentation) GranularitySeconds() int { return a.Item.Granularity }

// ExpiresAt is nil for never.
func (a AssignedInstrumentation) ExpiresAt() *time.Time { return a.Item.ExpiresAt }

// AssignedTarget is a target as agents need it.
type AssignedTarget struct{ Target assignment.Target }

// Kind is what it speaks.
func (t AssignedTarget) Kind() string { return t.Target.Kind }

// Address is a URL or host:port.
func (t AssignedTarget) Address() string { return t.Target.Address }

// Prefix is nil where the kind has none.
func (t AssignedTarget) Prefix() *string { return t.Target.Prefix }

// Transport is nil but for the Data API.
func (t AssignedTarget) Transport() *DataAPITransport {
	if t.Target.Transport == nil {
		return nil
	}
	v := DataAPITransport(*t.Target.Transport)
	return &v
}

// Headers are nil for none; sorted by name.
func (t AssignedTarget) Headers() json.RawMessage {
	if t.Target.Headers == nil {
		return nil
	}
	b := bytes.NewBufferString("{")
	for i, name := range slices.Sorted(maps.Keys(t.Target.Headers)) {
		if i > 0 {
			b.WriteByte(',')
		}
		graphql.MarshalString(name).MarshalGQL(b)
		b.WriteByte(':')
		graphql.MarshalString(t.Target.Headers[name]).MarshalGQL(b)
	}
	b.WriteByte('}')
	return b.Bytes()
}
