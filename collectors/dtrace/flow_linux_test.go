package dtrace

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/collectors/collect"
)

// startMark is what a program prints when it measures.
const startMark = `printf '{"type": "printf", "data": "S\\n"}\n'` + "\n"

// flood prints without end, in lines as long as those of programs are.
const flood = "yes 0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"

func TestAProgramThatPrintsTooMuchIsStoppedAndQuarantined(t *testing.T) {
	for name, script := range map[string]string{
		"while it measures":        startMark + "exec " + flood,
		"before it measures":       "exec " + flood,
		"of what is wrong with it": startMark + "exec " + flood + " >&2",
		"and will not be stopped":  "trap '' INT PIPE\n" + startMark + flood + "\nexec sleep 100",
		"and then ends":            startMark + "head -c 2000000 /dev/zero",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tracer := filepath.Join(dir, "bpftrace")
			require.NoError(t, os.WriteFile(tracer, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
			e := newEngine(t, Options{Bpftrace: tracer, Dir: dir, OutputLimit: 100_000, StopTimeout: 50 * time.Millisecond})
			d := definition(t, "syscall.syscalls")
			v := variant(t, d, true)
			p, err := e.Open(t.Context(), wish(d, `{}`), v)
			for err == nil { // until it is found out
				_, err = p.Collect(t.Context(), time.Now())
			}
			require.Equal(t, collect.OverBudget, collect.Refusal(err).Code, "%v", err)
			require.ErrorContains(t, err, "tracing syscall.syscalls printed more than 100000 bytes a second")
			require.Eventually(t, func() bool { e.mu.Lock(); defer e.mu.Unlock(); return len(e.alive) == 0 }, 10*time.Second, time.Millisecond)
			if p != nil {
				require.NoError(t, p.Close())
			}
			require.NoError(t, e.Close())

			again := newEngine(t, Options{Bpftrace: tracer, Dir: dir})
			_, err = again.Open(t.Context(), wish(d, `{}`), v)
			require.Equal(t, collect.OverBudget, collect.Refusal(err).Code)
			require.ErrorContains(t, err, "quarantine", "a restart forgets nothing")
		})
	}
}

func TestOutputAtItsRateFlowsForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlow(1000)
		for range 10_000 {
			time.Sleep(time.Second)
			require.NoError(t, f.take(600))
			require.NoError(t, f.take(400))
		}
		time.Sleep(time.Hour)
		require.NoError(t, f.take(4000), "a burst after an hour of silence")
		require.ErrorIs(t, f.take(1), errTooMuch)
		time.Sleep(time.Hour)
		require.ErrorIs(t, f.take(1), errTooMuch, "for good")

		f = newFlow(1000)
		began := time.Now()
		for f.take(20) == nil {
			time.Sleep(10 * time.Millisecond)
		}
		require.InDelta(t, float64(burst), float64(time.Since(began)), float64(100*time.Millisecond), "twice the rate")
	})
}

func TestAMeteredStreamIsTheStream(t *testing.T) {
	text := bytes.Repeat([]byte("0123456789"), 1000)
	got, err := io.ReadAll(newFlow(10_000).of(bytes.NewReader(text)))
	require.NoError(t, err)
	require.Equal(t, text, got)
	got, err = io.ReadAll(newFlow(1000).of(bytes.NewReader(text)))
	require.True(t, errors.Is(err, errTooMuch))
	require.Less(t, len(got), 4001)
}
