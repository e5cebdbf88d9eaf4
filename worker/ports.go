package worker

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"iapi/catalog"
	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/inventory/vmapi"
	"iapi/store"
)

// Store is what the workers need of the store. *store.Store is one; what each method promises is said there.
type Store interface {
	Now(ctx context.Context) (time.Time, error)

	FactsOf(ctx context.Context, hosts ...uuid.UUID) ([]store.FactsRead, error)
	PutVMs(ctx context.Context, asOf time.Time, vms []inventory.VM) (changed []uuid.UUID, err error)
	ReplaceHostVMs(ctx context.Context, asOf time.Time, host uuid.UUID, vms []inventory.VM) (changed bool, err error)
	PutHosts(ctx context.Context, asOf time.Time, hosts []inventory.Host) (changed []uuid.UUID, err error)
	RemoveHost(ctx context.Context, asOf time.Time, host uuid.UUID) error
	HostIDs(ctx context.Context) ([]uuid.UUID, error)
	Digests(ctx context.Context) (map[uuid.UUID]store.HostDigest, error)
	Differences(ctx context.Context, hosts []store.HostVMs) ([]store.Difference, error)
	TakeVMs(ctx context.Context, asOf time.Time, off map[uuid.UUID][]uuid.UUID) error
	Doubt(ctx context.Context, hosts ...uuid.UUID) error
	FleetHosts(ctx context.Context, hosts ...uuid.UUID) ([]*instrumentation.FleetHost, error)

	MarkHosts(ctx context.Context, urgent bool, hosts ...uuid.UUID) error
	MarkVMs(ctx context.Context, vms ...uuid.UUID) error
	ClaimHosts(ctx context.Context, worker string, n int, lease time.Duration) ([]store.Claim, error)
	ReleaseHost(ctx context.Context, c store.Claim) error
	ClaimVMs(ctx context.Context, worker string, n int, lease time.Duration) ([]store.VMClaim, error)
	DoneVM(ctx context.Context, claims ...store.VMClaim) error
	AwaitWork(ctx context.Context, worker string, kind store.Work, most time.Duration) error
	WakeForTasks(ctx context.Context, pipe redis.Pipeliner)
	Time() time.Time
	Marked(ctx context.Context, hosts ...uuid.UUID) (store.Marked, error)
	Waiting(ctx context.Context, by store.Marked, hosts ...uuid.UUID) ([]uuid.UUID, error)
	Backlog(ctx context.Context) (store.Backlog, error)
	CommitDocuments(ctx context.Context, drafts []store.Draft) []store.Committed

	Commit(ctx context.Context, c instrumentation.Change) (instrumentation.Instrumentation, error)
	Get(ctx context.Context, ids ...instrumentation.ID) ([]*instrumentation.Instrumentation, error)
	Coverage(ctx context.Context, ids ...instrumentation.ID) ([]instrumentation.Coverage, error)
	Log(ctx context.Context, after string) (ids []instrumentation.ID, pos string, gap bool, err error)
	AllLive(ctx context.Context, fn func([]instrumentation.Instrumentation) error) (pos string, err error)
	Stale(ctx context.Context) ([]store.Pending, error)
	Evaluated(ctx context.Context, id instrumentation.ID, revision int, stale time.Time) error
	Unevaluated(ctx context.Context, olderThan time.Duration, n int) ([]store.Pending, error)
	MarkJudge(ctx context.Context, ids ...instrumentation.ID) error
	TellFares(ctx context.Context, ids ...instrumentation.ID) error
	ClaimJudge(ctx context.Context, n int) ([]instrumentation.ID, error)
	SetState(ctx context.Context, id instrumentation.ID, revision int, state instrumentation.State, enabledAt time.Time) error
	Expiring(ctx context.Context, now time.Time, n int) ([]instrumentation.ID, error)
	NextByState(ctx context.Context, state instrumentation.State, after instrumentation.ID, n int) ([]instrumentation.ID, error)
	Placements(ctx context.Context, goes func(id instrumentation.ID, vm uuid.UUID) bool, hosts ...uuid.UUID) (all, gone int, err error)
	PlacedHosts(ctx context.Context, id instrumentation.ID) ([]uuid.UUID, error)
	Unacknowledged(ctx context.Context, id instrumentation.ID) ([]uuid.UUID, error)
	Remove(ctx context.Context, id instrumentation.ID) error

	PutWalk(ctx context.Context, w store.Walk) error
	Walk(ctx context.Context, id string) (store.Walk, error)
	EndSweep(ctx context.Context, e store.Swept) error
	LastSweep(ctx context.Context) (store.Swept, error)
	Guards(ctx context.Context) ([]instrumentation.Guard, error)
	PutGuard(ctx context.Context, g instrumentation.Guard) (confirmed bool, err error)
	DropGuard(ctx context.Context, id string) error
	Lease(ctx context.Context, name, holder string, ttl time.Duration) (held bool, err error)
	ReleaseLease(ctx context.Context, name, holder string) error
}

var _ Store = (*store.Store)(nil)

// VMAPI is the inventory of VMs; *vmapi.Client is one.
type VMAPI interface {
	VM(ctx context.Context, vm uuid.UUID) (inventory.VM, error)
	Each(ctx context.Context, q vmapi.Query, fn func(page []inventory.VM) error) error
	EachFrom(ctx context.Context, q vmapi.Query, marker uuid.UUID, fn func(page []inventory.VM, marker uuid.UUID) error) error
	ChangedSince(ctx context.Context, t time.Time, fn func(page []inventory.VM) error) error
}

// CNAPI is the inventory of hosts; *cnapi.Client is one.
type CNAPI interface {
	Hosts(ctx context.Context) ([]inventory.Host, error)
}

// Feed tells which VMs change; *vmapi.Client is one.
type Feed interface {
	Listen(ctx context.Context, o vmapi.ListenOptions, h vmapi.Handler) error
}

// Catalog knows the definitions of metrics; *catalog.Catalog is one.
type Catalog interface {
	Metric(name string) (*catalog.Metric, bool)
}
