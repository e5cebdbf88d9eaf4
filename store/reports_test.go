package store_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/store"
	"iapi/store/storetest"
)

const (
	running = instrumentation.StatusRunning
	pending = instrumentation.StatusPending
	failed  = instrumentation.StatusFailed
)

// report sends the next report of a host's session.
func report(t testing.TB, s *store.Store, host uuid.UUID, sequence int64, applied assignment.Version, st ...store.Status) store.ReportResult {
	t.Helper()
	r, err := s.Report(t.Context(), store.Report{
		Host: host, Session: uid(77), Sequence: sequence, AgentVersion: "1.0", Capabilities: []string{"kstat"},
		Applied: applied, Instrumentations: st,
	})
	require.NoError(t, err)
	return r
}

func status(id instrumentation.ID, revision int, st instrumentation.Status, others ...uuid.UUID) store.Status {
	out := store.Status{ID: id, Revision: revision, Status: st}
	for _, vm := range others {
		if out.VMs == nil {
			out.VMs = map[uuid.UUID]instrumentation.SourceFailure{}
		}
		out.VMs[vm] = instrumentation.SourceFailure{Status: failed, Message: "no such zone"}
	}
	return out
}

func coverage(t testing.TB, s *store.Store, id instrumentation.ID) instrumentation.Coverage {
	t.Helper()
	c, err := s.Coverage(t.Context(), id)
	require.NoError(t, err)
	return c[0]
}

func TestCoverageFollowsDocumentsAndReports(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		host := uid(1000)
		v := assign(t, s, host, item("a", 1, uid(1), uid(2), uid(3)), item("w", 1))
		require.Equal(t, instrumentation.Coverage{Expected: 3, Offline: 3}, coverage(t, s, "a"), "no agent was ever there")
		touch(t, s, host)
		require.Equal(t, instrumentation.Coverage{Expected: 3, Pending: 3}, coverage(t, s, "a"))

		// Running on an older version says nothing of the new places.
		r := report(t, s, host, 1, assignment.Version{}, status("a", 1, running))
		require.True(t, r.Accepted)
		require.Empty(t, r.Judge)
		require.Equal(t, instrumentation.Coverage{Expected: 3, Pending: 3}, coverage(t, s, "a"))

		r = report(t, s, host, 2, v, status("a", 1, running, uid(2)), status("w", 1, running), status("none", 1, running))
		require.ElementsMatch(t, []instrumentation.ID{"a", "w"}, r.Judge)
		require.Equal(t, instrumentation.Coverage{Expected: 3, Running: 2, Failed: 1}, coverage(t, s, "a"))
		require.Equal(t, instrumentation.Coverage{Expected: 1, Running: 1}, coverage(t, s, "w"))
		judge, err := s.ClaimJudge(t.Context(), 10)
		require.NoError(t, err)
		require.ElementsMatch(t, []instrumentation.ID{"a", "w"}, judge)

		// One zone joins and one leaves: only the new one waits.
		v = assign(t, s, host, item("a", 1, uid(1), uid(2), uid(4)), item("w", 1))
		require.Equal(t, instrumentation.Coverage{Expected: 3, Running: 1, Failed: 1, Pending: 1}, coverage(t, s, "a"))
		report(t, s, host, 3, v, status("a", 1, running), status("w", 1, running))
		require.Equal(t, instrumentation.Coverage{Expected: 3, Running: 3}, coverage(t, s, "a"))

		// Another revision waits as a whole.
		v = assign(t, s, host, item("a", 2, uid(1), uid(2), uid(4)), item("w", 1))
		require.Equal(t, instrumentation.Coverage{Expected: 3, Pending: 3}, coverage(t, s, "a"))
		report(t, s, host, 4, v, status("a", 1, running), status("w", 1, running))
		require.Equal(t, instrumentation.Coverage{Expected: 3, Pending: 3}, coverage(t, s, "a"))
		report(t, s, host, 5, v, status("a", 2, instrumentation.StatusDenied))
		require.Equal(t, instrumentation.Coverage{Expected: 3, Failed: 3}, coverage(t, s, "a"))
		require.Equal(t, instrumentation.Coverage{Expected: 1, Pending: 1}, coverage(t, s, "w"), "a report is whole")
	})
}

