package store_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/store"
	"iapi/store/storetest"
)

func openDir(t testing.TB, dir string, every time.Duration) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{Embedded: &store.Embedded{Dir: dir, SnapshotEvery: every}, Timeout: time.Minute})
	require.NoError(t, err)
	return s
}

// crash returns a copy of a directory as it is at one moment: what a killed process leaves. Where files come and go meanwhile,
// which no process that is killed sees, it copies again.
func crash(t testing.TB, dir string) string {
	t.Helper()
	for range 1000 {
		to, before, whole := t.TempDir(), filesOf(t, dir, ""), true
		for _, f := range before {
			b, err := os.ReadFile(f)
			if errors.Is(err, fs.ErrNotExist) {
				whole = false
				break
			}
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(to, filepath.Base(f)), b, 0o600))
		}
		if whole && slices.Equal(before, filesOf(t, dir, "")) {
			return to
		}
	}
	require.FailNow(t, "the directory changes all the time")
	return ""
}

func filesOf(t testing.TB, dir, part string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*"+part+"*"))
	require.NoError(t, err)
	slices.Sort(all)
	return all
}

func TestEverythingComesBackAfterARestart(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir, time.Hour)
	ctx := t.Context()
	r := commit(t, s, newRecord(uid(1), "a"))
	_, err := s.PutVMs(ctx, at(1), []inventory.VM{newVM(1, uid(1000))})
	require.NoError(t, err)
	v := assign(t, s, uid(1000), item(string(r.ID), 1, uid(1)))
	report(t, s, uid(1000), 1, v, status(r.ID, 1, running))
	binary := "\x00\xff\r\n$-1\r\n*1\r\n\x80"
	c := s.Client()
	require.NoError(t, c.Set(ctx, binary, binary, 0).Err())
	require.NoError(t, c.Set(ctx, "soon", "x", 300*time.Millisecond).Err())
	require.NoError(t, c.Set(ctx, "later", "x", time.Hour).Err())
	require.NoError(t, c.RPush(ctx, "list", "b", binary, "a", "b").Err())
	require.NoError(t, c.SAdd(ctx, "set", "b", binary, "").Err())
	require.NoError(t, c.ZAdd(ctx, "zset", redis.Z{Score: 1e15 + 1732280000123, Member: binary}, redis.Z{Score: -0.5, Member: "b"}).Err())
	require.NoError(t, c.HSet(ctx, "hash", binary, "", "k", binary).Err())
	require.NoError(t, c.XAdd(ctx, &redis.XAddArgs{Stream: "stream", ID: "5-1", Values: []string{"k", binary, "l", ""}}).Err())
	require.NoError(t, s.Close())

	s = openDir(t, dir, time.Hour)
	defer s.Close()
	c = s.Client()
	require.Equal(t, &r, get(t, s, r.ID))
	require.Len(t, facts(t, s, uid(1000)).VMs, 1)
	require.Equal(t, instrumentation.Coverage{Expected: 1, Running: 1}, coverage(t, s, r.ID))
	require.Equal(t, binary, c.Get(ctx, binary).Val())
	require.Equal(t, []string{"b", binary, "a", "b"}, c.LRange(ctx, "list", 0, -1).Val())
	require.ElementsMatch(t, []string{"b", binary, ""}, c.SMembers(ctx, "set").Val())
	require.Equal(t, []redis.Z{{Score: -0.5, Member: "b"}, {Score: 1e15 + 1732280000123, Member: binary}}, c.ZRangeWithScores(ctx, "zset", 0, -1).Val())
	require.Equal(t, map[string]string{binary: "", "k": binary}, c.HGetAll(ctx, "hash").Val())
	require.Equal(t, []redis.XMessage{{ID: "5-1", Values: map[string]any{"k": binary, "l": ""}}}, c.XRange(ctx, "stream", "-", "+").Val())
	require.InDelta(t, time.Hour, c.TTL(ctx, "later").Val(), float64(time.Minute))
	eventually(t, func() bool { return c.Exists(ctx, "soon").Val() == 0 })
}

