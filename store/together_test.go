package store_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/instrumentation"
	"iapi/store"
	"iapi/store/storetest"
)

// drafts claims hosts and computes a document for each, with as many zones as its place in the list says, from one to three.
func drafts(t *testing.T, s *store.Store, hosts []uuid.UUID, ids ...string) []store.Draft {
	t.Helper()
	require.NoError(t, s.MarkHosts(t.Context(), false, hosts...))
	claims := make(map[uuid.UUID]store.Claim)
	for len(claims) < len(hosts) {
		got := claim(t, s, len(hosts), time.Minute)
		require.NotEmpty(t, got)
		for _, c := range got {
			claims[c.Host] = c
		}
	}
	out := make([]store.Draft, len(hosts))
	for i, h := range hosts {
		var items []assignment.Item
		for _, id := range ids {
			items = append(items, item(id, 1, []uuid.UUID{uid(10 * i), uid(10*i + 1), uid(10*i + 2)}[:1+i%3]...))
		}
		b, hash, counts := body(items...)
		out[i] = store.Draft{Claim: claims[h], Facts: facts(t, s, h), Items: items, Body: b, Hash: hash, Placed: counts}
	}
	return out
}

func TestHostsThatAreCommittedTogetherFareEachByItself(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		all := hosts(60) // four or so share a run of the script
		batch := drafts(t, s, all, "a")
		lost, moved, broken := all[3], all[20], all[50]
		for i := range batch {
			switch batch[i].Claim.Host {
			case lost:
				batch[i].Claim.Token = "another's"
			case moved:
				require.NoError(t, s.MarkHosts(ctx, false, moved))
			case broken:
				require.NoError(t, s.Client().Set(ctx, store.HostKey(broken, "rm:"), "not a set", 0).Err())
			}
		}
		batch = append(batch, batch[0]) // its claim has ended with the first
		sources, committed := 0, 0
		for i, r := range s.CommitDocuments(ctx, batch) {
			switch {
			case i == len(batch)-1, batch[i].Claim.Host == lost:
				require.ErrorIs(t, r.Err, store.ErrClaimLost)
			case batch[i].Claim.Host == moved:
				require.NoError(t, r.Err)
				require.False(t, r.Done)
			case batch[i].Claim.Host == broken:
				require.ErrorContains(t, r.Err, "WRONGTYPE")
			default:
				require.NoError(t, r.Err)
				require.True(t, r.Done)
				committed++
				sources += 1 + i%3
			}
		}
		require.Equal(t, 57, committed)
		c := coverage(t, s, "a")
		require.Equal(t, sources, c.Expected)
		require.Equal(t, sources, c.Pending+c.Offline)
		for _, h := range []uuid.UUID{lost, moved, broken} {
			_, err := s.Document(ctx, h)
			require.ErrorIs(t, err, store.ErrNoDocument)
		}
		b, err := s.Backlog(ctx)
		require.NoError(t, err)
		require.Equal(t, 3, b.DirtyHosts, "who was not committed is still marked")
	})
}

func TestReportsThatAreStoredTogetherCountEachByItself(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		ids := []string{"a", "b", "c"}
		all := hosts(40)
		batch := drafts(t, s, all, ids...)
		reports := make([]store.Report, 0, 2*len(all))
		sources := 0
		for i, r := range s.CommitDocuments(ctx, batch) {
			require.NoError(t, r.Err)
			require.True(t, r.Done)
			sources += 1 + i%3
			report := store.Report{Host: all[i], Session: uid(i), Sequence: 1, Applied: r.Version}
			for _, id := range ids {
				report.Instrumentations = append(report.Instrumentations, store.Status{ID: instrumentation.ID(id), Revision: 1, Status: running})
			}
			reports = append(reports, report)
		}
		for i := range all { // each host reports twice at once; the later one counts
			later := reports[i]
			later.Sequence = 2
			later.Instrumentations = append([]store.Status(nil), later.Instrumentations...)
			later.Instrumentations[1].Status = instrumentation.StatusFailed
			reports = append(reports, later)
		}
		stranger := reports[0]
		stranger.Session = uid(1_000_000)
		results, err := s.ReportBatch(ctx, append(reports, reports[5], stranger))
		require.NoError(t, err)
		for i, r := range results[:len(reports)] {
			require.True(t, r.Accepted, i)
		}
		require.Len(t, results[0].Judge, 3)
		require.Equal(t, []instrumentation.ID{"b"}, results[len(all)].Judge)
		require.Equal(t, store.ReportResult{Judge: []instrumentation.ID{}}, results[len(reports)], "an older one changes nothing")
		require.True(t, results[len(reports)+1].Superseded)
		sums, err := s.Coverage(ctx, "a", "b", "c")
		require.NoError(t, err)
		for i, sum := range sums {
			want := instrumentation.Coverage{Expected: sources, Running: sources}
			if i == 1 {
				want.Running, want.Failed = 0, sources
			}
			require.Equal(t, want, sum, ids[i])
		}
	})
}

func TestChangesThatAreToldTogetherArriveEachByItself(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		all := hosts(60)
		told := make(chan store.DocChange, 2*len(all))
		ready := make(chan struct{}, 100)
		go func() {
			_ = s.WatchDocuments(t.Context(), func(changes []store.DocChange, gap bool) {
				for _, c := range changes {
					told <- c
				}
				if gap {
					ready <- struct{}{}
				}
			})
		}()
		<-ready
		want := make(map[uuid.UUID]assignment.Version)
		batch := drafts(t, s, all, "a", "b")
		for i, r := range s.CommitDocuments(t.Context(), batch) {
			require.NoError(t, r.Err)
			want[batch[i].Claim.Host] = r.Version
		}
		for range all {
			c := <-told
			require.Equal(t, want[c.Host], c.Version)
			require.Equal(t, store.ChangeDocument, c.Kind)
			delete(want, c.Host)
		}
		require.Empty(t, want)
	})
}