func TestLateReportsChangeNothing(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		host := uid(1000)
		v := assign(t, s, host, item("w", 1))
		require.True(t, report(t, s, host, 5, v, status("w", 1, running)).Accepted)
		for _, seq := range []int64{4, 5} {
			require.Equal(t, store.ReportResult{Judge: []instrumentation.ID{}}, report(t, s, host, seq, v, status("w", 1, failed)))
		}
		begin(t, s, host, uid(78))
		r := report(t, s, host, 6, v, status("w", 1, failed))
		require.False(t, r.Accepted)
		require.True(t, r.Superseded)
		require.Equal(t, instrumentation.Coverage{Expected: 1, Running: 1}, coverage(t, s, "w"))
		begin(t, s, host, uid(77))
		require.True(t, report(t, s, host, 1, v, status("w", 1, failed)).Accepted, "sequences count within a session")
	})
}

func TestASilentSessionGivesWay(t *testing.T) {
	storetest.Each(t, store.Options{OfflineAfter: 50 * time.Millisecond}, func(t *testing.T, s *store.Store) {
		host := uid(1000)
		begin(t, s, host, uid(78))
		require.Eventually(t, func() bool {
			r, err := s.Report(t.Context(), store.Report{Host: host, Session: uid(77)})
			return err == nil && r.Accepted
		}, time.Minute, 20*time.Millisecond)
	})
}

func TestReportsThatAreNotValidSpoilNoOthers(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		v := assign(t, s, uid(1000), item("w", 1))
		good := store.Report{Host: uid(1000), Session: uid(77), Applied: v, Instrumentations: []store.Status{status("w", 1, running)}}
		bad := good
		bad.Instrumentations = []store.Status{{ID: "w", Status: "NONSENSE"}}
		_, err := s.Report(ctx, bad)
		require.ErrorContains(t, err, "NONSENSE")
		rs, err := s.ReportBatch(ctx, []store.Report{bad, good, {}})
		require.NoError(t, err)
		require.False(t, rs[0].Accepted)
		require.True(t, rs[1].Accepted)
		require.False(t, rs[2].Accepted)
	})
}

func TestRemovalsWaitForTheAgentToAcknowledge(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		agent, none, leaves := uid(1000), uid(1001), uid(1002)
		for _, h := range []uuid.UUID{agent, none, leaves} {
			v := assign(t, s, h, item("w", 1))
			if h != none {
				report(t, s, h, 1, v, status("w", 1, running))
			}
		}
		placed, err := s.PlacedHosts(ctx, "w")
		require.NoError(t, err)
		require.ElementsMatch(t, []uuid.UUID{agent, none, leaves}, placed)
		var v assignment.Version
		for _, h := range []uuid.UUID{none, leaves, agent} {
			v = assign(t, s, h)
		}
		waits, err := s.Unacknowledged(ctx, "w")
		require.NoError(t, err)
		require.ElementsMatch(t, []uuid.UUID{agent, leaves}, waits, "nothing ran where no agent ever was")
		require.Equal(t, instrumentation.Coverage{}, coverage(t, s, "w"))

		report(t, s, agent, 2, assignment.Version{Epoch: v.Epoch, Generation: 1}, status("w", 1, running))
		waits, err = s.Unacknowledged(ctx, "w")
		require.NoError(t, err)
		require.Contains(t, waits, agent, "an older version acknowledges nothing")
		r := report(t, s, agent, 3, v)
		require.Equal(t, []instrumentation.ID{"w"}, r.Judge)
		_, err = s.PutHosts(ctx, at(1), []inventory.Host{{UUID: leaves}})
		require.NoError(t, err)
		require.NoError(t, s.RemoveHost(ctx, at(2), leaves))
		assign(t, s, leaves)
		waits, err = s.PlacedHosts(ctx, "w")
		require.NoError(t, err)
		require.Empty(t, waits)
	})
}

