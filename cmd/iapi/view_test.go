package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/dataapi"
)

func TestCoverageReadsAsASentence(t *testing.T) {
	require.Equal(t, "0/1 running, 1 failed", coverageView{Expected: 1, Failed: 1}.sentence())
	require.Equal(t, "3/6 running, 1 pending, 2 offline", coverageView{Expected: 6, Running: 3, Pending: 1, Offline: 2}.sentence())
	require.Equal(t, "2/2", coverageView{Expected: 2, Running: 2}.String())
}

func TestAMetricWithoutAUnitHasNoEmptyBrackets(t *testing.T) {
	require.Equal(t, "cpu.loadavg1", metricRef{Name: "cpu.loadavg1"}.String())
	require.Equal(t, "nic.bytes (bytes)", metricRef{Name: "nic.bytes", Unit: "bytes"}.String())
}

func TestWhatHasExpiredIsNotInTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // where time stands still
		require.Equal(t, "90s ago", until(time.Now().Add(-90*time.Second)))
		require.Equal(t, "in 2h", until(time.Now().Add(2*time.Hour)))
	})
}

func TestColumnsOfWatchStayInLine(t *testing.T) {
	var i instrumentationView
	i.Metric.Unit = "processes"
	i.Decompositions = append(i.Decompositions, struct {
		Name string `json:"name"`
	}{"execname"})
	var out bytes.Buffer
	table := &watchTable{w: &out, instrumentation: i}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	add := func(second int, name string) {
		require.NoError(t, table.add(dataapi.Event{Timestamp: at.Add(time.Duration(second) * time.Second), Host: "host-1",
			Fields: map[string]string{"execname": name}, Count: "7"}))
	}
	add(0, "sh")
	add(1, "a-name-that-is-much-longer-than-seventeen-characters")
	add(1, "sh")
	add(2, strings.Repeat("ü", 200))
	add(3, "sh\x1b[2J")
	require.NoError(t, table.flush())

	headers := 0
	column := 0 // of the values
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		runes := []rune(line)
		if strings.HasPrefix(line, "TIME") {
			headers++
			column = len([]rune(strings.SplitN(line, "PROCESSES", 2)[0]))
			continue
		}
		require.Equal(t, "7", string(runes[column:]), "%s", out.String())
	}
	require.Equal(t, 3, headers, "one at the beginning, and one each time that a column grows:\n%s", out.String())
	require.NotContains(t, out.String(), "\x1b")
}
