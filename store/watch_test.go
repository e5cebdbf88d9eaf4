package store_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/instrumentation"
	"iapi/store"
	"iapi/store/storetest"
)

// watched collects what a watch tells.
type watched struct {
	mu      sync.Mutex
	changes []store.DocChange
	gaps    int
}

func (w *watched) take(changes []store.DocChange, gap bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes = append(w.changes, changes...)
	if gap {
		w.gaps++
	}
}

func (w *watched) state() ([]store.DocChange, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]store.DocChange(nil), w.changes...), w.gaps
}

// watch runs WatchDocuments until the test ends, and returns when it has begun.
func watch(t *testing.T, s *store.Store) *watched { return watchBy(t, s, 1) }

// watchBy is watch where that many readers share the work.
func watchBy(t *testing.T, s *store.Store, readers int) *watched {
	t.Helper()
	w := &watched{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.WatchDocuments(ctx, w.take) }()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
	eventually(t, func() bool { _, gaps := w.state(); return gaps == readers })
	return w
}

func eventually(t *testing.T, fn func() bool) {
	t.Helper()
	require.Eventually(t, fn, time.Minute, 5*time.Millisecond)
}

func TestWatchDocumentsTellsEveryChange(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		w := watch(t, s)
		host := uid(1000)
		v1 := assign(t, s, host, item("a", 1, uid(1)))
		v2 := assign(t, s, host, item("a", 1, uid(1), uid(2)))
		v3 := assign(t, s, host, item("a", 1, uid(2)))
		assign(t, s, host, item("a", 1, uid(2))) // nothing new
		begin(t, s, host, uid(7))
		require.NoError(t, s.RevokeAgent(ctx, host))
		eventually(t, func() bool { c, _ := w.state(); return len(c) >= 5 })
		changes, gaps := w.state()
		require.Equal(t, []store.DocChange{
			{Host: host, Version: v1},
			{Host: host, Version: v2},
			{Host: host, Version: v3, Kind: store.ChangeStop},
			{Host: host, Kind: store.ChangeSuperseded, Session: uid(7)},
			{Host: host, Version: v3, Kind: store.ChangeRevoke},
		}, changes)
		require.Equal(t, 1, gaps)
	})
}

func TestWatchDocumentsTellsOfGaps(t *testing.T) {
	t.Run("entries trimmed", func(t *testing.T) {
		storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
			ctx := t.Context()
			hold, held, first := make(chan struct{}), make(chan struct{}), true
			w := &watched{}
			ctx2, cancel := context.WithCancel(ctx)
			done := make(chan error, 1)
			go func() {
				done <- s.WatchDocuments(ctx2, func(c []store.DocChange, gap bool) {
					w.take(c, gap)
					if first { // the reader is busy while entries come and are trimmed
						first = false
						close(held)
						<-hold
					}
				})
			}()
			<-held
			host := uid(1000)
			for i := range 3 {
				assign(t, s, host, item("a", i+1))
			}
			keys, err := s.Client().Keys(ctx, "iapi:*:change").Result()
			require.NoError(t, err)
			require.Len(t, keys, 1)
			require.NoError(t, s.Client().XTrimMaxLen(ctx, keys[0], 1).Err())
			close(hold)
			eventually(t, func() bool { c, gaps := w.state(); return gaps == 2 && len(c) == 1 })
			cancel()
			<-done
		})
	})
	t.Run("the server went away", func(t *testing.T) {
		server := storetest.Start(t)
		s, err := store.Open(t.Context(), store.Options{URL: server.URL()})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		w := watch(t, s)
		server.Kill()
		server.Run()
		eventually(t, func() bool { _, gaps := w.state(); return gaps >= 2 })
		var v assignment.Version
		eventually(t, func() bool { return s.Ready(t.Context()) == nil })
		v = assign(t, s, uid(1000), item("a", 1))
		eventually(t, func() bool { c, _ := w.state(); return len(c) == 1 && c[0].Version == v })
	})
	t.Run("the store was emptied", func(t *testing.T) {
		s := storetest.Real(t, store.Options{})
		assign(t, s, uid(1000), item("a", 1))
		w := watch(t, s)
		require.NoError(t, s.Client().FlushAll(t.Context()).Err())
		eventually(t, func() bool { _, gaps := w.state(); return gaps >= 2 })
	})
}

