package vmapitest

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

type message struct {
	ChangeKind struct {
		Resource     string
		SubResources []string
	}
	ChangedResourceID uuid.UUID `json:"changedResourceId"`
	ResourceObject    map[string]any
	Published         string
}

// tap listens to the feed: every message is in got, in order.
type tap struct {
	t    *testing.T
	conn *websocket.Conn
	got  chan message
}

func (s *sim) listen(instance string, subs ...string) *tap {
	s.t.Helper()
	conn := s.dial("")
	frame, err := json.Marshal(map[string]any{
		"instance": instance, "service": "test", "changeKind": map[string]any{"resource": "vm", "subResources": subs},
	})
	require.NoError(s.t, err)
	require.NoError(s.t, conn.Write(s.t.Context(), websocket.MessageText, frame))
	_, reply, err := conn.Read(s.t.Context())
	require.NoError(s.t, err)
	require.JSONEq(s.t, s.get("/changefeeds", "").body, string(reply))
	l := &tap{s.t, conn, make(chan message, 1000)}
	go func() { // ends with the connection, at the end of the test
		defer close(l.got)
		for {
			_, frame, err := conn.Read(context.Background())
			if err != nil {
				return
			}
			var m message
			if json.Unmarshal(frame, &m) == nil {
				l.got <- m
			}
		}
	}()
	return l
}

func (s *sim) dial(version string) *websocket.Conn {
	s.t.Helper()
	header := http.Header{}
	if version != "" {
		header.Set("Accept-Version", version)
	}
	conn, _, err := websocket.Dial(s.t.Context(), s.url+"/changefeeds", &websocket.DialOptions{HTTPHeader: header})
	require.NoError(s.t, err)
	conn.SetReadLimit(1 << 20)
	s.t.Cleanup(func() { conn.CloseNow() })
	return conn
}

func (l *tap) next() message {
	l.t.Helper()
	select {
	case m, ok := <-l.got:
		require.True(l.t, ok, "the feed has ended")
		return m
	case <-time.After(time.Minute):
		require.Fail(l.t, "no message")
		return message{}
	}
}

var quick = Options{FeedLatency: 5 * time.Millisecond}

var nine = feedSubs

func TestFeedRepeatsAMessageForEachEntry(t *testing.T) {
	s := start(t, quick, twelve()...)
	l := s.listen("i1", nine...)
	require.NoError(t, s.SetTags(vmID(1), map[string]any{"a": 1, "b": 2, "c": 3}))
	require.NoError(t, s.SetState(vmID(7), "stopped"))
	first := l.next()
	require.Equal(t, vmID(1), first.ChangedResourceID)
	require.Equal(t, []string{"last_modified", "tags", "tags", "tags", "tags", "tags", "tags"}, first.ChangeKind.SubResources, "three new, three gone")
	require.Equal(t, "vm1", first.ResourceObject["alias"])
	require.NotContains(t, first.ResourceObject, "zonepath", "null fields are left out")
	for range 5 {
		require.Equal(t, first, l.next())
	}
	require.Equal(t, []string{"last_modified", "state", "zone_state"}, l.next().ChangeKind.SubResources)
}

func TestDestroyIsToldWithoutState(t *testing.T) {
	s := start(t, quick, twelve()...)
	l := s.listen("i1", nine...)
	stateOnly := s.listen("i2", "state")
	require.NoError(t, s.Destroy(vmID(1)))
	m := l.next()
	require.Equal(t, []string{"destroyed"}, m.ChangeKind.SubResources)
	require.Equal(t, "destroyed", m.ResourceObject["state"])
	require.NotEmpty(t, m.ResourceObject["destroyed"])
	require.NoError(t, s.DestroyInBulk(vmID(2)))
	m = l.next()
	require.Equal(t, []string{"last_modified", "state", "zone_state"}, m.ChangeKind.SubResources)
	require.NotContains(t, m.ResourceObject, "destroyed")
	require.Equal(t, vmID(2), stateOnly.next().ChangedResourceID, "the first destruction was not for it")
}

