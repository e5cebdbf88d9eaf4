package session

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// The API refuses a report that is too large, and would for ever: then nothing is known of the host any more.
func TestAReportAlwaysFits(t *testing.T) {
	big := func(instrumentations, zones, text int) Report {
		r := Report{Capabilities: []string{"procfs"}}
		for range instrumentations {
			s := Status{ID: uuid.NewString(), Revision: 1, Status: "RUNNING", Message: strings.Repeat("\x01", text)}
			for range zones {
				s.VMFailures = append(s.VMFailures, VMFailure{VM: uuid.New(), Status: "FAILED", Message: strings.Repeat("é", text/2)})
			}
			r.Instrumentations = append(r.Instrumentations, s)
			r.Targets = append(r.Targets, TargetStatus{Instrumentation: s.ID, LastError: strings.Repeat("e", text)})
		}
		return r
	}
	for name, c := range map[string]struct {
		r      Report
		failed bool // some are told as failed in all zones
	}{
		"small":              {big(3, 2, 10), false},
		"long texts":         {big(256, 0, 4<<10), false},
		"some zones":         {big(256, 10, 1<<10), false},
		"many zones":         {big(256, 200, 100), true},
		"one with too many":  {big(1, 20_000, 0), true},
		"as many as allowed": {big(1, maxFailures, 0), false},
	} {
		before, err := json.Marshal(c.r)
		require.NoError(t, err)
		sent := c.r
		require.NoError(t, fit(&sent), name)
		raw, err := json.Marshal(sent)
		require.NoError(t, err)
		require.LessOrEqual(t, len(raw), maxReport, name)
		require.Len(t, sent.Instrumentations, len(c.r.Instrumentations), name)
		failed := false
		for i, s := range sent.Instrumentations {
			if s.Status == "FAILED" {
				failed = true
				require.Contains(t, s.Message, "too many", name)
				continue
			}
			require.Len(t, s.VMFailures, len(c.r.Instrumentations[i].VMFailures), "%s: a zone that fails is not left out", name)
		}
		require.Equal(t, c.failed, failed, name)
		after, err := json.Marshal(c.r)
		require.NoError(t, err)
		require.Equal(t, before, after, "%s: the caller's report is not changed", name)
	}
}
