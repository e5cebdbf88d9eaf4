package vmapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/inventory"
	"iapi/inventory/vmapi"
	"iapi/inventory/vmapitest"
)

// requests keeps what a handler was asked, and may act before it answers.
type requests struct {
	next   http.Handler
	before func(*http.Request)

	mu   sync.Mutex
	seen []*http.Request
}

func (q *requests) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q.mu.Lock()
	q.seen = append(q.seen, r)
	q.mu.Unlock()
	if q.before != nil {
		q.before(r)
	}
	q.next.ServeHTTP(w, r)
}

// connect starts a simulator with a made-up fleet and a client of it.
func connect(t *testing.T, vms int, o vmapi.Options) (*vmapitest.Server, *vmapi.Client, *requests) {
	t.Helper()
	s := vmapitest.New(vmapitest.Options{FeedLatency: 5 * time.Millisecond, DieOnBadRequest: true, Die: func(reason string) { t.Errorf("killed VMAPI: %s", reason) }})
	require.NoError(t, s.Fill(vmapitest.GenerateOptions{Seed: 1, Hosts: 5, VMs: vms, Owners: 4}))
	q := &requests{next: s.Handler()}
	web := httptest.NewServer(q)
	t.Cleanup(web.Close)
	t.Cleanup(s.Close)
	o.URL = web.URL
	c, err := vmapi.New(o)
	require.NoError(t, err)
	return s, c, q
}

func collect(t *testing.T, c *vmapi.Client, q vmapi.Query) []inventory.VM {
	t.Helper()
	var all []inventory.VM
	require.NoError(t, c.Each(t.Context(), q, func(page []inventory.VM) error {
		all = append(all, page...)
		return nil
	}))
	slices.Reverse(all)
	return all
}

func where(vms []inventory.VM, keep func(inventory.VM) bool) []inventory.VM {
	var kept []inventory.VM
	for _, vm := range vms {
		if keep(vm) {
			kept = append(kept, vm)
		}
	}
	return kept
}

func active(vm inventory.VM) bool { return vm.State != "destroyed" && vm.State != "failed" }

func TestListsExactlyWhatIsAsked(t *testing.T) {
	s, c, q := connect(t, 3210, vmapi.Options{})
	all := s.VMs()
	owner, host := all[7].Owner, all[0].Host
	require.Equal(t, all, collect(t, c, vmapi.Query{}))
	require.Equal(t, where(all, active), collect(t, c, vmapi.Query{Active: true}))
	require.Equal(t, where(all, func(vm inventory.VM) bool { return vm.Owner == owner && vm.Host == host && active(vm) }),
		collect(t, c, vmapi.Query{Owner: owner, Host: host, Active: true}))
	var ids []uuid.UUID
	for i := 0; i < len(all); i += 4 {
		ids = append(ids, all[i].UUID, uuid.New(), all[i].UUID)
	}
	ids = append(ids, uuid.Nil)
	require.Equal(t, where(all, func(vm inventory.VM) bool { return slices.Contains(ids, vm.UUID) }), collect(t, c, vmapi.Query{UUIDs: ids}))
	before := len(q.seen)
	require.Empty(t, collect(t, c, vmapi.Query{UUIDs: []uuid.UUID{}}), "an empty choice is not everything")
	require.Empty(t, collect(t, c, vmapi.Query{UUIDs: []uuid.UUID{uuid.Nil}}))
	require.Len(t, q.seen, before, "and is not asked for")
	require.Zero(t, c.Stats().Skipped)
	for _, r := range q.seen {
		for key, values := range r.URL.Query() {
			require.Len(t, values, 1, key)
			require.Contains(t, []string{"fields", "limit", "owner_uuid", "server_uuid", "state", "uuids", "marker"}, key)
		}
		require.False(t, strings.HasPrefix(r.UserAgent(), "curl"))
		require.NoError(t, uuid.Validate(r.Header.Get("X-Request-Id")))
		require.Less(t, len(r.RequestURI), 7600)
	}
}

