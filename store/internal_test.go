package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
)

func TestParseURL(t *testing.T) {
	for url, check := range map[string]func(u *redis.UniversalOptions){
		"redis://h": func(u *redis.UniversalOptions) { require.Equal(t, []string{"h:6379"}, u.Addrs) },
		"rediss://u:p%40@h:1/3": func(u *redis.UniversalOptions) {
			require.Equal(t, []string{"h:1"}, u.Addrs)
			require.Equal(t, "u", u.Username)
			require.Equal(t, "p@", u.Password)
			require.Equal(t, 3, u.DB)
			require.NotNil(t, u.TLSConfig)
		},
		"redis://:p@a:1,b:2": func(u *redis.UniversalOptions) {
			require.Equal(t, []string{"a:1", "b:2"}, u.Addrs)
			require.True(t, u.IsClusterMode)
			require.Equal(t, "p", u.Password)
		},
		"redis+sentinel://:p@a,b:2/my%20master/4": func(u *redis.UniversalOptions) {
			require.Equal(t, []string{"a:26379", "b:2"}, u.Addrs)
			require.Equal(t, "my master", u.MasterName)
			require.Equal(t, 4, u.DB)
		},
	} {
		u, err := parseURL(url)
		require.NoError(t, err, url)
		check(u)
	}
	for _, url := range []string{
		"", "h:1", "http://h", "redis://", "redis://a,,b", "redis+sentinel://a", "redis://a,b/2", "redis://h/x", "redis://h?no=such",
		"redis://u:secret@[::1",
	} {
		_, err := parseURL(url)
		require.Error(t, err, url)
		require.NotContains(t, err.Error(), "secret")
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("redis://u:p@h:1,i/0")
	f.Add("rediss+sentinel://h/m/1")
	f.Fuzz(func(t *testing.T, url string) {
		u, err := parseURL(url)
		if err == nil && len(u.Addrs) == 0 {
			t.Fatal("no address")
		}
	})
}

func TestProblemsOfTheConnectionAreNotReady(t *testing.T) {
	for _, err := range []error{io.EOF, &net.OpError{Op: "dial", Err: errors.New("refused")}, context.DeadlineExceeded, redis.ErrClosed} {
		require.ErrorIs(t, fault("x", err), instrumentation.ErrNotReady)
		require.ErrorIs(t, fault("x", err), err)
	}
	require.NotErrorIs(t, fault("x", context.Canceled), instrumentation.ErrNotReady)
	require.NoError(t, fault("x", nil))
}

// FuzzReadJournal holds that reading never fails, and that whole frames come back from between any bytes.
func FuzzReadJournal(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add([]byte{0, 0, 0, 1, 0}, []byte{9})
	e := entry{seq: 7, name: "commit", args: []string{"", "a\x00b"}}
	f.Add(e.frame(), e.frame()[:9])
	f.Fuzz(func(t *testing.T, before, after []byte) {
		if _, good, _ := readJournal(before); good > len(before) {
			t.Fatal("more than there is")
		}
		if len(before) > 1<<12 {
			return
		}
		entries, good, _ := readJournal(append(append(append([]byte{}, before...), e.frame()...), after...))
		found := false
		for _, got := range entries {
			found = found || fmt.Sprint(got) == fmt.Sprint(e)
		}
		if _, clean, _ := readJournal(before); !found && clean == len(before) {
			t.Fatal("a whole frame was lost")
		}
		if good < len(before) && clean(before) {
			t.Fatal("whole frames are not counted")
		}
	})
}

func clean(b []byte) bool {
	_, good, damaged := readJournal(b)
	return good == len(b) && !damaged
}

func FuzzDecodePicture(f *testing.F) {
	f.Add([]byte(snapshotMagic + "\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := decodePicture(b); err == nil && p == nil {
			t.Fatal("neither a picture nor an error")
		}
	})
}

// TestAJournalThatCannotBeWritten loses nothing that was answered, refuses mutations, and takes them again after a snapshot.
func TestAJournalThatCannotBeWritten(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	s, err := Open(ctx, Options{Embedded: &Embedded{Dir: dir, SnapshotEvery: time.Hour}})
	require.NoError(t, err)
	require.NoError(t, s.Record(ctx, instrumentation.Audit{Action: "first"}))
	require.NoError(t, s.embedded.disk.journal.file.Close()) // the disk fails
	require.ErrorIs(t, s.Record(ctx, instrumentation.Audit{Action: "second"}), instrumentation.ErrNotDurable)
	require.Eventually(t, func() bool { // a snapshot is taken within a second or so
		err := s.Record(ctx, instrumentation.Audit{Action: "third"})
		if err != nil {
			require.ErrorIs(t, err, instrumentation.ErrNotReady)
		}
		return err == nil
	}, time.Minute, 20*time.Millisecond)
	require.NoError(t, s.Close())
	s, err = Open(ctx, Options{Embedded: &Embedded{Dir: dir}})
	require.NoError(t, err)
	defer s.Close()
	log, err := s.AuditLog(ctx, "", 9)
	require.NoError(t, err)
	require.Len(t, log, 3)
}

// TestAWriteThatIsSentTwiceIsMadeOnce sends the same script again, as the client does when the connection breaks before the
// answer.
func TestAWriteThatIsSentTwiceIsMadeOnce(t *testing.T) {
	ctx := t.Context()
	s, err := Open(ctx, Options{Embedded: &Embedded{}})
	require.NoError(t, err)
	defer s.Close()
	r := instrumentation.Instrumentation{ID: "a", Revision: 1, State: instrumentation.Created}
	w := write{id: r.ID, new: &r, audit: `{}`, log: true, evaluate: 1}
	args, err := w.args()
	require.NoError(t, err)
	for range 2 {
		reply, err := s.mutate(ctx, commitScript, args...)
		require.NoError(t, err)
		require.Equal(t, "OK", text(at(reply, 0)))
	}
	log, err := s.AuditLog(ctx, "", 9)
	require.NoError(t, err)
	require.Len(t, log, 1)
	u, err := s.Usage(ctx, r.Owner)
	require.NoError(t, err)
	require.Equal(t, 1, u.Live)
}

func TestARunOfAScriptIsToldOfNoMoreThanItMayTake(t *testing.T) {
	var parts []part
	for n := range 1000 {
		host := uuid.NewSHA1(uuid.NameSpaceOID, []byte{byte(n), byte(n >> 8)})
		parts = append(parts, part{host: host, args: []any{n}, weight: n % 50})
	}
	parts = append(parts, part{host: parts[0].host, args: []any{1000}, weight: 10 * maxWeight}, part{host: parts[0].host, args: []any{1001}})
	next := make(map[string]int)
	all := runs(touchScript, parts, "first")
	told := 0
	for _, r := range all {
		require.LessOrEqual(t, len(r.of), maxParts)
		if r.weight > maxWeight {
			require.Len(t, r.of, 1, "more than a run may take has one of its own")
		}
		require.Equal(t, "first", r.args[0])
		for k, i := range r.of {
			require.Equal(t, parts[i].args[0], r.args[1+k])
			require.Equal(t, shardOf(parts[i].host).prefix(), r.key)
			require.GreaterOrEqual(t, i, next[r.key], "in the order of their shard")
			next[r.key] = i
			told++
		}
	}
	require.Equal(t, len(parts), told)
	require.Greater(t, len(all), len(parts)/maxParts)
}
