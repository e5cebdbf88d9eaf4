package instrumentation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"iapi/inventory"
)

// Errors of a Store, for errors.Is.
var (
	ErrNotFound    = errors.New("no such instrumentation")
	ErrRevision    = errors.New("the revision has moved on")
	ErrIdempotency = errors.New("the idempotency key was used for something else")
	ErrQuota       = errors.New("the owner has as many instrumentations as the limits allow")
	// ErrNotReady: the store cannot be reached or has not been read yet. It never means "empty".
	ErrNotReady = errors.New("the store is not ready")
	// ErrNotDurable: the change was made but no replica confirmed it in time; repeating it by key is safe.
	ErrNotDurable = errors.New("no replica has confirmed the change")
)

// QuotaError is ErrQuota, and tells what the owner has.
type QuotaError struct{ Has Usage }

// Error tells both numbers.
func (e *QuotaError) Error() string {
	return fmt.Sprintf("%v: it has %d, %d of them tracing", ErrQuota, e.Has.Live, e.Has.Tracing)
}

// Is makes errors.Is find ErrQuota.
func (e *QuotaError) Is(target error) bool { return target == ErrQuota }

// Change is one mutation of one record, committed by one script: the record, its search indexes, the idempotency key,
// the quota, the audit entry, the change log and the mark that it waits to be evaluated.
type Change struct {
	Record         Instrumentation // as it will stand, Revision included
	Expect         int             // the revision that must stand now; 0: the record must not exist
	IdempotencyKey string          // "": none. Remembered for 24 hours for (Audit.Caller, Record.Owner)
	InputDigest    string          // of the input that the key stands for
	MaxLive        int             // refuse with a QuotaError if the owner would have more that are not deleted; 0: unlimited
	MaxTracing     int             // the same for tracing ones
	Audit          Audit
}

// Audit says who did what for whom, when, and how it ended. Entries are append-only.
type Audit struct {
	ID      string    `json:"id,omitempty"` // given by the store
	At      time.Time `json:"at"`
	Caller  string    `json:"caller"`
	Kind    string    `json:"kind"`
	Owner   uuid.UUID `json:"owner"`
	Action  string    `json:"action"` // the mutation's name
	Subject string    `json:"subject"`
	Detail  string    `json:"detail,omitempty"`
	Result  string    `json:"result"` // ok, or a code
}

// Filter selects instrumentations. Zero members select everything.
// Records that an owner deleted stay visible as DELETING until every host has acknowledged.
type Filter struct {
	Owner  *uuid.UUID // Nil: the operators' own
	Metric string
	States []State
	Tags   []Tag // all of them
	VM     uuid.UUID
	Host   uuid.UUID
	Text   string // in the name, without regard to case
	// Now is the time for States: what has expired by then is EXPIRED, also where no worker has noted it yet. Zero: the states
	// are those that workers have noted.
	Now time.Time
}

// StateAt returns the state of a record that workers have noted, or EXPIRED where it has expired by now, at a time.
func (i Instrumentation) StateAt(now time.Time) State {
	if i.DeletedAt.IsZero() && i.expired(now) {
		return Expired
	}
	return i.State
}

// Page is a keyset page. Items are newest first. Before and After are exclusive; Last counts from the end.
type Page struct {
	First, Last   int
	After, Before string
}

// Usage is what an owner has now.
type Usage struct{ Live, Tracing int }

// Places is a page of the places of one instrumentation, by uuid.
type Places[T any] struct {
	Items []T
	Next  bool // there are more behind it
	Total int  // in all pages
}

// HostPlacement is one host of an instrumentation, and how its sources there fare.
type HostPlacement struct {
	Host     inventory.Host
	Agent    *AgentInfo  // nil: none has ever reported
	VMs      []uuid.UUID // empty: the whole host
	Status   Status
	Message  string // the agent's text; for operators
	Since    time.Time
	Failures map[uuid.UUID]SourceFailure // zones that fare otherwise than Status says
	Targets  []TargetStatus              // as the agent reports them; Store.HostPlacement alone reads them
}

// TargetStatus is how sending to one target fares on one host.
type TargetStatus struct {
	Target    int // its place in the instrumentation's list
	Connected bool
	Dropped   int64  // points that were lost
	LastError string // the agent's text; for operators
}

// SourceFailure is why one zone is not measured.
type SourceFailure struct {
	Status  Status
	Message string
}

// VMPlacement is one zone of an instrumentation, and how it fares.
type VMPlacement struct {
	VM      inventory.VM
	Status  Status
	Message string
}

