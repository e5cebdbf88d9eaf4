package light

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/graph/agentdoc"
	"iapi/tests/load/sim"
)

func document(t *testing.T, generation int64, items ...assignment.Item) []byte {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"id": "a", "type": "next", "payload": map[string]any{"data": agentdoc.AssignmentsData{
		Assignments: agentdoc.Event{TypeName: agentdoc.TypeAssignment, Assignment: agentdoc.Assignment{
			Host: uuid.New(), Version: assignment.Version{Epoch: "0000000000000001", Generation: generation, Hash: "h"}, Instrumentations: items,
		}},
	}}})
	require.NoError(t, err)
	return raw
}

func one(id string, revision int) assignment.Item {
	owner := uuid.New()
	return assignment.Item{ID: id, Revision: revision, Owner: &owner, VMs: []assignment.VM{{UUID: uuid.New(), Owner: &owner}}}
}

// Servers know agents' reports by their bytes, so these must be the same.
func TestAReportIsWordForWordThatOfAgents(t *testing.T) {
	a := agent{host: uuid.New(), session: uuid.New()}
	require.True(t, a.assigned(document(t, 7, one("i-1", 1), one("i-2", 3))))
	now := time.Now().UTC()
	payload, err := json.Marshal(struct {
		Query     string                   `json:"query"`
		Variables agentdoc.ReportVariables `json:"variables"`
	}{agentdoc.Report, agentdoc.ReportVariables{Input: agentdoc.StatusReport{
		Host: a.host, Session: a.session, Sequence: 1, AgentVersion: "light", Capabilities: []string{"procfs"},
		Applied: &assignment.Version{Epoch: "0000000000000001", Generation: 7, Hash: "h"},
		Instrumentations: []agentdoc.InstrumentationStatus{
			{ID: "i-1", Revision: 1, Status: "RUNNING", LastSampleAt: &now}, {ID: "i-2", Revision: 3, Status: "RUNNING", LastSampleAt: &now},
		},
	}}})
	require.NoError(t, err)
	require.Equal(t, `{"id":"1","type":"subscribe","payload":`+string(payload)+`}`, string(a.report(nil, now)))
}

func TestWhatAReportHasChangedIsWhatItSaid(t *testing.T) {
	var a agent
	require.True(t, a.assigned(document(t, 1, one("i-1", 1), one("i-2", 1))))
	a.report(nil, time.Now())
	require.True(t, a.assigned(document(t, 2, one("i-2", 2))), "meanwhile")
	require.Equal(t, []sim.Change{{ID: "i-1", Revision: 1}, {ID: "i-2", Revision: 1}}, a.taken())
	require.True(t, a.fresh, "there is more to report")
	a.report(nil, time.Now())
	require.Equal(t, []sim.Change{{ID: "i-2", Revision: 2}, {ID: "i-1", Revision: 1, Gone: true}}, a.taken())
	require.False(t, a.fresh)
}

func TestABookmarkIsNoAssignment(t *testing.T) {
	var a agent
	require.False(t, a.assigned([]byte(`{"id":"a","type":"next","payload":{"data":{"assignments":{"__typename":"AssignmentBookmark","version":{"epoch":"0000000000000001"}}}}}`)))
	require.False(t, a.fresh)
}
