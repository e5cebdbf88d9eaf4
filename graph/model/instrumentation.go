// Package model holds what the resolvers answer with: thin views of the domain's types, and what the generator makes of the
// schema's inputs and payloads.
package model

import (
	"encoding/json"
	"net/url"
	"time"

	"github.com/google/uuid"

	"iapi/catalog"
	"iapi/instrumentation"
	"iapi/measure"
)

// Instrumentation is an instrumentation as a caller sees it.
type Instrumentation struct {
	Record instrumentation.Instrumentation
	Metric *Metric // what the catalogue says

	List *List[instrumentation.Instrumentation] // it, and what was read with it
	At   int                                    // its place there
}

// IsNode marks it as a Node.
func (Instrumentation) IsNode() {}

// ID is the id as it is everywhere.
func (i Instrumentation) ID() string { return string(i.Record.ID) }

// Name is nil for none.
func (i Instrumentation) Name() *string { return text(i.Record.Name) }

// Owner is nil for the operators' own.
func (i Instrumentation) Owner() *uuid.UUID { return id(i.Record.Owner) }

// Predicate is nil where every event counts.
func (i Instrumentation) Predicate() *Predicate {
	if i.Record.Predicate.IsZero() {
		return nil
	}
	return &Predicate{i.Record.Predicate}
}

// Decompositions are the fields, in their order. One that the catalogue does not know any more has its name only.
func (i Instrumentation) Decompositions() []MetricField {
	out := make([]MetricField, len(i.Record.Decompositions))
	for n, name := range i.Record.Decompositions {
		f, ok := i.Metric.Of.Field(name)
		if !ok {
			f = catalog.Field{Name: name, Label: name, Arity: catalog.Discrete}
		}
		out[n] = MetricField{f}
	}
	return out
}

// WishDigest is the same for instrumentations that ask for the same.
func (i Instrumentation) WishDigest() string { return instrumentation.WishDigest(i.Record) }

// Scope is where it is measured.
func (i Instrumentation) Scope() Scope { return Scope{i.Record.Scope} }

// Targets never show their headers.
func (i Instrumentation) Targets() []Target {
	out := make([]Target, 0, len(i.Record.Targets))
	for _, t := range i.Record.Targets {
		switch t.Kind {
		case measure.DataAPI:
			out = append(out, DataAPITarget{
				URL: t.Address, Transport: DataAPITransport(t.Transport), StreamURL: streamURL(t, string(i.Record.ID)),
			})
		case measure.Statsd:
			out = append(out, StatsdTarget{Address: t.Address, Prefix: t.Prefix})
		case measure.Graphite:
			out = append(out, GraphiteTarget{Address: t.Address, Prefix: t.Prefix})
		case measure.OTLP:
			out = append(out, OtlpTarget{Endpoint: t.Address})
		}
	}
	return out
}

// streamURL is where the stream can be read, nil where the target does not tell.
func streamURL(t measure.Target, id string) *string {
	u, err := url.Parse(t.Address)
	if err != nil {
		return nil
	}
	switch u.Scheme {
	case "http", "https":
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	default:
		return nil
	}
	return text(u.JoinPath(id).String())
}

// Tags are sorted by key.
func (i Instrumentation) Tags() []instrumentation.Tag { return i.Record.Tags }

// GranularitySeconds is the length of an interval.
func (i Instrumentation) GranularitySeconds() int { return i.Record.Granularity }

// State is how it fares.
func (i Instrumentation) State() InstrumentationState { return InstrumentationState(i.Record.State) }

// Revision grows by one with every update.
func (i Instrumentation) Revision() int { return i.Record.Revision }

// CreatedAt is when it was created.
func (i Instrumentation) CreatedAt() time.Time { return i.Record.CreatedAt }

// UpdatedAt is when a caller last updated it.
func (i Instrumentation) UpdatedAt() time.Time { return i.Record.UpdatedAt }

// ExpiresAt is nil for never.
func (i Instrumentation) ExpiresAt() *time.Time { return moment(i.Record.ExpiresAt) }

// Predicate is a filter in two forms.
type Predicate struct{ Of measure.Predicate }

// JSON is CA 1.0's syntax.
func (p Predicate) JSON() (json.RawMessage, error) { return p.Of.MarshalJSON() }

// Text is for people.
func (p Predicate) Text() string { return p.Of.Text() }

// Scope is a scope in two forms.
type Scope struct{ Of instrumentation.Scope }

// JSON is the ScopeInput.
func (s Scope) JSON() json.RawMessage { return s.Of.JSON() }

// Text is for people.
func (s Scope) Text() string { return s.Of.Text() }

// PlacementProblem is what keeps some sources from running.
type PlacementProblem struct {
	Status    PlacementStatus
	Message   string
	Sources   int
	ExampleVM *uuid.UUID
}

// NewProblems translates the domain's problems.
func NewProblems(found []instrumentation.Problem) []PlacementProblem {
	out := make([]PlacementProblem, len(found))
	for i, p := range found {
		out[i] = PlacementProblem{Status: PlacementStatus(p.Status), Message: p.Message, Sources: p.Sources, ExampleVM: id(p.ExampleVM)}
	}
	return out
}

// InstrumentationConnection is a page; Filter is what it is a page of.
type InstrumentationConnection struct {
	Edges    []InstrumentationEdge
	Nodes    []Instrumentation
	PageInfo PageInfo
	Filter   instrumentation.Filter
}

// VMPlacementConnection is a page of the zones of an instrumentation.
type VMPlacementConnection struct {
	Edges      []VMPlacementEdge
	Nodes      []VM
	PageInfo   PageInfo
	TotalCount int
}

// HostPlacementConnection is a page of the hosts of an instrumentation.
type HostPlacementConnection struct {
	Edges      []HostPlacementEdge
	Nodes      []Host
	PageInfo   PageInfo
	TotalCount int
}

// HostConnection is a page of hosts. Total is their number where it is known already, else Online says which to count.
type HostConnection struct {
	Edges    []HostEdge
	Nodes    []Host
	PageInfo PageInfo
	Online   *bool
	Total    *int
}

// ScopePreview is what a scope comes to now.
type ScopePreview struct {
	Of        *instrumentation.Previewed
	ShowHosts bool
}

// VMCount is 0 where the places are whole hosts.
func (p ScopePreview) VMCount() int { return len(p.Of.VMs) }

// HostCount is nil for those who may not see hosts.
func (p ScopePreview) HostCount() *int {
	if !p.ShowHosts {
		return nil
	}
	n := len(p.Of.Hosts)
	return &n
}

// Problems are what would not run.
func (p ScopePreview) Problems() []PlacementProblem { return NewProblems(p.Of.Problems) }

// InventoryAsOf is when the inventory was read.
func (p ScopePreview) InventoryAsOf() time.Time { return p.Of.AsOf }

// Token binds a create to what was shown.
func (p ScopePreview) Token() string { return p.Of.Token }

func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func id(u uuid.UUID) *uuid.UUID {
	if u == uuid.Nil {
		return nil
	}
	return &u
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// NewAuditEntry translates an entry.
func NewAuditEntry(a instrumentation.Audit) AuditEntry {
	return AuditEntry{
		ID: a.ID, At: a.At, Caller: a.Caller, Kind: a.Kind, Owner: id(a.Owner), Action: a.Action, Subject: a.Subject,
		Detail: text(a.Detail), Result: a.Result,
	}
}