func TestRemoveForgetsEverything(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		r := newRecord(uid(1), "a")
		r.Tags = []instrumentation.Tag{{Key: "k", Value: "v"}}
		r.ExpiresAt = at(9)
		before, err := s.Client().Keys(ctx, "*").Result()
		require.NoError(t, err)
		commit(t, s, r)
		host := uid(1000)
		v := assign(t, s, host, item(string(r.ID), 1, uid(5)))
		report(t, s, host, 1, v, status(r.ID, 1, running))
		require.NoError(t, s.Remove(ctx, r.ID))
		require.Nil(t, get(t, s, r.ID))
		after, err := s.Client().Keys(ctx, "*").Result()
		require.NoError(t, err)
		for _, k := range after {
			if !slices.Contains(before, k) {
				require.NotContains(t, k, "ix:")
				require.NotContains(t, k, string(r.ID))
				require.NotContains(t, k, "quota")
			}
		}
		require.Equal(t, instrumentation.Coverage{}, coverage(t, s, r.ID))
	})
}

func TestWhatADocumentHasNoRoomForCountsAsFailed(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		host := uid(1000)
		require.NoError(t, s.MarkHosts(ctx, false, host))
		b, hash, counts := body(item("w", 1))
		counts = append(counts, store.Counts{ID: "late", Expected: 4})
		_, committed, err := s.CommitDocument(ctx, claim(t, s, 1, time.Minute)[0], facts(t, s, host), b, hash, counts)
		require.NoError(t, err)
		require.True(t, committed)
		touch(t, s, host)
		require.Equal(t, instrumentation.Coverage{Expected: 4, Failed: 4}, coverage(t, s, "late"))
		ps := problemsOf(t, s, "late")[0]
		require.Len(t, ps, 1)
		require.Equal(t, instrumentation.StatusOverBudget, ps[0].Status)
		require.Equal(t, 4, ps[0].Sources)
	})
}

func TestProblemsCountSourcesByKind(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		a, b, off := uid(1000), uid(1001), uid(1002)
		va := assign(t, s, a, item("x", 1, uid(1), uid(2), uid(3)))
		vb := assign(t, s, b, item("x", 1, uid(4), uid(5)))
		assign(t, s, off, item("x", 1, uid(6)))
		report(t, s, a, 1, va, status("x", 1, running, uid(2), uid(9)))
		st := status("x", 1, failed)
		st.Message = strings.Repeat("ü", 4096)
		report(t, s, b, 1, vb, st)
		ps := problemsOf(t, s, "x")[0]
		require.Len(t, ps, 3)
		require.Equal(t, 2, ps[0].Sources)
		require.Equal(t, failed, ps[0].Status)
		require.LessOrEqual(t, len(ps[0].Message), 4096)
		require.Contains(t, []uuid.UUID{uid(4), uid(5)}, ps[0].ExampleVM)
		require.ElementsMatch(t, []instrumentation.Problem{
			{Status: failed, Message: "no such zone", Sources: 1, ExampleVM: uid(2)},
			{Status: instrumentation.StatusOffline, Sources: 1, ExampleVM: uid(6)},
		}, ps[1:])
		c := coverage(t, s, "x")
		require.Equal(t, instrumentation.Coverage{Expected: 6, Running: 2, Failed: 3, Offline: 1}, c)
	})
}

// fleetModel is the naive oracle of coverage: the rules by zone, in maps.
type fleetModel struct {
	placed   map[instrumentation.ID]int                // revision
	zones    map[instrumentation.ID]map[uuid.UUID]bool // true: an applied document has had it
	reported map[instrumentation.ID]store.Status
	version  assignment.Version
	online   bool
	sequence int64
}

func (m *fleetModel) count(id instrumentation.ID) (c instrumentation.Coverage) {
	for vm, known := range m.zones[id] {
		c.Expected++
		st, ok := m.reported[id]
		f, otherwise := st.VMs[vm]
		switch {
		case !m.online:
			c.Offline++
		case !ok || st.Revision != m.placed[id] || !known:
			c.Pending++
		case otherwise && f.Status == failed || !otherwise && st.Status == failed:
			c.Failed++
		case st.Status == pending && !otherwise:
			c.Pending++
		default:
			c.Running++
		}
	}
	return c
}

