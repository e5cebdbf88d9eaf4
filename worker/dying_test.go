package worker

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/store"
)

var errDead = errors.New("the process was killed")

// dying is a store as a process sees it that is killed after some calls: the next one and all that follow fail.
type dying struct {
	Store
	left atomic.Int64
}

func (d *dying) dead() error {
	if d.left.Add(-1) < 0 {
		return errDead
	}
	return nil
}

func one[T any](d *dying, fn func() (T, error)) (v T, err error) {
	if err = d.dead(); err == nil {
		v, err = fn()
	}
	return v, err
}

func (d *dying) do(fn func() error) error {
	_, err := one(d, func() (struct{}, error) { return struct{}{}, fn() })
	return err
}

func (d *dying) FactsOf(ctx context.Context, hosts ...uuid.UUID) ([]store.FactsRead, error) {
	return one(d, func() ([]store.FactsRead, error) { return d.Store.FactsOf(ctx, hosts...) })
}
func (d *dying) Differences(ctx context.Context, hosts []store.HostVMs) ([]store.Difference, error) {
	return one(d, func() ([]store.Difference, error) { return d.Store.Differences(ctx, hosts) })
}
func (d *dying) PutVMs(ctx context.Context, at time.Time, vms []inventory.VM) ([]uuid.UUID, error) {
	return one(d, func() ([]uuid.UUID, error) { return d.Store.PutVMs(ctx, at, vms) })
}
func (d *dying) TakeVMs(ctx context.Context, at time.Time, off map[uuid.UUID][]uuid.UUID) error {
	return d.do(func() error { return d.Store.TakeVMs(ctx, at, off) })
}
func (d *dying) ReplaceHostVMs(ctx context.Context, at time.Time, h uuid.UUID, vms []inventory.VM) (bool, error) {
	return one(d, func() (bool, error) { return d.Store.ReplaceHostVMs(ctx, at, h, vms) })
}
func (d *dying) PutHosts(ctx context.Context, at time.Time, h []inventory.Host) ([]uuid.UUID, error) {
	return one(d, func() ([]uuid.UUID, error) { return d.Store.PutHosts(ctx, at, h) })
}
func (d *dying) RemoveHost(ctx context.Context, at time.Time, h uuid.UUID) error {
	return d.do(func() error { return d.Store.RemoveHost(ctx, at, h) })
}
func (d *dying) HostIDs(ctx context.Context) ([]uuid.UUID, error) {
	return one(d, func() ([]uuid.UUID, error) { return d.Store.HostIDs(ctx) })
}
func (d *dying) Doubt(ctx context.Context, h ...uuid.UUID) error {
	return d.do(func() error { return d.Store.Doubt(ctx, h...) })
}
func (d *dying) Marked(ctx context.Context, h ...uuid.UUID) (store.Marked, error) {
	return one(d, func() (store.Marked, error) { return d.Store.Marked(ctx, h...) })
}
func (d *dying) MarkHosts(ctx context.Context, urgent bool, h ...uuid.UUID) error {
	return d.do(func() error { return d.Store.MarkHosts(ctx, urgent, h...) })
}
func (d *dying) ClaimHosts(ctx context.Context, w string, n int, l time.Duration) ([]store.Claim, error) {
	return one(d, func() ([]store.Claim, error) { return d.Store.ClaimHosts(ctx, w, n, l) })
}
func (d *dying) ReleaseHost(ctx context.Context, c store.Claim) error {
	return d.do(func() error { return d.Store.ReleaseHost(ctx, c) })
}
func (d *dying) ClaimVMs(ctx context.Context, w string, n int, l time.Duration) ([]store.VMClaim, error) {
	return one(d, func() ([]store.VMClaim, error) { return d.Store.ClaimVMs(ctx, w, n, l) })
}
func (d *dying) DoneVM(ctx context.Context, claims ...store.VMClaim) error {
	return d.do(func() error { return d.Store.DoneVM(ctx, claims...) })
}

// CommitDocuments may die between two documents.
func (d *dying) CommitDocuments(ctx context.Context, drafts []store.Draft) []store.Committed {
	out := make([]store.Committed, len(drafts))
	for i := range drafts {
		out[i].Err = d.do(func() error {
			out[i] = d.Store.CommitDocuments(ctx, drafts[i:i+1])[0]
			return out[i].Err
		})
	}
	return out
}

func (d *dying) Get(ctx context.Context, ids ...instrumentation.ID) ([]*instrumentation.Instrumentation, error) {
	return one(d, func() ([]*instrumentation.Instrumentation, error) { return d.Store.Get(ctx, ids...) })
}
func (d *dying) Log(ctx context.Context, after string) (ids []instrumentation.ID, pos string, gap bool, err error) {
	err = d.do(func() error { ids, pos, gap, err = d.Store.Log(ctx, after); return err })
	return ids, pos, gap, err
}
func (d *dying) AllLive(ctx context.Context, fn func([]instrumentation.Instrumentation) error) (string, error) {
	return one(d, func() (string, error) { return d.Store.AllLive(ctx, fn) })
}
func (d *dying) Evaluated(ctx context.Context, id instrumentation.ID, rev int, stale time.Time) error {
	return d.do(func() error { return d.Store.Evaluated(ctx, id, rev, stale) })
}
func (d *dying) ClaimJudge(ctx context.Context, n int) ([]instrumentation.ID, error) {
	return one(d, func() ([]instrumentation.ID, error) { return d.Store.ClaimJudge(ctx, n) })
}
func (d *dying) SetState(ctx context.Context, id instrumentation.ID, rev int, st instrumentation.State, at time.Time) error {
	return d.do(func() error { return d.Store.SetState(ctx, id, rev, st, at) })
}
func (d *dying) PlacedHosts(ctx context.Context, id instrumentation.ID) ([]uuid.UUID, error) {
	return one(d, func() ([]uuid.UUID, error) { return d.Store.PlacedHosts(ctx, id) })
}
func (d *dying) Remove(ctx context.Context, id instrumentation.ID) error {
	return d.do(func() error { return d.Store.Remove(ctx, id) })
}