// AgentInfo is what is known of a host's agent. Online is computed when read.
type AgentInfo struct {
	Version      string
	Online       bool
	LastSeen     time.Time
	Epoch, Hash  string // of the version that it applied
	Generation   int64
	Capabilities []string
}

// FleetHost is a host with its agent, nil where none has ever reported.
type FleetHost struct {
	Host  inventory.Host
	Agent *AgentInfo
}

// Guard is something that waits for an operator's decision.
type Guard struct {
	ID          string
	Reason      string
	WouldRemove int // VMs or hosts, VMs counted that would lose placements only
	Since       time.Time
}

// Store keeps records and knows how they fare. Errors are those above, wrapped; anything else is a fault.
type Store interface {
	// Commit makes a change and returns the record that stands afterwards. When the idempotency key was used before for
	// the same input, nothing changes and the first record is returned, or ErrNotFound if that is gone.
	Commit(ctx context.Context, c Change) (Instrumentation, error)
	// Get returns one record for each id, nil for those that do not exist.
	Get(ctx context.Context, ids ...ID) ([]*Instrumentation, error)
	// Search returns a page, newest first, and whether there is more behind and before it.
	Search(ctx context.Context, f Filter, p Page) (found []Instrumentation, next, previous bool, err error)
	Count(ctx context.Context, f Filter) (int, error)
	Usage(ctx context.Context, owner uuid.UUID) (Usage, error)
	// Coverage returns one for each id, in one round trip for each shard.
	Coverage(ctx context.Context, ids ...ID) ([]Coverage, error)
	// What follows takes a number of round trips that does not grow with the number of ids.

	// Problems counts the sources that do not run, or of which an agent has something to say, by status and text; at most 20 kinds for each id.
	Problems(ctx context.Context, ids ...ID) ([][]Problem, error)
	// Hosts and VMs return the same page, First and After, of the places of each id. The total of VMs counts sources.
	Hosts(ctx context.Context, p Page, ids ...ID) ([]Places[HostPlacement], error)
	VMs(ctx context.Context, p Page, ids ...ID) ([]Places[VMPlacement], error)

	// HostPlacement returns one host of an instrumentation, nil where it is not placed there.
	HostPlacement(ctx context.Context, id ID, host uuid.UUID) (*HostPlacement, error)

	// Machines and FleetHosts return what is known of each, nil where nothing is.
	Machines(ctx context.Context, vms ...uuid.UUID) ([]*inventory.VM, error)
	FleetHosts(ctx context.Context, hosts ...uuid.UUID) ([]*FleetHost, error)
	Fleet(ctx context.Context, online *bool, p Page) (found []FleetHost, next bool, err error)
	FleetSize(ctx context.Context, online *bool) (int, error)

	Guards(ctx context.Context) ([]Guard, error)
	// ConfirmGuard returns ErrNotFound for a guard that does not wait any more.
	ConfirmGuard(ctx context.Context, id string, a Audit) error
	// Record appends an audit entry for what changes no record.
	Record(ctx context.Context, a Audit) error
	// AuditLog returns entries, newest first, before the given entry id.
	AuditLog(ctx context.Context, before string, n int) ([]Audit, error)
}

// Queue hands work to the workers. Everything it takes survives; everything may run twice.
type Queue interface {
	// Evaluate has the record's scope evaluated against the inventory, or its removal carried out. It is called after
	// each Commit; if it fails the tick of any worker makes up for it, so callers only log the error.
	Evaluate(ctx context.Context, id ID, revision int) error
	// NotifyVM hints that a VM has changed.
	NotifyVM(ctx context.Context, vm uuid.UUID) error
	// Sweep starts a comparison of everything with the inventory.
	Sweep(ctx context.Context) error
	// StopTracing stops tracing on some hosts, or on all for none, at once.
	StopTracing(ctx context.Context, hosts []uuid.UUID, reason string) error
}

// Preview is what a scope comes to now.
type Preview struct {
	VMs      []inventory.VM   // sorted by uuid; empty when the places are whole hosts
	Hosts    []inventory.Host // sorted by uuid; the hosts of the VMs, or the whole hosts
	Problems []Problem
	AsOf     time.Time
}

// Previewer evaluates a scope now against the inventory, by the same code as a create.
type Previewer interface {
	Preview(ctx context.Context, owner uuid.UUID, scope Scope, metric string) (Preview, error)
}

// Cause is why something is placed or not, the deciding one first.
type Cause struct{ Code, Message string }

// Agents issues and revokes the credentials of agents.
type Agents interface {
	CreateJoinToken(ctx context.Context, host uuid.UUID, ttl time.Duration) (string, error)
	RevokeAgent(ctx context.Context, host uuid.UUID) error
}