// TestCoverageAddsUpAfterRandomHistories compares every step with the oracle, and what the pages and problems say with the
// counts.
func TestCoverageAddsUpAfterRandomHistories(t *testing.T) {
	storetest.Each(t, store.Options{OfflineAfter: time.Hour}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		rng := rand.New(rand.NewPCG(5, 6))
		ids := []instrumentation.ID{"a", "b", "c"}
		models := map[uuid.UUID]*fleetModel{}
		for h := range 4 {
			models[uid(1000+h)] = &fleetModel{
				placed: map[instrumentation.ID]int{}, zones: map[instrumentation.ID]map[uuid.UUID]bool{},
				reported: map[instrumentation.ID]store.Status{},
			}
		}
		for range 150 {
			host := uid(1000 + rng.IntN(4))
			m := models[host]
			if rng.IntN(2) == 0 {
				var items []assignment.Item
				old := maps.Clone(m.zones)
				clear(m.zones)
				for _, id := range ids {
					if rng.IntN(4) == 0 {
						delete(m.placed, id)
						delete(m.reported, id)
						continue
					}
					if rng.IntN(3) == 0 || m.placed[id] == 0 {
						m.placed[id]++
					}
					m.zones[id] = map[uuid.UUID]bool{}
					var vms []uuid.UUID
					for range 1 + rng.IntN(4) {
						vm := uid(rng.IntN(6) + 100*int(host[0]))
						if _, twice := m.zones[id][vm]; !twice {
							m.zones[id][vm] = old[id][vm]
							vms = append(vms, vm)
						}
					}
					items = append(items, item(string(id), m.placed[id], vms...))
				}
				m.version = assign(t, s, host, items...)
			} else {
				m.online = true
				m.sequence++
				current := rng.IntN(3) > 0
				applied := assignment.Version{}
				if current {
					applied = m.version
				}
				var sts []store.Status
				clear(m.reported)
				for _, id := range ids {
					if rng.IntN(5) == 0 {
						continue
					}
					st := status(id, m.placed[id]-rng.IntN(2), pick(rng, running, failed, pending))
					st.VMs = map[uuid.UUID]instrumentation.SourceFailure{}
					for vm := range m.zones[id] {
						if rng.IntN(3) == 0 {
							st.VMs[vm] = instrumentation.SourceFailure{Status: pick(rng, running, failed), Message: fmt.Sprint(rng.IntN(2))}
						}
					}
					st.VMs[uid(9999)] = instrumentation.SourceFailure{Status: failed} // not placed
					sts = append(sts, st)
					if m.placed[id] > 0 && m.zones[id] != nil {
						m.reported[id] = st
					}
				}
				if current && m.version.Hash != "" {
					for _, zones := range m.zones {
						for vm := range zones {
							zones[vm] = true
						}
					}
				}
				require.True(t, report(t, s, host, m.sequence, applied, sts...).Accepted)
			}
			got, err := s.Coverage(ctx, ids...)
			require.NoError(t, err)
			for i, id := range ids {
				var want instrumentation.Coverage
				for _, m := range models {
					c := m.count(id)
					want.Expected += c.Expected
					want.Running += c.Running
					want.Pending += c.Pending
					want.Failed += c.Failed
					want.Offline += c.Offline
				}
				require.Equal(t, want, got[i], "%s", id)
				require.Equal(t, got[i].Expected, got[i].Running+got[i].Pending+got[i].Failed+got[i].Offline)
				ps := problemsOf(t, s, id)[0]
				sum := 0
				for _, p := range ps {
					if p.Status != running { // of which there is only something to say
						sum += p.Sources
					}
				}
				require.Equal(t, want.Expected-want.Running, sum, "problems of %s: %+v", id, ps)
			}
		}
	})
}