// A store that was emptied, and was told so much since that nothing seems to be missing.
func TestWhatIsToldAfterAStoreWasEmptiedIsAGap(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		w, host := watch(t, s), uid(1000)
		for i := range 3 {
			assign(t, s, host, item("a", i+1))
		}
		eventually(t, func() bool { changes, _ := w.state(); return len(changes) == 3 })
		_, gaps := w.state()
		require.Equal(t, 1, gaps, "the first entry of all is none")
		require.NoError(t, s.Client().FlushAll(t.Context()).Err())
		for i := range 4 {
			assign(t, s, host, item("b", i+1))
		}
		eventually(t, func() bool { changes, gaps := w.state(); return len(changes) == 3+4 && gaps > 1 })
	})
}

func TestWatchRecordsTellsWhatChanges(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan instrumentation.ID, 100)
		begun := make(chan struct{})
		var once sync.Once
		done := make(chan error, 1)
		go func() {
			done <- s.WatchRecords(ctx, func(ids []instrumentation.ID, gap bool) {
				once.Do(func() { close(begun) })
				for _, id := range ids {
					got <- id
				}
			})
		}()
		<-begun
		r := commit(t, s, newRecord(uid(1), "a"))
		require.Equal(t, r.ID, <-got)
		require.NoError(t, s.SetState(ctx, r.ID, 1, instrumentation.Enabled, time.Time{}))
		require.Equal(t, r.ID, <-got)
		require.NoError(t, s.TellFares(ctx, "another", r.ID))
		require.Equal(t, []instrumentation.ID{"another", r.ID}, []instrumentation.ID{<-got, <-got})
		require.NoError(t, s.Remove(ctx, r.ID))
		require.Equal(t, r.ID, <-got)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
}

// TestOurOwnOutageMakesNoAgentOffline stops serving for longer than agents may be silent.
func TestOurOwnOutageMakesNoAgentOffline(t *testing.T) {
	for name, open := range map[string]func(testing.TB, store.Options) *store.Store{"embedded": storetest.Embedded, "redis": storetest.Real} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for patience := 900 * time.Millisecond; !outlivesAnOutage(t, open(t, store.Options{OfflineAfter: patience}), patience); patience *= 2 {
				require.Less(t, patience, time.Minute, "the machine is too slow")
			}
		})
	}
}

// outlivesAnOutage returns false when the machine was too slow for that patience, so that there was another outage than the one
// that is meant, or what is looked at was over.
func outlivesAnOutage(t *testing.T, s *store.Store, patience time.Duration) bool {
	ctx := t.Context()
	v := assign(t, s, uid(1000), item("w", 1))
	before := assign(t, s, uid(1001), item("before", 1))
	serve := func() (stop func()) {
		ctx, cancel := context.WithCancel(ctx)
		begun, done := make(chan struct{}), make(chan struct{})
		var once sync.Once
		go func() {
			defer close(done)
			_ = s.WatchDocuments(ctx, func([]store.DocChange, bool) { once.Do(func() { close(begun) }) })
		}()
		<-begun
		return func() { cancel(); <-done }
	}
	stop := serve()
	report(t, s, uid(1001), 1, before, status("before", 1, running))
	eventually(t, func() bool { return coverage(t, s, "before").Offline == 1 })
	time.Sleep(patience / 3) // some beats, which is how exactly the beginning of an outage is known
	begun := time.Now()
	report(t, s, uid(1000), 1, v, status("w", 1, running))
	stop()
	grace, err := s.Client().HExists(ctx, "iapi:{i}:serving", "until").Result()
	require.NoError(t, err)
	if grace || time.Since(begun) > patience/2 {
		return false
	}
	time.Sleep(patience + patience/2) // the outage itself
	require.Equal(t, 1, coverage(t, s, "w").Running, "nobody serves: what was last known stands")
	begun = time.Now()
	stop = serve()
	defer stop()
	w, other := coverage(t, s, "w"), coverage(t, s, "before")
	if time.Since(begun) > patience/2 {
		return false
	}
	require.Equal(t, 1, w.Running, "the grace")
	require.Equal(t, 1, other.Offline, "it was offline before")
	eventually(t, func() bool { return coverage(t, s, "w").Offline == 1 })
	return true
}
