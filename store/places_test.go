package store_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/store"
	"iapi/store/storetest"
)

func problemsOf(t testing.TB, s *store.Store, ids ...instrumentation.ID) [][]instrumentation.Problem {
	t.Helper()
	found, err := s.Problems(t.Context(), ids...)
	require.NoError(t, err)
	return found
}

func TestProblemsOfManyAreEachTheirOwn(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		v := assign(t, s, uid(1000), item("x", 1, uid(1), uid(2)), item("y", 1, uid(1)), item("z", 1, uid(2)))
		report(t, s, uid(1000), 1, v, status("x", 1, running, uid(2)), status("y", 1, running), status("z", 1, failed))
		assign(t, s, uid(1001), item("y", 1, uid(3)))
		found := problemsOf(t, s, "x", "none", "y", "z")
		require.Equal(t, []instrumentation.Problem{{Status: failed, Message: "no such zone", Sources: 1, ExampleVM: uid(2)}}, found[0])
		require.Empty(t, found[1])
		require.Equal(t, []instrumentation.Problem{{Status: instrumentation.StatusOffline, Sources: 1, ExampleVM: uid(3)}}, found[2])
		require.Equal(t, []instrumentation.Problem{{Status: failed, Sources: 1, ExampleVM: uid(2)}}, found[3])
	})
}

func TestWhatIsSaidOfSourcesThatRunIsTold(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		v := assign(t, s, uid(1000), item("x", 1, uid(1), uid(2)), item("y", 1, uid(1)))
		quiet, spoken := status("x", 1, running), status("x", 1, running)
		spoken.Message = "the spool cannot be opened"
		told := []instrumentation.Problem{{Status: running, Message: spoken.Message, Sources: 2, ExampleVM: uid(2)}} // the first by uuid
		for i, c := range []struct {
			says store.Status
			want []instrumentation.Problem
		}{{quiet, nil}, {spoken, told}, {spoken, told}, {quiet, nil}, {spoken, told}} {
			report(t, s, uid(1000), int64(1+i), v, c.says, status("y", 1, running))
			found := problemsOf(t, s, "x", "y")
			require.Len(t, found[0], len(c.want), "report %d", i)
			if c.want != nil {
				require.Equal(t, c.want, found[0])
			}
			require.Empty(t, found[1])
			coverage, err := s.Coverage(t.Context(), "x")
			require.NoError(t, err)
			require.Equal(t, instrumentation.Coverage{Expected: 2, Running: 2}, coverage[0])
		}
		assign(t, s, uid(1000), item("x", 1, uid(2)), item("y", 1, uid(1))) // a commit counts anew
		require.Equal(t, []instrumentation.Problem{{Status: running, Message: spoken.Message, Sources: 1, ExampleVM: uid(2)}}, problemsOf(t, s, "x")[0])
		assign(t, s, uid(1000), item("y", 1, uid(1)))
		require.Empty(t, problemsOf(t, s, "x")[0])
	})
}

