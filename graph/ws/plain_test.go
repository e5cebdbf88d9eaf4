package ws

import (
	"encoding/json"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/graph/agentdoc"
	"iapi/instrumentation"
)

// everything is a report that has every member.
func everything() agentdoc.StatusReport {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678, time.FixedZone("", 3600))
	return agentdoc.StatusReport{
		Host: uuid.New(), Session: uuid.New(), Sequence: 7, AgentVersion: "1.2 \"<é\u2028", Capabilities: []string{"kstat", "procfs"},
		Applied: &assignment.Version{Epoch: "0000000000000001", Generation: 3, Hash: "h"},
		Instrumentations: []agentdoc.InstrumentationStatus{
			{ID: "i-1", Revision: 2, Status: "RUNNING", LastSampleAt: &at},
			{ID: "i-2", Revision: -1, Status: "FAILED", Message: "no\n", VMFailures: []agentdoc.VMFailure{
				{VM: uuid.New(), Status: "DENIED", Message: "x"}, {VM: uuid.New(), Status: "PENDING"},
			}},
		},
		Targets: []agentdoc.TargetStatus{
			{Instrumentation: "i-1", Connected: true, Queued: 5, LastSuccessAt: &at},
			{Instrumentation: "i-2", Target: 1, Dropped: 2, LastError: "refused"},
		},
	}
}

// read is what a report says, by encoding/json.
func read(in agentdoc.StatusReport) delivery.Report {
	out := delivery.Report{
		Host: in.Host, Session: in.Session, Sequence: in.Sequence, AgentVersion: in.AgentVersion, Capabilities: in.Capabilities,
		Instrumentations: []delivery.Status{},
	}
	if in.Applied != nil {
		out.Applied = *in.Applied
	}
	for _, s := range in.Instrumentations {
		status := delivery.Status{
			ID: instrumentation.ID(s.ID), Revision: s.Revision, Status: instrumentation.Status(s.Status), Message: s.Message,
		}
		if s.LastSampleAt != nil {
			status.LastSample = s.LastSampleAt.UTC()
		}
		for _, f := range s.VMFailures {
			if status.VMs == nil {
				status.VMs = make(map[uuid.UUID]instrumentation.SourceFailure)
			}
			status.VMs[f.VM] = instrumentation.SourceFailure{Status: instrumentation.Status(f.Status), Message: f.Message}
		}
		out.Instrumentations = append(out.Instrumentations, status)
	}
	for _, t := range in.Targets {
		target := delivery.TargetStatus{
			Instrumentation: instrumentation.ID(t.Instrumentation), Target: t.Target, Connected: t.Connected, Queued: t.Queued,
			Dropped: t.Dropped, LastError: t.LastError,
		}
		if t.LastSuccessAt != nil {
			target.LastSuccess = t.LastSuccessAt.UTC()
		}
		out.Targets = append(out.Targets, target)
	}
	return out
}

// FuzzKnownReport: reports as agents write them are known, and whatever is known says what it says to encoding/json.
func FuzzKnownReport(f *testing.F) {
	for _, r := range []agentdoc.StatusReport{everything(), {Capabilities: []string{}, Instrumentations: []agentdoc.InstrumentationStatus{}}} {
		text, err := json.Marshal(agentdoc.ReportVariables{Input: r})
		require.NoError(f, err)
		known, ok := knownReport(append(append(append([]byte{}, reportPrefix...), text...), '}'))
		require.True(f, ok, "%s", text)
		require.Equal(f, read(r), known)
		f.Add(text)
	}
	f.Add([]byte(`{"input":{"host":"00000000-0000-0000-0000-000000000000","session":"00000000-0000-0000-0000-000000000000","sequence":01`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if !utf8.Valid(text) { // no such message is read
			return
		}
		known, ok := knownReport(append(append(append([]byte{}, reportPrefix...), text...), '}'))
		if !ok {
			return
		}
		var v agentdoc.ReportVariables
		require.NoError(t, json.Unmarshal(text, &v))
		require.Equal(t, read(v.Input), known)
	})
}

// FuzzKnownDocument is the same for the agents' subscription.
func FuzzKnownDocument(f *testing.F) {
	for _, v := range []agentdoc.AssignmentsVariables{
		{Host: uuid.New(), Session: uuid.New()},
		{Host: uuid.New(), Session: uuid.New(), Known: &assignment.Version{Epoch: "0000000000000001", Generation: 3, Hash: "h"}},
	} {
		text, err := json.Marshal(v)
		require.NoError(f, err)
		known, ok := knownDocument(append(append(append([]byte{}, documentPrefix...), text...), '}'))
		require.True(f, ok, "%s", text)
		require.Equal(f, v, known)
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if !utf8.Valid(text) { // no such message is read
			return
		}
		known, ok := knownDocument(append(append(append([]byte{}, documentPrefix...), text...), '}'))
		if !ok {
			return
		}
		var v agentdoc.AssignmentsVariables
		require.NoError(t, json.Unmarshal(text, &v))
		require.Equal(t, v, known)
	})
}