func TestAWalkGoesOnFromItsMarker(t *testing.T) {
	s, c, _ := connect(t, 2500, vmapi.Options{})
	all := s.VMs()
	enough := errors.New("enough")
	for _, q := range []vmapi.Query{{}, {Active: true}, {UUIDs: idsOf(all[:700])}} {
		var got []inventory.VM
		var marker uuid.UUID
		for {
			err := c.EachFrom(t.Context(), q, marker, func(page []inventory.VM, m uuid.UUID) error {
				got = append(got, page...)
				marker = m
				return enough // one page at a time
			})
			if err == nil {
				break
			}
			require.Equal(t, enough, err, "the error of fn comes back as it is")
		}
		slices.Reverse(got)
		require.Equal(t, collect(t, c, q), got)
	}
}

func idsOf(vms []inventory.VM) []uuid.UUID {
	ids := make([]uuid.UUID, len(vms))
	for i, vm := range vms {
		ids[i] = vm.UUID
	}
	return ids
}

// While a walk runs, VMs vanish, are destroyed, come and change their tags. None that stood all the time is missed, none
// comes twice.
func TestNoStandingVMIsMissedWhileOthersVanish(t *testing.T) {
	for seed := range uint64(4) {
		dice := rand.New(rand.NewPCG(seed, 9))
		s, c, q := connect(t, 2000+dice.IntN(1500), vmapi.Options{})
		all := s.VMs()
		touched := make(map[uuid.UUID]bool)
		markers := 0
		var mu sync.Mutex
		q.before = func(r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			for i, n := range dice.Perm(len(all))[:100] {
				vm := all[n]
				touched[vm.UUID] = true
				switch i % 3 {
				case 0:
					_ = s.Remove(vm.UUID) // it may have gone already
				case 1:
					_ = s.Destroy(vm.UUID)
				default:
					_ = s.Put(vmapitest.VM{UUID: uuid.New()})
					_ = s.SetTags(vm.UUID, map[string]any{"new": "tag"})
				}
			}
			var marker struct{ UUID uuid.UUID }
			if json.Unmarshal([]byte(r.URL.Query().Get("marker")), &marker) == nil { // the marker's own row, too
				touched[marker.UUID] = true
				_ = s.Remove(marker.UUID)
				markers++
			}
		}
		seen := make(map[uuid.UUID]int)
		for _, vm := range collect(t, c, vmapi.Query{Active: true}) {
			seen[vm.UUID]++
			require.Equal(t, 1, seen[vm.UUID])
		}
		for _, vm := range all {
			if !touched[vm.UUID] && active(vm) {
				require.Equal(t, 1, seen[vm.UUID], "VM %s stood and was missed", vm.UUID)
			}
		}
		require.Positive(t, markers)
	}
}

func TestOneVM(t *testing.T) {
	s, c, _ := connect(t, 50, vmapi.Options{})
	want := s.VMs()[3]
	require.NoError(t, s.Destroy(want.UUID))
	want.State = "destroyed"
	got, err := c.VM(t.Context(), want.UUID)
	require.NoError(t, err)
	require.Equal(t, want, got, "a destroyed VM is returned")
	_, err = c.VM(t.Context(), uuid.New())
	require.ErrorIs(t, err, inventory.ErrNotFound)
	_, err = c.VM(t.Context(), uuid.Nil)
	require.ErrorContains(t, err, "no uuid given")
	require.NoError(t, c.Ping(t.Context()))
}

