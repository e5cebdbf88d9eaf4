package kstat

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/collectors/collect"
)

// A host's use is that of all its zones, the global one too.
func TestCPUOfAHostIsThatOfAllItsZones(t *testing.T) {
	command, later := fake(t)
	e := New(Options{Command: command})
	p := open(t, e, "cpu.usage", "illumos-host", collect.Request{WholeHost: true, Decompositions: []string{"cpumode"}})
	later()
	e.forget()
	r, err := p.Collect(t.Context(), time.Now())
	require.NoError(t, err)
	require.Empty(t, r.Failures)
	got := map[string]float64{}
	for _, s := range r.Samples {
		got[s.Fields[0].Value] = s.Value
	}
	require.InDelta(t, 50.0+50.0, got["user"], 0.001, "1 s of CPU each in the 2 s between the snaptimes; the third zone has used none")
	require.InDelta(t, 50.0+12.5, got["kernel"], 0.001)
}