func TestMovesAndNewOwnersLookLikeCreations(t *testing.T) {
	s := start(t, quick, twelve()...)
	l := s.listen("i1", "alias")
	require.NoError(t, s.Put(VM{UUID: vmID(50), Alias: "new", State: "provisioning"}))
	require.NoError(t, s.Move(vmID(1), hostID(3)))
	require.NoError(t, s.SetOwner(vmID(2), ownerID(9)))
	for _, want := range []int{50, 1, 2} {
		m := l.next()
		require.Equal(t, vmID(want), m.ChangedResourceID)
		require.Contains(t, m.ChangeKind.SubResources, "brand")
	}
}

func TestNoChangeIsNotTold(t *testing.T) {
	s := start(t, quick, twelve()...)
	l := s.listen("i1", append(nine, "last_modified", "ram")...)
	v, ok := s.VM(vmID(1))
	require.True(t, ok)
	require.NoError(t, s.Put(v))
	v.RAM = 77
	require.NoError(t, s.Put(v))
	require.Equal(t, []string{"max_physical_memory", "ram"}, l.next().ChangeKind.SubResources)
}

func TestNothingIsReplayed(t *testing.T) {
	s := start(t, quick, twelve()...)
	l := s.listen("i1", nine...)
	l.conn.CloseNow()
	require.Eventually(t, func() bool { return s.Stats().Listeners == 0 }, time.Minute, time.Millisecond)
	require.NoError(t, s.Destroy(vmID(1)))
	require.Eventually(t, func() bool { s.feed.mu.Lock(); defer s.feed.mu.Unlock(); return len(s.feed.waiting) == 0 }, time.Minute, time.Millisecond)
	l = s.listen("i2", nine...)
	require.NoError(t, s.Destroy(vmID(2)))
	require.Equal(t, vmID(2), l.next().ChangedResourceID)
}

func TestOneRegistrationForAnInstance(t *testing.T) {
	s := start(t, quick, twelve()...)
	first := s.listen("same", nine...)
	second := s.listen("same", nine...)
	require.Equal(t, 1, s.Stats().Listeners)
	require.NoError(t, s.Destroy(vmID(1)))
	require.Equal(t, vmID(1), second.next().ChangedResourceID)
	require.Empty(t, first.got)
	require.NoError(t, first.conn.Ping(t.Context()), "it stays open, and silent")
}

func TestFeedVersionsAndBadRegistrations(t *testing.T) {
	s := start(t, quick, twelve()...)
	conn := s.dial("~2")
	require.NoError(t, conn.Write(t.Context(), websocket.MessageText,
		[]byte(`{"instance":"x","service":"test","resources":[{"resource":"vm","subResources":["state"]}]}`)))
	_, reply, err := conn.Read(t.Context())
	require.NoError(t, err)
	require.JSONEq(t, `{"bootstrapRoutes":["/vms"]}`, string(reply))
	for frame, reason := range map[string]string{
		`{`: "failed to parse v1 registration payload",
		`{"instance":"x","service":"test","changeKind":{"resource":"nic","subResources":["mac"]}}`: "unknown resource: nic",
	} {
		conn := s.dial("")
		require.NoError(t, conn.Write(t.Context(), websocket.MessageText, []byte(frame)))
		_, _, err := conn.Read(t.Context())
		var closed websocket.CloseError
		require.ErrorAs(t, err, &closed)
		require.Equal(t, websocket.StatusNormalClosure, closed.Code)
		require.True(t, strings.HasPrefix(closed.Reason, reason), closed.Reason)
	}
}

func TestFeedFaults(t *testing.T) {
	s := start(t, quick, twelve()...)
	l := s.listen("i1", "destroyed")
	require.NoError(t, s.SetFaults(Fault{Mode: FaultFeedLoss, Times: 2}))
	for n := 1; n <= 3; n++ {
		require.NoError(t, s.Destroy(vmID(n)))
	}
	require.Equal(t, vmID(3), l.next().ChangedResourceID)
	require.NoError(t, s.SetFaults(Fault{Mode: FaultFeedFrozen}))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, l.conn.Ping(ctx), context.DeadlineExceeded)
}

func TestFeedStatsKillsWhileSomeoneListens(t *testing.T) {
	s := start(t, quick, twelve()...)
	require.Equal(t, 200, s.get("/changefeeds/stats", "").status)
	s.listen("i1", nine...)
	_, err := s.do(http.MethodGet, "/changefeeds/stats", "")
	require.Error(t, err)
}