func TestTagsAreTakenByTheirJSONText(t *testing.T) {
	s, c, _ := connect(t, 0, vmapi.Options{})
	id := uuid.New()
	require.NoError(t, s.Put(vmapitest.VM{UUID: id, Alias: "é☃", Tags: map[string]any{"a": 5, "b": "5", "c": true, "d": -1.5, "e": `q"\`}}))
	vm, err := c.VM(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, inventory.VM{UUID: id, Alias: "é☃", State: "running", Tags: map[string]string{"a": "5", "b": "5", "c": "true", "d": "-1.5", "e": `q"\`}}, vm)
}

func TestDeltaPoll(t *testing.T) {
	now := time.Now()
	s := vmapitest.New(vmapitest.Options{Clock: func() time.Time { return now }})
	defer s.Close()
	require.NoError(t, s.Fill(vmapitest.GenerateOptions{Seed: 1, Hosts: 5, VMs: 1200, Owners: 4}))
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	c, err := vmapi.New(vmapi.Options{URL: web.URL})
	require.NoError(t, err)
	now = now.Add(time.Minute)
	changed := s.VMs()[5].UUID
	require.NoError(t, s.SetTags(changed, nil))
	var got []inventory.VM
	add := func(page []inventory.VM) error { got = append(got, page...); return nil }
	require.NoError(t, c.ChangedSince(t.Context(), now.Add(-time.Second), add))
	require.Equal(t, []uuid.UUID{changed}, idsOf(got))
	got = nil
	require.NoError(t, c.ChangedSince(t.Context(), now.Add(-time.Hour), add))
	require.Len(t, got, 1200)
	require.Error(t, c.ChangedSince(t.Context(), time.Time{}, add))
}

// Under every fault a walk either is whole or fails; what failed once is tried again.
func TestFaultsAreUnavailableAndRetried(t *testing.T) {
	for _, mode := range []vmapitest.FaultMode{
		vmapitest.FaultError, vmapitest.FaultUnavailable, vmapitest.FaultHang, vmapitest.FaultDrop, vmapitest.FaultTruncate, vmapitest.FaultWrongJSON,
	} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			o, vms := vmapi.Options{Timeout: time.Minute}, 1500
			if mode == vmapitest.FaultHang { // short, but long enough for small pages on a busy machine
				o.Timeout, vms = 1500*time.Millisecond, 20
			}
			s, c, _ := connect(t, vms, o)
			require.NoError(t, s.SetFaults(vmapitest.Fault{Mode: mode, Times: 2}))
			require.Equal(t, s.VMs(), collect(t, c, vmapi.Query{}))
			require.GreaterOrEqual(t, c.Stats().Retries, int64(2))
			require.NoError(t, s.SetFaults(vmapitest.Fault{Mode: mode}))
			err := c.Each(t.Context(), vmapi.Query{}, func([]inventory.VM) error { return nil })
			require.ErrorIs(t, err, inventory.ErrUnavailable)
			_, err = c.VM(t.Context(), s.VMs()[0].UUID)
			require.ErrorIs(t, err, inventory.ErrUnavailable)
			require.NotErrorIs(t, err, inventory.ErrNotFound)
		})
	}
}

func TestAnswersThatMakeNoSense(t *testing.T) {
	id := func(n byte) string { return uuid.UUID{n, 1}.String() }
	row := func(n byte) string { return `{"uuid":"` + id(n) + `","owner_uuid":"` + id(99) + `"}` }
	var status atomic.Int64
	var body atomic.Value
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(int(status.Load()))
		if strings.Contains(r.URL.RawQuery, "marker") && status.Load() == 200 && !strings.HasPrefix(body.Load().(string), "again:") {
			_, _ = w.Write([]byte("[]"))
			return
		}
		_, _ = w.Write([]byte(strings.TrimPrefix(body.Load().(string), "again:")))
	}))
	defer web.Close()
	c, err := vmapi.New(vmapi.Options{URL: web.URL})
	require.NoError(t, err)
	list := func(s int, b string, q vmapi.Query) (n int, err error) {
		status.Store(int64(s))
		body.Store(b)
		err = c.Each(t.Context(), q, func(page []inventory.VM) error { n += len(page); return nil })
		return n, err
	}
	n, err := list(200, "["+row(9)+",5,"+row(8)+"]", vmapi.Query{})
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.EqualValues(t, 1, c.Stats().Skipped)
	n, err = list(200, "["+row(9)+"]", vmapi.Query{Owner: uuid.New()})
	require.NoError(t, err)
	require.Zero(t, n, "a VM that was not asked for is left out")

	for name, answer := range map[string]string{
		"ascending": "[" + row(8) + "," + row(9) + "]", "twice the same": "[" + row(8) + "," + row(8) + "]",
		"round in circles": "again:[" + row(8) + "]", "no array": `{"vms":[]}`, "null": "null", "empty": "", "html": "<html>",
		"nothing usable": `[{"alias":"x"}]`, "too many": "[" + strings.Repeat("{},", 1001) + "{}]",
	} {
		_, err := list(200, answer, vmapi.Query{})
		require.ErrorIs(t, err, inventory.ErrUnavailable, name)
	}
	for _, refusal := range []struct {
		status int
		body   string
	}{
		{409, `{"code":"ValidationFailed","message":"Invalid Parameters","errors":[{"field":"limit","code":"Invalid","message":"bad"}]}`},
		{500, `{"message":"request failed: server error: (a<5) is an invalid filter"}`},
		{500, `{"message":"request failed: server error: vmapi_vms does not have indexes that support (a=b)"}`},
		{404, `{"code":"ResourceNotFound","message":"/vms does not exist"}`},
		{302, ``},
	} {
		before := c.Stats().Requests
		_, err := list(refusal.status, refusal.body, vmapi.Query{})
		require.Error(t, err)
		require.NotErrorIs(t, err, inventory.ErrUnavailable, refusal.body)
		require.NotErrorIs(t, err, inventory.ErrNotFound, "a list is never not found")
		require.EqualValues(t, 1, c.Stats().Requests-before, "a permanent error is not retried")
	}
	status.Store(404)
	body.Store("<html>no such page</html>")
	_, err = c.VM(t.Context(), uuid.New())
	require.ErrorIs(t, err, inventory.ErrUnavailable, "a 404 that VMAPI has not written says nothing of the VM")
	status.Store(200)
	body.Store(row(3))
	_, err = c.VM(t.Context(), uuid.New())
	require.ErrorIs(t, err, inventory.ErrUnavailable, "another VM")
}

