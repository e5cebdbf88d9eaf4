// Package instrumentation is the domain: what an instrumentation is, which wishes are valid, who may do what, and the
// use cases (create, update, search, preview, …) over small interfaces that it declares itself. It does no I/O.
package instrumentation

import (
	"time"

	"github.com/google/uuid"

	"iapi/measure"
)

// ID names an instrumentation, everywhere: in the API, in assignments, and as the stream's name at the Data API.
// IDs sort by the time of creation.
type ID string

// State is how an instrumentation fares.
type State string

// The states, as the schema names them.
const (
	Created  State = "CREATED"  // accepted; not yet in place on all of its sources
	Enabled  State = "ENABLED"  // in place on every source that can be reached
	Updating State = "UPDATING" // was enabled; a source has joined or changed and is not in place yet
	Degraded State = "DEGRADED" // one or more sources have failed
	Paused   State = "PAUSED"
	Expired  State = "EXPIRED"  // kept seven days, then gone
	Deleting State = "DELETING" // until every host has acknowledged or has left the inventory
)

// Tag is a key and a value that its owner gives an instrumentation to find it by.
type Tag struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Instrumentation is a request to measure, as it is stored.
type Instrumentation struct {
	ID             ID                `json:"id"`
	Revision       int               `json:"revision"` // grows by one with every update
	Name           string            `json:"name,omitempty"`
	Owner          uuid.UUID         `json:"owner"` // Nil: the operators' own
	Metric         string            `json:"metric"`
	Predicate      measure.Predicate `json:"predicate"`
	Decompositions []string          `json:"decompositions,omitempty"`
	Scope          Scope             `json:"scope"`
	Targets        []measure.Target  `json:"targets,omitempty"`
	DefaultTargets bool              `json:"defaultTargets,omitempty"` // none was named, so Targets are what was configured then
	Tags           []Tag             `json:"tags,omitempty"`           // sorted by key
	Granularity    int               `json:"granularity"`              // seconds
	TTL            int               `json:"ttl,omitempty"`            // seconds that it was given to live; 0: no end
	Tracing        bool              `json:"tracing,omitempty"`
	CreatedBy      string            `json:"createdBy"`
	CreatedAt      time.Time         `json:"createdAt"`
	UpdatedAt      time.Time         `json:"updatedAt"`
	ExpiresAt      time.Time         `json:"expiresAt,omitzero"` // zero: never
	PausedAt       time.Time         `json:"pausedAt,omitzero"`
	DeletedAt      time.Time         `json:"deletedAt,omitzero"`

	// What has become of it; written by workers, never by a use case, and not part of what Revision counts.
	State     State     `json:"state"`
	Evaluated int       `json:"evaluated,omitempty"` // the revision that was last evaluated against the inventory
	EnabledAt time.Time `json:"enabledAt,omitzero"`  // when it was first in place everywhere
	StaleFrom time.Time `json:"staleFrom,omitzero"`  // since when the inventory could not be asked about it
}

// Live reports whether hosts should run it at the given time.
func (i Instrumentation) Live(now time.Time) bool {
	return i.DeletedAt.IsZero() && i.PausedAt.IsZero() && (i.ExpiresAt.IsZero() || now.Before(i.ExpiresAt))
}

// Scope is a boolean expression over VMs, VM tags, hosts and host traits: what to instrument. Exactly one member is set.
// Its JSON is the schema's ScopeInput. An empty list is kept, because a scope that is shown to a tenant has one in place of
// hosts.
//
// A scope is evaluated over places. With an owner, or with any VM term, the places are zones, and host terms test the
// zone's host; otherwise the places are whole hosts. Not complements within those places.
type Scope struct {
	All       bool        `json:"all,omitempty"`
	EveryHost bool        `json:"everyHost,omitempty"`
	VMs       []uuid.UUID `json:"vms,omitzero"`
	VMAlias   string      `json:"vmAlias,omitempty"`
	VMTag     *TagMatch   `json:"vmTag,omitempty"`
	Hosts     []uuid.UUID `json:"hosts,omitzero"`
	HostTag   *TagMatch   `json:"hostTag,omitempty"`
	And       []Scope     `json:"and,omitzero"`
	Or        []Scope     `json:"or,omitzero"`
	Not       *Scope      `json:"not,omitempty"`
}

// TagMatch is true for a tag whose key is Key and, where In is given, whose value is one of In.
type TagMatch struct {
	Key string   `json:"key"`
	In  []string `json:"in,omitempty"`
}

// Zones reports whether the places of the scope are zones rather than whole hosts. Every instrumentation that has an
// owner is about zones, whatever its scope says.
func (s Scope) Zones(owner uuid.UUID) bool { return owner != uuid.Nil || s.namesVMs() }

func (s Scope) namesVMs() bool {
	if s.All || len(s.VMs) > 0 || s.VMAlias != "" || s.VMTag != nil {
		return true
	}
	for _, t := range s.And {
		if t.namesVMs() {
			return true
		}
	}
	for _, t := range s.Or {
		if t.namesVMs() {
			return true
		}
	}
	return s.Not != nil && s.Not.namesVMs()
}

// Status is how one source fares.
type Status string

// The statuses, as the schema names them.
const (
	StatusPending     Status = "PENDING"
	StatusRunning     Status = "RUNNING"
	StatusFailed      Status = "FAILED"
	StatusUnsupported Status = "UNSUPPORTED"
	StatusDenied      Status = "DENIED"
	StatusOverBudget  Status = "OVER_BUDGET"
	StatusOffline     Status = "OFFLINE"
)

// Coverage counts sources: one for each zone, one for each whole host.
// Expected = Running + Pending + Failed + Offline always holds.
type Coverage struct {
	Expected, Running, Pending, Failed, Offline int
}

// Problem is what keeps some sources from running, by kind, or what operators should know of some that run. Message is fit for the caller that asked: tenants get a
// fixed sentence for each status, operators the agent's own text.
type Problem struct {
	Status    Status
	Message   string
	Sources   int
	ExampleVM uuid.UUID // Nil: a whole host
}
