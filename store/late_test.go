package store_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/store"
	"iapi/store/storetest"
)

// TestStatesAreSearchedAsOfATime searches by state among records of which many have expired and are not noted as such: what is
// found is what is EXPIRED, or is not, by the clock, page by page in both directions.
func TestStatesAreSearchedAsOfATime(t *testing.T) {
	const (
		made, runs, expired = instrumentation.Created, instrumentation.Enabled, instrumentation.Expired
	)
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		rng := rand.New(rand.NewPCG(3, 4))
		var all []instrumentation.Instrumentation // newest first
		for range 24 {
			r := newRecord(pick(rng, uid(1), uid(1), uid(2)), "")
			r.State = pick(rng, made, runs, expired)
			r.ExpiresAt = pick(rng, time.Time{}, created.Add(time.Minute), created.Add(time.Hour))
			all = append([]instrumentation.Instrumentation{commit(t, s, r)}, all...)
		}
		one := uid(1)
		for _, states := range [][]instrumentation.State{{made}, {expired}, {made, runs}, {runs, expired}, {made, runs, expired}} {
			for _, now := range []time.Time{{}, created.Add(time.Minute), created.Add(time.Hour)} {
				for _, owner := range []*uuid.UUID{nil, &one} {
					f := instrumentation.Filter{States: states, Now: now, Owner: owner}
					var want []instrumentation.ID
					for _, r := range all {
						state := r.State
						if !r.ExpiresAt.IsZero() && !now.Before(r.ExpiresAt) {
							state = expired
						}
						if slices.Contains(states, state) && (owner == nil || r.Owner == *owner) {
							want = append(want, r.ID)
						}
					}
					n, err := s.Count(ctx, f)
					require.NoError(t, err)
					require.Equal(t, len(want), n, "%+v", f)
					for _, r := range all[:6] { // a cursor may be of what does not match, or not any more
						_, _, previous, err := s.Search(ctx, f, instrumentation.Page{First: 1, After: string(r.ID)})
						require.NoError(t, err)
						require.Equal(t, slices.ContainsFunc(want, func(id instrumentation.ID) bool { return id >= r.ID }), previous, "%+v", f)
					}
					for size := 1; size < 6; size += 2 {
						var down, up []instrumentation.ID
						for after, more := "", true; more; after = string(down[len(down)-1]) {
							found, next, previous, err := s.Search(ctx, f, instrumentation.Page{First: size, After: after})
							require.NoError(t, err)
							require.NotEmpty(t, found)
							require.Equal(t, after != "", previous)
							down, more = append(down, idsOf(found)...), next
						}
						require.Equal(t, want, down, "%+v", f)
						for before, more := "", true; more; before = string(up[0]) {
							found, next, previous, err := s.Search(ctx, f, instrumentation.Page{Last: size, Before: before})
							require.NoError(t, err)
							require.Equal(t, before != "", next)
							up, more = append(idsOf(found), up...), previous
						}
						require.Equal(t, want, up, "%+v", f)
					}
				}
			}
		}
	})
}

// TestAPageOfHostsIsFullWhileThereAreMore: hosts that drop an instrumentation while a page is read leave no gap in it.
func TestAPageOfHostsIsFullWhileThereAreMore(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		r := commit(t, s, newRecord(uid(1), "a"))
		var hosts []uuid.UUID
		for i := range 6 {
			hosts = append(hosts, uid(1000+i))
			assign(t, s, hosts[i], item(string(r.ID), 1, uid(i)))
		}
		slices.SortFunc(hosts, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
		for _, host := range hosts[:3] { // their documents have dropped it, and the list of its hosts was read before that
			keys, err := s.Client().Keys(ctx, "iapi:*:on:"+host.String()).Result()
			require.NoError(t, err)
			require.NoError(t, s.Client().Del(ctx, keys...).Err())
		}
		var seen []uuid.UUID
		for p := (instrumentation.Page{First: 2}); ; {
			found, err := s.Hosts(ctx, p, r.ID)
			require.NoError(t, err)
			for _, h := range found[0].Items {
				seen = append(seen, h.Host.UUID)
			}
			if !found[0].Next {
				break
			}
			require.Len(t, found[0].Items, 2)
			p.After = seen[len(seen)-1].String()
		}
		require.Equal(t, hosts[3:], seen)
	})
}