func TestTheCallersEndIsTheCallers(t *testing.T) {
	s, c, _ := connect(t, 10, vmapi.Options{Parallel: 1})
	require.NoError(t, s.SetFaults(vmapitest.Fault{Mode: vmapitest.FaultHang}))
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() { _, err := c.VM(ctx, uuid.New()); first <- err }()
	require.Eventually(t, func() bool { return s.Stats().Requests == 1 }, time.Minute, time.Millisecond)
	second, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	_, err := c.VM(second, uuid.New()) // waits for the only slot
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.EqualValues(t, 1, c.Stats().Requests)
	cancel()
	err = <-first
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, inventory.ErrUnavailable)
}

func TestRefusesBadOptions(t *testing.T) {
	for _, o := range []vmapi.Options{
		{}, {URL: "vmapi.coal"}, {URL: "ftp://vmapi"}, {URL: "http://"}, {URL: "http://x?y=z"}, {URL: "http://x", UserAgent: "curl/8"},
		{URL: "http://x", Timeout: -1}, {URL: "http://x", Parallel: -1},
	} {
		_, err := vmapi.New(o)
		require.ErrorContains(t, err, "VMAPI", "%+v", o)
	}
}

// BenchmarkEach walks a simulated fleet of 100,000 VMs; server and client are in this process, so it bounds the client
// from above. BenchmarkDecodePage has the decoder alone.
func BenchmarkEach(b *testing.B) {
	s := vmapitest.New(vmapitest.Options{})
	defer s.Close()
	require.NoError(b, s.Fill(vmapitest.GenerateOptions{Seed: 1, Hosts: 1000, VMs: 100_000, Owners: 500}))
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	c, err := vmapi.New(vmapi.Options{URL: web.URL})
	require.NoError(b, err)
	for b.Loop() {
		n := 0
		require.NoError(b, c.Each(b.Context(), vmapi.Query{}, func(page []inventory.VM) error { n += len(page); return nil }))
		require.Equal(b, 100_000, n)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100_000, "ns/VM")
}