// TestAcknowledgedMutationsSurviveAKillAtAnyByte cuts the journal everywhere: what was answered before the cut is there,
// whole and indexed.
func TestAcknowledgedMutationsSurviveAKillAtAnyByte(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir, time.Hour)
	ctx := t.Context()
	journal := filesOf(t, dir, "journal-")
	require.Len(t, journal, 1)
	size := func() int64 {
		info, err := os.Stat(journal[0])
		require.NoError(t, err)
		return info.Size()
	}
	type acknowledged struct {
		at int64
		r  instrumentation.Instrumentation
	}
	var acks []acknowledged
	r := newRecord(uid(1), "first")
	for i := range 8 {
		r.Revision, r.Name = i+1, fmt.Sprint("name", i)
		_, err := s.Commit(ctx, change(r, i))
		require.NoError(t, err)
		acks = append(acks, acknowledged{size(), r})
		require.NoError(t, s.Evaluated(ctx, r.ID, i+1, time.Time{}))
		r.Evaluated = i + 1
		acks = append(acks, acknowledged{size(), r})
	}
	left := crash(t, dir)
	require.NoError(t, s.Close())

	whole, err := os.ReadFile(filepath.Join(left, filepath.Base(journal[0])))
	require.NoError(t, err)
	var cuts []int
	for _, a := range acks {
		cuts = append(cuts, int(a.at)-1, int(a.at), min(int(a.at)+1, len(whole)))
	}
	rng := rand.New(rand.NewPCG(7, 8))
	for range 20 {
		cuts = append(cuts, rng.IntN(len(whole)))
	}
	for _, cut := range cuts {
		dir := crash(t, left)
		require.NoError(t, os.Truncate(filepath.Join(dir, filepath.Base(journal[0])), int64(cut)))
		s := openDir(t, dir, time.Hour)
		var want *instrumentation.Instrumentation
		for _, a := range acks {
			if a.at <= int64(cut) {
				want = &a.r
			}
		}
		require.Equal(t, want, get(t, s, r.ID), "cut at %d", cut)
		if want != nil {
			found, _, _, err := s.Search(ctx, instrumentation.Filter{Text: want.Name}, instrumentation.Page{First: 2})
			require.NoError(t, err)
			require.Len(t, found, 1)
			u, err := s.Usage(ctx, uid(1))
			require.NoError(t, err)
			require.Equal(t, 1, u.Live)
			next := *want
			next.Revision++
			_, err = s.Commit(ctx, change(next, want.Revision)) // life goes on
			require.NoError(t, err)
		}
		require.Empty(t, filesOf(t, dir, "damaged"))
		require.NoError(t, s.Close())
	}
}

// TestNoMutationFallsBetweenSnapshotAndJournal takes snapshots all the time while mutations are made.
func TestNoMutationFallsBetweenSnapshotAndJournal(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir, time.Millisecond)
	var mu sync.Mutex
	var acks []instrumentation.ID
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for range 25 {
				r, err := s.Commit(t.Context(), change(newRecord(uid(1), "a"), 0))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acks = append(acks, r.ID)
				mu.Unlock()
			}
		})
	}
	writers.Wait()
	eventually(t, func() bool { return len(filesOf(t, dir, "snapshot-")) <= 2 }) // old files go
	left := crash(t, dir)
	require.NoError(t, s.Close())
	again := openDir(t, left, time.Hour)
	defer again.Close()
	found, err := again.Get(t.Context(), acks...)
	require.NoError(t, err)
	require.Len(t, found, 100)
	for i, r := range found {
		require.NotNil(t, r, acks[i])
	}
}