func TestAgentsGoOfflineByTheStoresClock(t *testing.T) {
	const after = 300 * time.Millisecond
	storetest.Each(t, store.Options{OfflineAfter: after}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		// heardOf has the agent heard of and looks at once. A look that comes so late that the agent may be offline again says
		// nothing.
		heardOf := func(look func()) {
			t.Helper()
			for tries := 0; ; tries++ {
				require.Less(t, tries, 1000, "the machine is too slow to look in time")
				begun := time.Now()
				touch(t, s, uid(1000))
				if look(); time.Since(begun) < after {
					return
				}
			}
		}
		host := uid(1000)
		_, err := s.PutHosts(ctx, at(1), []inventory.Host{newHost(1000), newHost(1001)})
		require.NoError(t, err)
		v := assign(t, s, host, item("w", 1))
		report(t, s, host, 1, v, status("w", 1, running))
		is, up := true, 0
		heardOf(func() { up, err = s.FleetSize(ctx, &is) })
		require.NoError(t, err)
		require.Equal(t, 1, up)
		require.Eventually(t, func() bool {
			return coverage(t, s, "w") == instrumentation.Coverage{Expected: 1, Offline: 1}
		}, time.Minute, 20*time.Millisecond)
		h, err := s.Host(ctx, host)
		require.NoError(t, err)
		require.False(t, h.Agent.Online)
		var now instrumentation.Coverage
		heardOf(func() { now = coverage(t, s, "w") })
		require.Equal(t, instrumentation.Coverage{Expected: 1, Running: 1}, now)
	})
}

func TestFleetIsPagedByUUID(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		var all []inventory.Host
		online := map[uuid.UUID]bool{}
		for i := range 40 {
			all = append(all, newHost(1000+i))
			if i%3 == 0 {
				online[uid(1000+i)] = true
				touch(t, s, uid(1000+i))
			}
		}
		touch(t, s, uid(5)) // not in the inventory
		_, err := s.PutHosts(ctx, at(1), all)
		require.NoError(t, err)
		yes, no := true, false
		for filter, want := range map[*bool]int{nil: 40, &yes: len(online), &no: 40 - len(online)} {
			n, err := s.FleetSize(ctx, filter)
			require.NoError(t, err)
			require.Equal(t, want, n)
			seen, last := 0, ""
			for next := true; next; {
				var found []instrumentation.FleetHost
				found, next, err = s.Fleet(ctx, filter, instrumentation.Page{First: 7, After: last})
				require.NoError(t, err)
				for _, h := range found {
					require.Greater(t, h.Host.UUID.String(), last)
					last = h.Host.UUID.String()
					seen++
					require.Equal(t, online[h.Host.UUID], h.Agent != nil && h.Agent.Online)
				}
			}
			require.Equal(t, want, seen)
		}
		report(t, s, uid(1001), 1, assignment.Version{Epoch: "0000000000000001", Generation: 3, Hash: "h"})
		h, err := s.Host(ctx, uid(1001))
		require.NoError(t, err)
		require.Equal(t, "1.0", h.Agent.Version)
		require.Equal(t, []string{"kstat"}, h.Agent.Capabilities)
		require.EqualValues(t, 3, h.Agent.Generation)
		h, err = s.Host(ctx, uid(5))
		require.NoError(t, err)
		require.Nil(t, h)
	})
}

func TestAgentStatusTellsWhatWasReportedAndWhatIsWanted(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		host := uid(1000)
		v := assign(t, s, host, item("w", 2))
		st := status("w", 1, failed)
		st.Message, st.LastSample = "why", at(1)
		_, err := s.Report(ctx, store.Report{
			Host: host, Session: uid(77), Instrumentations: []store.Status{st},
			Targets: []store.TargetStatus{{Instrumentation: "w", Connected: true, LastSuccess: at(2)}, {Instrumentation: "x"}},
		})
		require.NoError(t, err)
		a, err := s.AgentStatus(ctx, "w", host)
		require.NoError(t, err)
		require.True(t, a.Placed && a.Reported && a.Online)
		require.Equal(t, [2]int{2, 1}, [2]int{a.Revision, a.ReportedRevision})
		require.Equal(t, failed, a.Status)
		require.Equal(t, "why", a.Message)
		require.Equal(t, at(1), a.LastSample)
		require.Equal(t, v, a.Current)
		require.Equal(t, assignment.Version{}, a.Applied)
		require.Equal(t, []store.TargetStatus{{Instrumentation: "w", Connected: true, LastSuccess: at(2)}}, a.Targets)
	})
}