func TestPlacesArePagedByUUID(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		r := commit(t, s, newRecord(uid(1), "a"))
		var vms []inventory.VM
		placed := map[uuid.UUID][]uuid.UUID{}
		for i := range 23 {
			vm := newVM(i, uid(1000+i%5))
			vms = append(vms, vm)
			placed[vm.Host] = append(placed[vm.Host], vm.UUID)
		}
		_, err := s.PutVMs(ctx, at(1), vms)
		require.NoError(t, err)
		for h, list := range placed {
			v := assign(t, s, h, item(string(r.ID), 1, list...))
			report(t, s, h, 1, v, status(r.ID, 1, running, list[0]))
		}
		// Another has one zone of each host; pages are cut for each of the two by itself.
		other := commit(t, s, newRecord(uid(1), "b"))
		for h, list := range placed {
			assign(t, s, h, item(string(r.ID), 1, list...), item(string(other.ID), 1, list[1]))
		}
		ids := []instrumentation.ID{r.ID, other.ID}

		seen := map[uuid.UUID]instrumentation.Status{}
		last := ""
		for next := true; next; {
			pages, err := s.VMs(ctx, instrumentation.Page{First: 4, After: last}, ids...)
			require.NoError(t, err)
			require.Equal(t, 23, pages[0].Total)
			require.Equal(t, 5, pages[1].Total)
			if last == "" {
				require.Len(t, pages[1].Items, 4)
				require.True(t, pages[1].Next)
			}
			for _, p := range pages[0].Items {
				require.Greater(t, p.VM.UUID.String(), last)
				last = p.VM.UUID.String()
				seen[p.VM.UUID] = p.Status
				require.Equal(t, "running", p.VM.State)
			}
			next = pages[0].Next
		}
		require.Len(t, seen, 23)
		seenHosts := 0
		last = ""
		for next := true; next; {
			pages, err := s.Hosts(ctx, instrumentation.Page{First: 2, After: last}, ids...)
			require.NoError(t, err)
			require.Equal(t, 5, pages[0].Total)
			for _, p := range pages[0].Items {
				last = p.Host.UUID.String()
				seenHosts++
				require.Len(t, p.VMs, len(placed[p.Host.UUID]))
				require.Equal(t, running, p.Status)
				require.Equal(t, "1.0", p.Agent.Version)
				require.True(t, p.Agent.Online)
				require.Equal(t, failed, p.Failures[placed[p.Host.UUID][0]].Status)
				require.Equal(t, failed, seen[placed[p.Host.UUID][0]])
			}
			for _, p := range pages[1].Items {
				require.Len(t, p.VMs, 1)
			}
			next = pages[0].Next
		}
		require.Equal(t, 5, seenHosts)

		p, err := s.HostPlacement(ctx, r.ID, uid(1000))
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), p.Since, time.Minute)
		_, err = s.Report(ctx, store.Report{
			Host: uid(1000), Session: uid(77), Sequence: 2, Applied: facts(t, s, uid(1000)).Version, Instrumentations: []store.Status{status(r.ID, 1, running)},
			Targets: []store.TargetStatus{{Instrumentation: "x", LastError: "no"}, {Instrumentation: r.ID, Target: 1, Dropped: 3, LastError: "refused"}},
		})
		require.NoError(t, err)
		p, err = s.HostPlacement(ctx, r.ID, uid(1000))
		require.NoError(t, err)
		require.Equal(t, []instrumentation.TargetStatus{{Target: 1, Dropped: 3, LastError: "refused"}}, p.Targets)
		p, err = s.HostPlacement(ctx, r.ID, uid(5))
		require.NoError(t, err)
		require.Nil(t, p)

		for f, want := range map[*instrumentation.Filter]int{
			{VM: uid(3)}: 1, {VM: uid(99)}: 0, {Host: uid(1001)}: 2, {Host: uid(1)}: 0, {VM: uid(3), Host: uid(1003)}: 1,
			{VM: uid(3), Host: uid(1001)}: 0, {VM: uid(3), Text: "zzz"}: 0,
		} {
			found, _, _, err := s.Search(ctx, *f, instrumentation.Page{First: 5})
			require.NoError(t, err)
			require.Len(t, found, want, "%+v", f)
			n, err := s.Count(ctx, *f)
			require.NoError(t, err)
			require.Equal(t, want, n)
		}
		_, err = s.VMs(ctx, instrumentation.Page{First: 4, After: "x"}, r.ID)
		require.Error(t, err)
	})
}

func TestPlacementsAreWhatDocumentsHaveNow(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		whole := item("w", 1)
		whole.WholeHost = true
		assign(t, s, uid(1000), item("x", 1, uid(1), uid(2)), item("y", 1, uid(1)), whole)
		assign(t, s, uid(1001), item("x", 1, uid(3)))
		require.NoError(t, s.MarkHosts(ctx, true, uid(1002)))
		b, hash, counts := body(item("x", 1, uid(1), uid(4)))
		counts = append(counts, store.Counts{ID: "refused", Expected: 2})
		_, committed, err := s.CommitDocument(ctx, claim(t, s, 1, time.Minute)[0], facts(t, s, uid(1002)), b, hash, counts)
		require.NoError(t, err)
		require.True(t, committed)
		for _, c := range []struct {
			hosts   []uuid.UUID
			vms     []uuid.UUID
			all, of int
		}{
			{nil, []uuid.UUID{uid(1)}, 0, 0},
			{[]uuid.UUID{uid(1000)}, nil, 4, 0},
			{[]uuid.UUID{uid(1000)}, []uuid.UUID{uid(1), uid(3)}, 4, 2},
			{[]uuid.UUID{uid(1002)}, []uuid.UUID{uid(1), uid(2)}, 2, 1},
			{[]uuid.UUID{uid(1000), uid(1001), uid(1002), uid(1003)}, []uuid.UUID{uid(1), uid(2), uid(3), uid(4)}, 7, 6},
		} {
			vms := make(map[uuid.UUID]bool)
			for _, vm := range c.vms {
				vms[vm] = true
			}
			all, of, err := s.Placements(ctx, func(_ instrumentation.ID, vm uuid.UUID) bool { return vms[vm] }, c.hosts...)
			require.NoError(t, err)
			require.Equal(t, c.all, all)
			require.Equal(t, c.of, of)
		}
	})
}
