package targets

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/measure"
)

// testSpool opens a spool and counts what it loses.
func testSpool(t *testing.T, dir string, change func(*spoolLimits)) (*spool, map[string]int64) {
	t.Helper()
	lost := map[string]int64{}
	limits := spoolLimits{
		bytes: 1 << 20, segment: 64 << 10, age: 24 * time.Hour, free: 0.1, now: time.Now,
		freeFraction: func(string) (float64, error) { return 1, nil },
		lost:         func(reason string, n int64, _ []measure.Point) { lost[reason] += n },
	}
	if change != nil {
		change(&limits)
	}
	s, err := openSpool(dir, limits)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.close() })
	return s, lost
}

func keyOf(i int) string { return fmt.Sprintf("key-%d", i) }

func fill(t *testing.T, s *spool, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		require.NoError(t, s.append(keyOf(i), points(i, i+3)))
	}
}

// drain takes and acknowledges everything.
func drain(t *testing.T, s *spool) []string {
	t.Helper()
	var keys []string
	for {
		key, got, ok := s.take()
		if !ok {
			require.True(t, s.empty())
			return keys
		}
		var i int
		_, err := fmt.Sscanf(key, "key-%d", &i)
		require.NoError(t, err)
		require.Equal(t, points(i, i+3), got)
		require.NoError(t, s.ack())
		keys = append(keys, key)
	}
}

func keys(from, to int) []string {
	var all []string
	for i := from; i < to; i++ {
		all = append(all, keyOf(i))
	}
	return all
}

func TestTheSpoolGivesBackWhatItGotAcrossRestarts(t *testing.T) {
	dir := t.TempDir()
	small := func(l *spoolLimits) { l.segment = 2000 }
	s, _ := testSpool(t, dir, small)
	fill(t, s, 0, 20)
	require.Greater(t, len(s.segments), 3)
	for i := range 7 {
		key, _, ok := s.take()
		require.True(t, ok)
		require.Equal(t, keyOf(i), key)
		require.NoError(t, s.ack())
	}
	_, _, ok := s.take() // taken and not acknowledged: it comes again
	require.True(t, ok)
	require.NoError(t, s.close())

	s, lost := testSpool(t, dir, small)
	require.EqualValues(t, 13*3, s.points)
	fill(t, s, 20, 25)
	require.Equal(t, keys(7, 25), drain(t, s))
	require.Empty(t, lost)
	require.NoError(t, s.close())
	left, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	require.NoError(t, err)
	require.Empty(t, left)
	s, _ = testSpool(t, dir, small)
	require.True(t, s.empty())
	fill(t, s, 30, 31)
	require.Equal(t, keys(30, 31), drain(t, s))
}

func TestFilesAreForTheOwnerAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "spool")
	s, _ := testSpool(t, dir, nil)
	fill(t, s, 0, 2)
	_, _, _ = s.take()
	require.NoError(t, s.ack())
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		require.Zero(t, info.Mode().Perm()&0o077, path)
		return nil
	}))
}

func TestACutAtAnyByteLosesOnlyTheRecordsBehindIt(t *testing.T) {
	dir := t.TempDir()
	s, _ := testSpool(t, dir, nil)
	var ends []int64
	for i := range 4 {
		fill(t, s, i, i+1)
		ends = append(ends, s.bytes)
	}
	require.NoError(t, s.close())
	path := segmentPath(dir, 0)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Len(t, whole, int(ends[3]))

	fresh := t.TempDir()
	for cut := range len(whole) + 1 {
		require.NoError(t, os.WriteFile(segmentPath(fresh, 0), whole[:cut], 0o600))
		want := 0
		for want < 4 && ends[want] <= int64(cut) {
			want++
		}
		s, _ := testSpool(t, fresh, nil)
		require.EqualValues(t, 3*want, s.points, "cut at %d", cut)
		expected := keys(0, want)
		if cut%11 != 0 { // decoding is slow with the race detector
			require.NoError(t, s.close())
			continue
		}
		if cut%97 == 0 { // each costs a sync
			fill(t, s, 9, 10)
			expected = append(expected, keyOf(9))
		}
		require.Equal(t, expected, drain(t, s), "cut at %d", cut)
		require.NoError(t, s.close())
		require.NoError(t, os.RemoveAll(filepath.Join(fresh, "head")))
	}
}

