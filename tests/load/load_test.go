package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain lets the test be the program, for its children are the program again.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve-peer" {
		os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func TestEverythingIsMeasured(t *testing.T) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("redis-server is missing, and nothing may be left out in CI")
		}
		t.Skip("left out: redis-server is missing")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	code := run(ctx, []string{"agents", "--count", "200", "--changes", "3", "--rounds", "1", "--idle", "100ms", "--json", "--tls", "--peer", "gqlgen",
		"--phases", "connect,idle,one,vm,all,kill", "--refuse", "0.1", "--slow", "0.1", "--slow-for", "50ms"}, &out, &errs)
	require.Zero(t, code, errs.String())
	var r Result
	require.NoError(t, json.Unmarshal(out.Bytes(), &r))
	require.Positive(t, r.Connect.Last)
	require.LessOrEqual(t, r.Idle.Goroutines, 1.5, "at most one goroutine for an agent")
	require.Equal(t, 3, r.One.Create.Count)
	require.Positive(t, r.One.Update.P50)
	require.Positive(t, r.One.Delete.P50)
	require.Equal(t, 3, r.VM.Count)
	require.Equal(t, 200, r.All.Create.Count)
	require.Equal(t, 200, r.All.Delete.Count)
	require.Positive(t, r.All.CPUAPI+r.All.CPUWorker+r.All.CPUStore)
	require.Positive(t, r.Kill.Last)
	require.Positive(t, r.TLS.Connect.Last)
	require.Greater(t, r.TLS.Idle.Heap, r.Idle.Heap, "a connection over TLS has buffers")
	require.Equal(t, 200, r.TLS.All.Delete.Count)
	for _, kind := range []string{"iapi", "gqlgen"} {
		require.Len(t, r.Peers[kind], 1)
		require.Equal(t, 200, r.Peers[kind][0].All.Count)
		require.Positive(t, r.Peers[kind][0].CPU)
	}
	require.NoError(t, r.print(io.Discard))
}

// The agents that cost little are served as the others are.
func TestLightAgentsMeasureTheSame(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("left out: light agents need Linux")
	}
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("redis-server is missing, and nothing may be left out in CI")
		}
		t.Skip("left out: redis-server is missing")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	code := run(ctx, []string{"agents", "--light", "--count", "100", "--changes", "2", "--rounds", "1", "--idle", "100ms", "--json", "--peer", "gqlgen",
		"--phases", "connect,idle,one,vm,all"}, &out, &errs)
	require.Zero(t, code, errs.String())
	var r Result
	require.NoError(t, json.Unmarshal(out.Bytes(), &r))
	require.True(t, r.Light)
	require.Positive(t, r.Connect.Last)
	require.Equal(t, 2, r.One.Delete.Count)
	require.Equal(t, 2, r.VM.Count)
	require.Equal(t, 100, r.All.Create.Count)
	require.Equal(t, 100, r.All.Delete.Count)
	require.Zero(t, r.Refused)
	for _, kind := range []string{"iapi", "gqlgen"} {
		require.Equal(t, 100, r.Peers[kind][0].All.Count)
	}
	require.NoError(t, r.print(&out))
	require.Contains(t, out.String(), "100 light agents")
}

func TestWhatCannotBeMeasuredIsRefused(t *testing.T) {
	for want, args := range map[string][]string{
		"--count":                        {"agents", "--count", "0"},
		"descriptors":                    {"agents", "--count", "100000000"},
		`there is no "sleep"`:            {"agents", "--phases", "connect,sleep"},
		"nothing is left to do":          {"agents", "--phases", "none"},
		"--drop":                         {"agents", "--drop", "2"},
		"--store: it must be on this":    {"agents", "--store", "redis://192.0.2.1:6379/0"},
		"--store: want redis":            {"agents", "--store", "http://127.0.0.1"},
		"--vms":                          {"agents", "--vms", "0"},
		"--light: not for the phases":    {"agents", "--light"},
		"--light: not for":               {"agents", "--light", "--phases", "connect", "--drop", "0.1"},
		"--peer":                         {"agents", "--peer", "nginx"},
		"unexpected argument everything": {"everything"},
	} {
		var out, errs bytes.Buffer
		require.NotZero(t, run(t.Context(), args, &out, &errs), want)
		require.Contains(t, errs.String(), want)
	}
}

func TestLatenciesAreSummedUp(t *testing.T) {
	var took []time.Duration
	for i := range 100 {
		took = append(took, time.Duration(i+1)*time.Millisecond)
	}
	require.Equal(t, Latency{Count: 100, P50: 51, P99: 100, Max: 100}, summarize(took))
	require.Equal(t, Latency{}, summarize(nil))
	require.Equal(t, Latency{Count: 1, P50: 2, P99: 3, Max: 4}, medians([]Latency{
		{Count: 1, P50: 1, P99: 9, Max: 4}, {Count: 1, P50: 2, P99: 3, Max: 5}, {Count: 1, P50: 7, P99: 1, Max: 1},
	}))
}
