package faults

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/tests/load/cloud"
)

// A host has no document that no frame can hold: what there is no room for is told to have failed, and comes when there is room.
func TestADocumentOverTheFrameLimitIsNeverSent(t *testing.T) {
	t.Parallel()
	const vms = 3000 // so that one instrumentation is about a third of what a document may be
	s := start(t, 1, 1, cloud.Options{VMs: vms})
	h := newHistory()
	p := startProxy(t, s.APIs[0].URL, 3, h.document)
	f := s.connect([]string{p.URL}, h.observer())
	p.plan.Store(&faultPlan{Halve: 0.5})

	var ids []string
	for range 5 {
		in, err := s.APIs[0].Create(s.ctx, s.Owner, cloud.Tagged("load", "off"))
		require.NoError(t, err)
		ids = append(ids, in.ID)
	}
	fits := func(id string) bool { return runs(f.Agents[0], id) }
	s.eventually(patience, "some run, and the newest has failed", func() error {
		in, err := s.APIs[0].Get(s.ctx, ids[len(ids)-1])
		switch {
		case err != nil:
			return err
		case in.Coverage.Failed != vms || in.Coverage.Expected != vms:
			return fmt.Errorf("%+v", in.Coverage)
		case !fits(ids[0]) || !fits(ids[1]) || fits(ids[len(ids)-1]):
			return errors.New("others run")
		}
		return s.current(f)
	})
	var data struct {
		Instrumentation struct {
			Problems []struct {
				Status, Message string
				Sources         int
			}
		}
	}
	require.NoError(t, s.APIs[0].Do(s.ctx, `query($id: ID!) { instrumentation(id: $id) { problems { status message sources } } }`,
		map[string]any{"id": ids[len(ids)-1]}, &data))
	problems := data.Instrumentation.Problems
	require.Len(t, problems, 1)
	require.Equal(t, "OVER_BUDGET", problems[0].Status)
	require.Equal(t, vms, problems[0].Sources)
	require.NotEmpty(t, problems[0].Message)
	for _, id := range ids[:len(ids)-1] {
		require.NoError(t, s.APIs[0].Delete(s.ctx, id))
	}
	s.eventually(patience, "there is room again", func() error {
		if !fits(ids[len(ids)-1]) {
			return errors.New("it does not run")
		}
		in, err := s.APIs[0].Get(s.ctx, ids[len(ids)-1])
		if err == nil && in.Coverage.Running != vms {
			err = fmt.Errorf("%+v", in.Coverage)
		}
		return err
	})
	s.lawful(h)
}