func TestADamagedByteNeverComesOutAsData(t *testing.T) {
	dir := t.TempDir()
	s, _ := testSpool(t, dir, nil)
	fill(t, s, 0, 3)
	require.NoError(t, s.close())
	whole, err := os.ReadFile(segmentPath(dir, 0))
	require.NoError(t, err)
	fresh := t.TempDir()
	for at := range whole {
		damaged := append([]byte(nil), whole...)
		damaged[at] ^= 0x40
		require.NoError(t, os.WriteFile(segmentPath(fresh, 0), damaged, 0o600))
		s, _ := testSpool(t, fresh, nil)
		require.Less(t, s.points, int64(9), "byte %d", at)
		if at%11 != 0 { // decoding is slow with the race detector
			require.NoError(t, s.close())
			continue
		}
		got := drain(t, s) // compares the points of each
		require.Equal(t, keys(0, len(got)), got)
		require.Less(t, len(got), 3)
		require.NoError(t, s.close())
		require.NoError(t, os.RemoveAll(filepath.Join(fresh, "head")))
	}
}

func TestDamageWhileItIsOpenIsAccountedFor(t *testing.T) {
	s, lost := testSpool(t, t.TempDir(), func(l *spoolLimits) { l.segment = 2000 })
	fill(t, s, 0, 10)
	first := s.segments[0].points
	f, err := os.OpenFile(segmentPath(s.dir, s.segments[0].number), os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("XXXX"), 30)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	got := drain(t, s)
	require.EqualValues(t, 10-first/3, len(got))
	require.Equal(t, map[string]int64{ReasonDamaged: first}, lost)
}

func TestAWrongPositionMeansTheBeginningOfTheSegment(t *testing.T) {
	for _, head := range []string{"", "nonsense", "0000000000000000 7\n", "0000000000000000 -1\n"} {
		dir := t.TempDir()
		s, _ := testSpool(t, dir, nil)
		fill(t, s, 0, 3)
		require.NoError(t, s.close())
		require.NoError(t, os.WriteFile(filepath.Join(dir, "head"), []byte(head), 0o600))
		s, _ = testSpool(t, dir, nil)
		require.EqualValues(t, 9, s.points)
		require.Equal(t, keys(0, 3), drain(t, s), head)
	}
}

func TestTheOldestSegmentsMakeRoomAndAreAccountedFor(t *testing.T) {
	s, lost := testSpool(t, t.TempDir(), func(l *spoolLimits) { l.segment, l.bytes = 2000, 8000 })
	fill(t, s, 0, 5)
	_, taken, ok := s.take()
	require.True(t, ok)
	fill(t, s, 5, 60)
	require.LessOrEqual(t, s.bytes, int64(8000))
	require.False(t, s.untake(), "the segment of what was taken is gone")
	require.EqualValues(t, 60*3, s.points+lost[ReasonFull]+int64(len(taken)))
	got := drain(t, s)
	require.Equal(t, keys(60-len(got), 60), got)
}

func TestOldSegmentsAreDropped(t *testing.T) {
	now := begin
	s, lost := testSpool(t, t.TempDir(), func(l *spoolLimits) { l.now = func() time.Time { return now } })
	fill(t, s, 0, 3)
	now = now.Add(23 * time.Hour)
	fill(t, s, 3, 6)
	now = now.Add(2 * time.Hour)
	fill(t, s, 6, 7)
	require.Equal(t, map[string]int64{ReasonOld: 9}, lost)
	require.Equal(t, keys(3, 7), drain(t, s))
	fill(t, s, 7, 9)
	now = now.Add(25 * time.Hour)
	require.Empty(t, drain(t, s))
	require.Equal(t, map[string]int64{ReasonOld: 15}, lost)
}

func TestTheSpoolLeavesRoomOnTheDisk(t *testing.T) {
	free := 0.05
	s, _ := testSpool(t, t.TempDir(), func(l *spoolLimits) { l.freeFraction = func(string) (float64, error) { return free, nil } })
	require.ErrorIs(t, s.append("k", points(0, 1)), errDiskFull)
	free = 0.2
	require.NoError(t, s.append("k", points(0, 1)))
	real, err := freeFraction(t.TempDir())
	require.NoError(t, err)
	require.True(t, real >= 0 && real <= 1)
}

