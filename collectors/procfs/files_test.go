package procfs

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAFileIsReadOnceForAllThatMeasureTheSameInterval(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stat")
	write := func(text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }
	var f files
	clock := int64(0)
	read := func(at time.Time) string {
		r := f.read(path, at, func() int64 { return clock })
		defer r.mu.Unlock()
		require.NoError(t, r.err)
		return string(r.text)
	}
	first := time.Unix(1000, 0)
	write("1")
	require.Equal(t, "1", read(first))
	write("2")
	clock += int64(maxAge) - 1
	require.Equal(t, "1", read(first), "it was read for this interval")
	clock++
	require.Equal(t, "2", read(first), "a reading is not shared for ever: the clock may have been set back")
	write("3")
	require.Equal(t, "3", read(first.Add(time.Second)), "another interval has a reading of its own")
	write("4")
	require.Equal(t, "4", read(time.Time{}), "no interval shares nothing")
	write("5")
	require.Equal(t, "5", read(time.Time{}))
}

func TestReadingsThatNobodyAsksForAreForgotten(t *testing.T) {
	dir := t.TempDir()
	var f files
	read := func(path string, at time.Time) {
		r := f.read(path, at, func() int64 { return 0 })
		defer r.mu.Unlock()
		require.True(t, isGone(r.err))
	}
	for i := range 3 * maxReadings {
		read(filepath.Join(dir, fmt.Sprint(i)), time.Unix(int64(i/100), 0))
		require.LessOrEqual(t, len(f.all), maxReadings)
	}
	for i := range 2 * maxReadings { // more than are kept, of one interval
		read(filepath.Join(dir, fmt.Sprint("x", i)), time.Unix(5000, 0))
		require.LessOrEqual(t, len(f.all), maxReadings)
	}
}

func TestReadingsAreSharedBetweenGoroutines(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "stat")
	require.NoError(t, os.WriteFile(path, []byte("same"), 0o600))
	var f files
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 200 {
				r := f.read(path, time.Unix(int64(i/10), 0), func() int64 { return 0 })
				if string(r.text) != "same" {
					t.Errorf("%q: %v", r.text, r.err)
				}
				r.mu.Unlock()
			}
		})
	}
	all.Wait()
}
