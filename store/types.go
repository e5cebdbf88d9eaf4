package store

import (
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
	"iapi/instrumentation"
	"iapi/inventory"
)

// Facts are what is known of a host, read together.
type Facts struct {
	Host    inventory.Host
	Known   bool           // the inventory has the host
	VMs     []inventory.VM // placed ones, sorted by uuid
	Wanted  int64          // how often the host was marked; a commit holds only if it has not moved
	Version assignment.Version
	AsOf    time.Time // when the newest read of the inventory began that these facts come from

	id       uuid.UUID
	placed   map[instrumentation.ID]place // what the standing document places here
	complete bool                         // read by Facts, so id and placed hold
}

// HostDigest sums up a host's VMs, without regard to their order: the sum of VMDigest over those that are placed.
type HostDigest struct {
	Digest uint64
	VMs    int
}

// Claim is the right to reconcile a host, until its lease lapses.
type Claim struct {
	Host  uuid.UUID
	Token string
}

// VMClaim is the right to look a VM up, until its lease lapses. Mark tells which marks it covers.
type VMClaim struct {
	VM    uuid.UUID
	Token string
	Mark  int64
}

// Backlog is what waits to be done, claimed or not. The ages are zero where nothing waits.
type Backlog struct {
	DirtyHosts, DirtyVMs, Unevaluated, Judge              int
	OldestHost, OldestVM, OldestUnevaluated, OldestJudged time.Duration
}

// Counts is how many sources of an instrumentation a document places on its host.
type Counts struct {
	ID       instrumentation.ID
	Expected int
}

// The kinds of DocChange.
const (
	ChangeDocument   = ""           // the host has a new document
	ChangeStop       = "stop"       // the same, to stop something at once
	ChangeSuperseded = "superseded" // Session has become the host's agent
	ChangeRevoke     = "revoke"     // the credential of the host's agent was revoked
)

// DocChange is an entry of the stream of changed documents.
type DocChange struct {
	Host    uuid.UUID
	Version assignment.Version // zero unless the document has changed
	Kind    string
	Session uuid.UUID // of ChangeSuperseded
}

// Report is how one host fares, whole: an instrumentation that it does not name does not run there.
type Report struct {
	Host             uuid.UUID
	Session          uuid.UUID
	Sequence         int64 // grows within a session; not below zero
	AgentVersion     string
	Capabilities     []string
	Applied          assignment.Version // zero before the first
	Instrumentations []Status
	Targets          []TargetStatus
}

// Status is how one instrumentation fares on its host, as the agent tells it.
type Status struct {
	ID         instrumentation.ID
	Revision   int
	Status     instrumentation.Status
	Message    string // cut at 4 KiB
	LastSample time.Time
	VMs        map[uuid.UUID]instrumentation.SourceFailure // zones that fare otherwise than Status says
}

// TargetStatus is how one target takes a host's data.
type TargetStatus struct {
	Instrumentation instrumentation.ID `json:"instrumentation"`
	Target          int                `json:"target"` // its place in the instrumentation's list
	Connected       bool               `json:"connected"`
	Queued          int64              `json:"queued"`
	Dropped         int64              `json:"dropped"`
	LastSuccess     time.Time          `json:"lastSuccess,omitzero"`
	LastError       string             `json:"lastError,omitempty"`
}

// Session is who the agent of a host is.
type Session struct {
	ID     uuid.UUID
	Number int64 // of its beginning; those of later ones are greater
}

// ReportResult is what became of a report.
type ReportResult struct {
	Accepted   bool                 // false: it came too late to change anything
	Superseded bool                 // another session is the host's agent
	Judge      []instrumentation.ID // whose counts have changed; they are marked to be judged already
	Err        error                // it may not have been stored, and can come again
}

// AgentStatus is what a host's agent has last reported of one instrumentation, and what the document says.
type AgentStatus struct {
	Placed           bool // the standing document has it
	Revision         int  // that the standing document has
	Reported         bool // a report names it
	ReportedRevision int
	Status           instrumentation.Status // as reported
	Message          string
	Since            time.Time // of Status
	LastSample       time.Time
	Applied, Current assignment.Version
	Seen             time.Time // the agent's last contact; zero: never
	Online           bool
	Targets          []TargetStatus // of this instrumentation
}

// Pending is a revision that waits to be evaluated.
type Pending struct {
	ID       instrumentation.ID
	Revision int
}