func TestOneQueueHasTheSpoolAndTheNextGetsItWhenThatIsClosed(t *testing.T) {
	dir := t.TempDir()
	s, _ := testSpool(t, dir, nil)
	_, err := openSpool(dir, s.limits)
	require.ErrorIs(t, err, errInUse)

	o := quick()
	o.Dir = t.TempDir()
	down := &fakeWire{answer: func(string, []item) (result, error) { return result{}, errors.New("away") }}
	up := &fakeWire{answer: func(string, []item) (result, error) { return result{}, nil }}
	first := openFake(measure.DataAPI, o, down)
	awaitSpool(t, o)
	second := openFake(measure.DataAPI, o, up)
	first.Enqueue(points(0, 10))
	require.EqualValues(t, 10, closeQueue(t, first).Spooled)
	second.Enqueue(points(10, 11))
	awaitStats(t, second, "the second has sent what the first has left", func(s Stats) bool { return s.Sent == 11 })
	closeQueue(t, second)
}

// awaitSpool waits until a queue has its spool. That its lock is there is not enough: the queue may not have taken it yet.
func awaitSpool(t *testing.T, o Options) {
	t.Helper()
	require.Eventually(t, func() bool {
		dirs, err := filepath.Glob(filepath.Join(o.Dir, "*"))
		if err != nil || len(dirs) != 1 {
			return false
		}
		lock, err := lockDir(dirs[0])
		if err == nil {
			lock.Close() // a queue that has come meanwhile tries again
		}
		return errors.Is(err, errInUse)
	}, patience, time.Millisecond)
}

func TestAbandonedSpoolsArePruned(t *testing.T) {
	dir := t.TempDir()
	s, _ := testSpool(t, filepath.Join(dir, "old"), nil)
	fill(t, s, 0, 1)
	require.NoError(t, s.close())
	open, _ := testSpool(t, filepath.Join(dir, "open"), nil)
	fill(t, open, 0, 1)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "foreign"), 0o700))
	require.NoError(t, PruneSpools(dir, time.Hour, time.Now()))
	require.DirExists(t, filepath.Join(dir, "old"))
	require.NoError(t, PruneSpools(dir, time.Hour, time.Now().Add(2*time.Hour)))
	require.NoDirExists(t, filepath.Join(dir, "old"))
	require.DirExists(t, filepath.Join(dir, "open"))
	require.DirExists(t, filepath.Join(dir, "foreign"))
	require.NoError(t, PruneSpools(filepath.Join(dir, "none"), time.Hour, time.Now()))
}

func TestSecretsAreNoPartOfASpoolsName(t *testing.T) {
	a := measure.Target{Kind: measure.DataAPI, Address: "http://x", Headers: map[string]string{"A": "1"}}
	b := a
	b.Headers = map[string]string{"A": "2"}
	require.Equal(t, spoolDir("d", "n", a), spoolDir("d", "n", b))
	require.NotEqual(t, spoolDir("d", "n", a), spoolDir("d", "m", a))
	require.False(t, strings.Contains(spoolDir("d", "n", a), "http"))
}

func FuzzSpoolRecovery(f *testing.F) {
	first, err := encodeRecord("key-0", points(0, 3), begin)
	require.NoError(f, err)
	f.Add(first, "0000000000000000 0\n")
	f.Add(append(first, first[:30]...), "0000000000000001 12\n")
	f.Add([]byte{}, "")
	f.Fuzz(func(t *testing.T, segment []byte, head string) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(segmentPath(dir, 0), segment, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "head"), []byte(head), 0o600))
		s, lost := testSpool(t, dir, func(l *spoolLimits) { l.age = 200 * 365 * 24 * time.Hour })
		want := s.points
		for {
			_, got, ok := s.take()
			if !ok {
				break
			}
			want -= int64(len(got))
			require.NoError(t, s.ack())
		}
		for _, n := range lost {
			want -= n
		}
		require.Zero(t, want)
		require.NoError(t, s.append("after", points(0, 1)))
		key, _, ok := s.take()
		require.True(t, ok)
		require.Equal(t, "after", key)
	})
}
