package cnapi

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/inventory"
	"iapi/inventory/vmapitest"
)

func connect(t *testing.T, hosts int, before func(*vmapitest.Server, *http.Request)) (*vmapitest.Server, *Client) {
	t.Helper()
	s := vmapitest.New(vmapitest.Options{})
	require.NoError(t, s.Fill(vmapitest.GenerateOptions{Seed: 1, Hosts: hosts}))
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if before != nil {
			before(s, r)
		}
		s.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close)
	t.Cleanup(s.Close)
	c, err := New(Options{URL: web.URL, Timeout: 700 * time.Millisecond})
	require.NoError(t, err)
	return s, c
}

func TestHostsWithTraitsByTheirText(t *testing.T) {
	s, c := connect(t, 0, nil)
	a, b, unset := uuid.UUID{1}, uuid.UUID{2}, uuid.UUID{3}
	require.NoError(t, s.PutHost(
		vmapitest.Host{UUID: b, Hostname: "b", Status: "unknown"},
		vmapitest.Host{UUID: a, Hostname: "a", Traits: map[string]any{"s": "x", "n": 5, "t": true, "o": map[string]any{"k": []int{1, 2}}, "z": nil}},
		vmapitest.Host{UUID: unset, Hostname: "new", NotSetUp: true},
	))
	hosts, err := c.Hosts(t.Context())
	require.NoError(t, err)
	want := inventory.Host{UUID: a, Name: "a", Status: "running", Traits: map[string]string{"s": "x", "n": "5", "t": "true", "o": `{"k":[1,2]}`}}
	require.Equal(t, []inventory.Host{want, {UUID: b, Name: "b", Status: "unknown"}}, hosts, "without the one that is not set up")
	host, err := c.Host(t.Context(), a)
	require.NoError(t, err)
	require.Equal(t, want, host)
	_, err = c.Host(t.Context(), uuid.UUID{9})
	require.ErrorIs(t, err, inventory.ErrNotFound)
	_, err = c.Host(t.Context(), uuid.Nil)
	require.ErrorContains(t, err, "no uuid given")
}

func TestPagesUntilOneIsShort(t *testing.T) {
	for _, n := range []int{0, 1, 6, 7, 8, 13, 14, 100, 2500} {
		_, c := connect(t, n, nil)
		if n < 2500 {
			c.limit = 7
		}
		hosts, err := c.Hosts(t.Context())
		require.NoError(t, err)
		require.Len(t, hosts, n)
	}
}

// A host that leaves between two pages moves the others up by one.
func TestAShiftedListIsReadAgain(t *testing.T) {
	requests := 0
	_, c := connect(t, 50, func(s *vmapitest.Server, r *http.Request) {
		if requests++; requests == 3 {
			hosts := hostIDs(s)
			_ = s.RemoveHost(hosts[0])
		}
	})
	c.limit = 10
	hosts, err := c.Hosts(t.Context())
	require.NoError(t, err)
	require.Len(t, hosts, 49)

	_, c = connect(t, 50, func(s *vmapitest.Server, r *http.Request) { // it never stands still
		if hosts := hostIDs(s); len(hosts) > 0 {
			_ = s.RemoveHost(hosts[0])
		}
	})
	c.limit = 10
	_, err = c.Hosts(t.Context())
	require.ErrorIs(t, err, inventory.ErrUnavailable)
}

// hostIDs are the uuids of the made-up hosts that are still there.
func hostIDs(s *vmapitest.Server) []uuid.UUID {
	fleet, err := vmapitest.Generate(vmapitest.GenerateOptions{Seed: 1, Hosts: 50})
	if err != nil {
		return nil
	}
	lowest := uuid.Max
	for _, h := range fleet.Hosts {
		if _, ok := s.Host(h.UUID); ok && strings.Compare(h.UUID.String(), lowest.String()) < 0 {
			lowest = h.UUID
		}
	}
	return []uuid.UUID{lowest}
}

func TestFaultsAreUnavailable(t *testing.T) {
	s, c := connect(t, 20, nil)
	for _, mode := range []vmapitest.FaultMode{
		vmapitest.FaultError, vmapitest.FaultUnavailable, vmapitest.FaultHang, vmapitest.FaultDrop, vmapitest.FaultTruncate, vmapitest.FaultWrongJSON,
	} {
		require.NoError(t, s.SetFaults(vmapitest.Fault{Mode: mode, Times: 2}))
		hosts, err := c.Hosts(t.Context())
		require.NoError(t, err, mode)
		require.Len(t, hosts, 20)
		require.NoError(t, s.SetFaults(vmapitest.Fault{Mode: mode}))
		_, err = c.Hosts(t.Context())
		require.ErrorIs(t, err, inventory.ErrUnavailable, mode)
	}
}

func TestTolerantOfContentStrictOfForm(t *testing.T) {
	var body string
	status := http.StatusOK
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	defer web.Close()
	c, err := New(Options{URL: web.URL})
	require.NoError(t, err)
	id := uuid.UUID{7}
	body = `[5,{"uuid":null},{"uuid":"` + id.String() + `","hostname":5,"status":null,"traits":[]}]`
	hosts, err := c.Hosts(t.Context())
	require.NoError(t, err)
	require.Equal(t, []inventory.Host{{UUID: id}}, hosts)
	require.EqualValues(t, 2, c.Stats().Skipped)
	for _, body = range []string{"null", "{}", "", "[", "[" + strings.Repeat("{},", 1000) + "{}]"} {
		_, err = c.Hosts(t.Context())
		require.ErrorIs(t, err, inventory.ErrUnavailable, body)
	}
	status, body = 500, `{"code":"InvalidParameters","message":"bad","errors":[{"field":"limit","code":"Invalid","message":"x"}]}`
	_, err = c.Hosts(t.Context())
	require.ErrorContains(t, err, "limit")
	require.NotErrorIs(t, err, inventory.ErrUnavailable, "a refusal that has a code is permanent")
	status, body = 404, `{"code":"ResourceNotFound","message":"/servers does not exist"}`
	_, err = c.Hosts(t.Context())
	require.NotErrorIs(t, err, inventory.ErrNotFound)
}

func FuzzDecodeHost(f *testing.F) {
	f.Add([]byte(`{"uuid":"` + uuid.UUID{1}.String() + `","hostname":"a","traits":{"a":1,"b":"x","c":null,"d":{"e":[]}}}`))
	f.Fuzz(func(t *testing.T, row []byte) {
		if host, err := decode(row); err == nil && host.UUID == uuid.Nil {
			t.Fatal("a host without a uuid")
		}
	})
}