func TestDamagedFilesAreKeptAndStartGoesOnFromWhatIsGood(t *testing.T) {
	damage := func(t *testing.T, path string, where func(size int) int) {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		b[where(len(b))] ^= 0x40
		require.NoError(t, os.WriteFile(path, b, 0o600))
	}
	prepare := func(t *testing.T) (dir string, before, after []instrumentation.ID) {
		dir = t.TempDir()
		s := openDir(t, dir, time.Hour)
		for range 3 {
			before = append(before, commit(t, s, newRecord(uid(1), "a")).ID)
		}
		require.NoError(t, s.Close())
		s = openDir(t, dir, time.Hour)
		for range 3 {
			after = append(after, commit(t, s, newRecord(uid(1), "a")).ID)
		}
		left := crash(t, dir)
		require.NoError(t, s.Close())
		return left, before, after
	}
	here := func(t *testing.T, s *store.Store, ids []instrumentation.ID) int {
		n := 0
		for _, id := range ids {
			if get(t, s, id) != nil {
				n++
			}
		}
		return n
	}
	t.Run("the newest snapshot", func(t *testing.T) {
		dir, before, after := prepare(t)
		all := filesOf(t, dir, "snapshot-")
		require.Len(t, all, 2)
		damage(t, all[1], func(n int) int { return n / 2 })
		s := openDir(t, dir, time.Hour)
		defer s.Close()
		require.Equal(t, 3, here(t, s, before))
		require.Equal(t, 3, here(t, s, after))
		require.Len(t, filesOf(t, dir, "damaged"), 1)
	})
	t.Run("all snapshots", func(t *testing.T) {
		dir, _, after := prepare(t)
		for _, f := range filesOf(t, dir, "snapshot-") {
			require.NoError(t, os.WriteFile(f, []byte("nonsense"), 0o600))
		}
		_, err := store.Open(t.Context(), store.Options{Embedded: &store.Embedded{Dir: dir}})
		require.ErrorIs(t, err, store.ErrDamaged, "to go on from nothing is not decided for the owner")
		s := openDir(t, dir, time.Hour) // told once; who starts again goes on
		defer s.Close()
		require.Equal(t, 3, here(t, s, after))
		require.Len(t, filesOf(t, dir, "damaged"), 2)
	})
	t.Run("an entry of the journal", func(t *testing.T) {
		dir, before, after := prepare(t)
		all := filesOf(t, dir, "journal-")
		damage(t, all[len(all)-1], func(n int) int { return n / 2 })
		s := openDir(t, dir, time.Hour)
		defer s.Close()
		require.Equal(t, 3, here(t, s, before))
		require.Equal(t, 2, here(t, s, after), "only the damaged one is missing")
		require.Len(t, filesOf(t, dir, "damaged"), 1)
		n, err := s.Count(t.Context(), instrumentation.Filter{})
		require.NoError(t, err)
		require.Equal(t, 5, n)
	})
}

func TestADirectoryHasOneProcess(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir, time.Hour)
	_, err := store.Open(t.Context(), store.Options{Embedded: &store.Embedded{Dir: dir}})
	require.ErrorIs(t, err, store.ErrLocked)
	require.NoError(t, s.Close())
	require.NoError(t, openDir(t, dir, time.Hour).Close())
}

func TestADirectoryThatCannotBeWrittenIsOneClearError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, dir := range []string{file, filepath.Join(file, "below"), "/proc/iapi"} {
		_, err := store.Open(t.Context(), store.Options{Embedded: &store.Embedded{Dir: dir}})
		require.ErrorContains(t, err, "the data directory")
	}
}

func TestOtherProcessesCanUseTheEmbeddedStore(t *testing.T) {
	var log strings.Builder
	s, err := store.Open(t.Context(), store.Options{
		Embedded: &store.Embedded{Listen: "127.0.0.1:0"}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	require.NoError(t, err)
	defer s.Close()
	_, url, _ := strings.Cut(log.String(), "url=")
	other, err := store.Open(t.Context(), store.Options{URL: strings.TrimSpace(url)})
	require.NoError(t, err)
	r := commit(t, other, newRecord(uid(1), "a"))
	require.Equal(t, &r, get(t, s, r.ID))
	require.NoError(t, s.MarkHosts(t.Context(), false, hosts(200)...)) // a pipeline that is larger than the buffers
	require.Len(t, claim(t, other, 200, time.Minute), 200)
	require.NoError(t, other.Close())
	_, err = store.Open(t.Context(), store.Options{Embedded: &store.Embedded{Listen: "0.0.0.0:0"}})
	require.ErrorContains(t, err, "loopback")
}

func TestTheEmbeddedClockCanBeSet(t *testing.T) {
	var mu sync.Mutex
	now := created
	s := storetest.Embedded(t, store.Options{Clock: func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}})
	held, err := s.Lease(t.Context(), "n", "a", time.Hour)
	require.NoError(t, err)
	require.True(t, held)
	mu.Lock()
	now = now.Add(2 * time.Hour)
	mu.Unlock()
	eventually(t, func() bool { held, err := s.Lease(t.Context(), "n", "b", time.Hour); return err == nil && held })
	got, err := s.Now(t.Context())
	require.NoError(t, err)
	require.Equal(t, created.Add(2*time.Hour), got)
}

func TestMutationsAfterCloseAreNotReady(t *testing.T) {
	s := openDir(t, t.TempDir(), time.Hour)
	require.NoError(t, s.Close())
	_, err := s.Commit(context.WithoutCancel(t.Context()), change(newRecord(uid(1), "a"), 0))
	require.ErrorIs(t, err, instrumentation.ErrNotReady)
}
