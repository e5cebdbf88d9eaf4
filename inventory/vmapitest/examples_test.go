package vmapitest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// The requests and answers here were observed on the real VMAPI, on these twelve VMs.

func vmID(n int) uuid.UUID {
	return uuid.MustParse(fmt.Sprintf("%08d-0000-4000-8000-000000000000", n))
}

func ownerID(n int) uuid.UUID {
	return uuid.MustParse(fmt.Sprintf("%08d-aaaa-4000-8000-000000000000", n))
}

func hostID(n int) uuid.UUID {
	return uuid.MustParse(fmt.Sprintf("%08d-bbbb-4000-8000-000000000000", n))
}

func twelve() []VM {
	vms := make([]VM, 12)
	for i := range vms {
		n := i + 1
		vms[i] = VM{UUID: vmID(n), Owner: ownerID(1 + i%2), Host: hostID(1 + i%3), Alias: fmt.Sprintf("vm%d", n), RAM: 128 * n}
	}
	for _, n := range []int{1, 2, 5, 6, 8} {
		vms[n-1].Tags = map[string]any{"role": "db"}
	}
	vms[0].Tags = map[string]any{"role": "db", "n": 5, "flag": true}
	vms[1].Tags = map[string]any{"role": "db", "n": "5", "flag": "true"}
	vms[2].Tags = map[string]any{"role": "web", "env": "prod", "n": -5, "flag": false}
	vms[3].Tags = map[string]any{"role": "web-front"}
	vms[5].State = "destroyed"
	vms[7].State, vms[7].Host = "provisioning", uuid.Nil
	vms[8].Brand = "bhyve"
	return vms
}

type sim struct {
	*Server
	t   *testing.T
	url string
}

func start(t *testing.T, o Options, vms ...VM) *sim {
	t.Helper()
	s := New(o)
	require.NoError(t, s.Load(Fleet{VMs: vms}))
	require.NoError(t, s.PutHost(Host{UUID: hostID(1), Hostname: "cn1"}, Host{UUID: hostID(2), Hostname: "cn2"}, Host{UUID: hostID(3), Hostname: "cn3"}))
	web := httptest.NewServer(s.Handler())
	t.Cleanup(web.Close)
	t.Cleanup(s.Close)
	return &sim{s, t, web.URL}
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (s *sim) do(method, path, query string) (answer, error) {
	target := s.url + path
	if query != "" {
		params := url.Values{}
		for pair := range strings.SplitSeq(strings.ReplaceAll(query, "(&", "(\x00"), "&") { // an and is no separator
			key, value, _ := strings.Cut(strings.ReplaceAll(pair, "\x00", "&"), "=")
			params.Add(key, value)
		}
		target += "?" + params.Encode()
	}
	return s.raw(method, target)
}

func (s *sim) raw(method, target string) (answer, error) {
	req, err := http.NewRequestWithContext(s.t.Context(), method, target, nil)
	require.NoError(s.t, err)
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body)}, err
}

func (s *sim) get(path, query string) answer {
	s.t.Helper()
	a, err := s.do(http.MethodGet, path, query)
	require.NoError(s.t, err)
	return a
}

// list is the numbers of the VMs of a page.
func (s *sim) list(query string) []int {
	s.t.Helper()
	a := s.get("/vms", query)
	require.Equal(s.t, 200, a.status, "%s: %s", query, a.body)
	var rows []struct{ UUID uuid.UUID }
	require.NoError(s.t, json.Unmarshal([]byte(a.body), &rows))
	numbers := []int{}
	for _, r := range rows {
		var n int
		_, err := fmt.Sscanf(r.UUID.String(), "%08d", &n)
		require.NoError(s.t, err)
		numbers = append(numbers, n)
	}
	return numbers
}

func TestListsAsVMAPIDoes(t *testing.T) {
	s := start(t, Options{}, twelve()...)
	for query, want := range map[string][]int{
		"":                             {12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1},
		"tag.role=db&limit=5":          {8, 6, 5, 2, 1},
		"tag.role=web":                 {3},
		"tag.role=web*":                {4, 3},
		"tag.role=*":                   {8, 6, 5, 4, 3, 2, 1},
		"tag.role=web-front":           {4},
		"tag.role=DB":                  {},
		"tag.n=5":                      {2, 1},
		"tag.n=5.0":                    {},
		"tag.n=-5":                     {},
		"query=(tags=*-n=%n{\\2d5}-*)": {}, // the column has %2D
		"query=(tags=*-n=%n{%2D5}-*)":  {3},
		"tag.flag=true":                {2, 1},
		"tag.flag=false":               {3},
		`limit=3&marker={"uuid":"` + vmID(9).String() + `"}`: {8, 7, 6},
		`limit=3&marker={"uuid":"nonsense"}`:                 {12, 11, 10, 9},
		`limit=3&marker={"uuid":null}`:                       {12, 11, 10, 9},
		`limit=3&marker=null`:                                {12, 11, 10},
		"limit=2.7":                                          {12, 11},
		"limit=2&offset=3":                                   {9, 8},
		"alias=vm1":                                          {12, 11, 10, 1},
		"query=(alias=vm1)":                                  {1},
		"query=alias=vm1":                                    {1},
		`predicate={"eq":["alias","vm1"]}`:                   {1},
		"state=active":                                       {12, 11, 10, 9, 8, 7, 5, 4, 3, 2, 1},
		"state=destroyed":                                    {6},
		"state=active&owner_uuid=" + ownerID(2).String():     {12, 10, 8, 4, 2},
		"server_uuid=" + hostID(2).String():                  {11, 5, 2},
		"uuids=" + vmID(3).String() + "," + vmID(77).String() + "," + vmID(7).String(): {7, 3},
		"brand=bhyve":                           {9},
		"docker=false":                          {12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1},
		"docker=true":                           {},
		"ram=1024":                              {8},
		"package_name=x":                        {},
		"query=(ram>=1280)":                     {12, 11, 10},
		"sort=max_physical_memory&limit=2":      {1, 2},
		"sort=max_physical_memory.DESC&limit=2": {12, 11},
		"sort=server_uuid.desc&limit=2":         {8, 12}, // NULL is the largest
		`predicate={"eq":["tag.role","db"]}`:    {8, 6, 5, 2, 1},
		`predicate={"and":[{"eq":["tag.role","db"]},{"eq":["state","running"]}]}`:                                {5, 2, 1},
		`predicate={"or":[{"eq":["tag.role","db"]},{"eq":["tag.env","prod"]}]}`:                                  {8, 6, 5, 3, 2, 1},
		`predicate={"ne":["tag.role","db"]}`:                                                                     {12, 11, 10, 9, 7, 4, 3},
		`predicate={"and":[{"ne":["state","destroyed"]},{"ne":["state","failed"]},{"eq":["tag.role","*"]}]}`:     {8, 5, 4, 3, 2, 1},
		`predicate={"eq":["tag.n","5"]}`:                                                                         {2, 1},
		`predicate={"ge":["tag.n",4]}`:                                                                           {}, // evaluated as equality
		`predicate={"le":["tag.n",5]}`:                                                                           {2, 1},
		`predicate={"ge":["ram",1024]}`:                                                                          {12, 11, 10, 9, 8},
		"query=(&(tags=*-role=db-*)(!(state=destroyed)))":                                                        {8, 5, 2, 1},
		"query=(!(tags=*))":                                                                                      {12, 11, 10, 9, 7},
		"query=(alias:caseIgnoreSubstringsMatch:=*VM1*)":                                                         {12, 11, 10, 1},
		"query=(alias:caseIgnoreMatch:=VM7)":                                                                     {7},
		"query=(&(zone_state=installed)(state=*))":                                                               {8, 6},
		`sort=create_timestamp.desc&marker={"uuid":"` + vmID(3).String() + `","create_timestamp":9999999999999}`: {2, 1},
		"role_tags=" + vmID(1).String() + "&uuid=" + vmID(99).String():                                           {},
		"predicate=&query=":                                                                                      {12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1},
	} {
		require.Equal(t, want, s.list(query), query)
	}
}

func TestRefusesAsVMAPIDoes(t *testing.T) {
	s := start(t, Options{}, twelve()...)
	one := func(field, message string) string {
		m, err := json.Marshal(message)
		require.NoError(t, err)
		return `{"code":"ValidationFailed","message":"Invalid Parameters","errors":[{"field":"` + field + `","code":"Invalid","message":` + string(m) + `}]}`
	}
	limit := "Not a valid number: number must be >= 1 and <= 1000"
	for query, want := range map[string]string{
		"limit=0":           one("limit", limit),
		"limit=1001":        one("limit", limit),
		"limit=-1":          one("limit", limit),
		"limit=abc":         one("limit", limit),
		"limit=":            one("limit", limit),
		"limit=3&marker={}": one("marker", "Invalid marker: {}. A marker needs to have a uuid property from which a strict total order can be established"),
		"predicate={bad":    one("predicate", "Unable to parse predicate as JSON"),
		"predicate={}":      one("predicate", "Empty predicate"),
		`predicate={"and":[{"eq":["brand","lx"]}]}`: one("predicate", `Predicate syntax error: Error: logical expr key "and" does not contain enough elements: found 1, expected at least two`),
		`predicate={"not":{"eq":["brand","lx"]}}`:   one("predicate", "Predicate syntax error: Error: invalid key: not"),
		"bogus=1":                 one("bogus", "Invalid parameter"),
		"state=failed":            one("state", "Must be one of: active, destroyed, running, stopped"),
		"fields=create_timestamp": one("fields", "Invalid values: create_timestamp"),
		"tag.role=":               one("tag", `Invalid tag value: ""`),
		"tag=db":                  one("tag", "Invalid tag key: undefined"),
		"uuid=" + strings.ToUpper(ownerID(1).String()): one("uuid", "Invalid UUID"),
		"uuids=":                one("uuids", "Invalid UUID"),
		"max_physical_memory=1": one("max_physical_memory", "Invalid parameter"),
		`offset=2&limit=3&marker={"uuid":"` + vmID(4).String() + `"}`: `{"code":"ValidationFailed","message":"Invalid Parameters","errors":[{"fields":["offset","marker"],"code":"ConflictingParameters","message":"offset and marker cannot be used at the same time"}]}`,
	} {
		a := s.get("/vms", query)
		require.Equal(t, 409, a.status, query)
		require.JSONEq(t, want, a.body, query)
	}
	a := s.get("/vms", "limit=3&marker=garbage")
	require.Equal(t, 409, a.status)
	require.Contains(t, a.body, "Invalid marker: garbage. Could not parse marker as an object JSON representation, reason: ")
	for query, want := range map[string]string{
		`predicate={"lt":["ram",512]}`:                                             `(max_physical_memory<512) is an invalid filter`,
		`predicate={"or":[{"eq":["zone_state","running"]},{"eq":["brand","lx"]}]}`: `vmapi_vms does not have indexes that support (|(zone_state=running)(brand=lx))`,
		"tag.role=(": `(tags=*-role=(-*) is an invalid filter`,
	} {
		a := s.get("/vms", query)
		require.Equal(t, 500, a.status, query)
		require.JSONEq(t, `{"message":"request failed: server error: `+want+`"}`, a.body, query)
	}
	a = s.get("/vms", "role_tags="+vmID(1).String())
	require.Equal(t, 409, a.status)
}

func TestAnswersWithVMAPIsHeadersAndFields(t *testing.T) {
	s := start(t, Options{}, twelve()...)
	a := s.get("/vms", "tag.role=db&limit=1&fields=uuid,state,tags")
	require.Equal(t, "5", a.header.Get("X-Joyent-Resource-Count"))
	require.Equal(t, `[{"uuid":"00000008-0000-4000-8000-000000000000","state":"provisioning","tags":{"role":"db"}}]`, a.body)
	require.Equal(t, "VMAPI/9.16.0", a.header.Get("Server"))
	require.NotEmpty(t, a.header.Get("X-Request-Id"))

	full := s.get("/vms", "limit=1&tag.role=db")
	head, err := s.do(http.MethodHead, "/vms", "limit=1&tag.role=db")
	require.NoError(t, err)
	require.Equal(t, 200, head.status)
	require.Equal(t, "5", head.header.Get("X-Joyent-Resource-Count"))
	require.Equal(t, fmt.Sprint(len(full.body)), head.header.Get("Content-Length"))
	require.Empty(t, head.body)

	a = s.get("/vms", `limit=3&marker={"uuid":"`+vmID(9).String()+`"}`)
	require.Equal(t, "12", a.header.Get("X-Joyent-Resource-Count"), "the count ignores the marker")

	var object map[string]any
	require.NoError(t, json.Unmarshal([]byte(s.get("/vms/"+vmID(9).String(), "").body), &object))
	require.NotContains(t, object, "image_uuid")
	require.Contains(t, object, "disks")
	require.NoError(t, json.Unmarshal([]byte(s.get("/vms/"+vmID(8).String(), "").body), &object))
	require.Nil(t, object["server_uuid"])
	require.Equal(t, map[string]any{}, object["customer_metadata"])
}

func TestFindsOneVMAsVMAPIDoes(t *testing.T) {
	s := start(t, Options{}, twelve()...)
	notFound := `{"code":"ResourceNotFound","message":"VM not found"}`
	one := "/vms/" + vmID(1).String()
	for _, c := range []struct {
		path, query string
		status      int
		body        string
	}{
		{"/vms/" + vmID(99).String(), "", 404, notFound},
		{one, "owner_uuid=" + ownerID(2).String(), 404, notFound},
		{one, "owner_uuid=zzz", 409, `{"code":"ValidationFailed","message":"Invalid Parameters","errors":[{"field":"owner_uuid","code":"Invalid","message":"Invalid UUID"}]}`},
		{"/vms/nope", "", 409, `{"code":"ValidationFailed","message":"Invalid Parameters","errors":[{"field":"uuid","code":"Invalid","message":"Invalid UUID"}]}`},
		{"/vms/" + strings.ToUpper(ownerID(1).String()), "", 409, ""},
		{one, "fields=uuid,nonsense&whatever=1", 200, `{"uuid":"` + vmID(1).String() + `"}`},
		{one + "/tags", "", 200, `{"flag":true,"n":5,"role":"db"}`},
		{one + "/tags/n", "", 200, `5`},
		{one + "/tags/none", "", 404, ""},
		{"/statuses", "uuids=" + vmID(1).String() + "," + vmID(6).String() + "," + vmID(99).String(), 200,
			`{"` + vmID(1).String() + `":"running","` + vmID(6).String() + `":"destroyed"}`},
		{"/vms/" + vmID(6).String(), "fields=state", 200, `{"state":"destroyed"}`},
		{"/nowhere", "", 404, ""},
	} {
		a := s.get(c.path, c.query)
		require.Equal(t, c.status, a.status, "%s?%s", c.path, c.query)
		if c.body != "" {
			require.JSONEq(t, c.body, a.body, "%s?%s", c.path, c.query)
		}
	}
	a, err := s.do(http.MethodHead, "/vms/"+vmID(99).String(), "")
	require.NoError(t, err)
	require.Equal(t, 404, a.status)
	a = s.get("/vms/", "")
	require.Equal(t, 200, a.status)
	require.Empty(t, a.body)
	a, err = s.do(http.MethodPost, "/vms", "")
	require.NoError(t, err)
	require.Equal(t, 405, a.status)
}

func TestDiesAtTheRequestsThatKillVMAPI(t *testing.T) {
	reasons := make(chan string, 100)
	s := start(t, Options{DieOnBadRequest: true, Die: func(reason string) { reasons <- reason }}, twelve()...)
	killers := []string{
		"/vms?limit=5&limit=6", "/vms?limit=2abc", "/vms?tag.role=a&tag.role=b", "/vms?tag[role]=a", "/vms?predicate=null",
		`/vms?predicate={"toString":["a","b"]}`, "/vms?role_tags=x", "/vms/?fields=uuid",
		`/vms?sort=alias&marker={"uuid":"` + vmID(4).String() + `","alias":"vm4"}`,
	}
	for _, killer := range killers {
		_, err := s.raw(http.MethodGet, s.url+strings.NewReplacer(`"`, "%22", "{", "%7B", "}", "%7D").Replace(killer))
		require.ErrorIs(t, err, io.EOF, killer)
		select {
		case <-reasons:
		case <-time.After(time.Minute):
			require.Fail(t, "survived", killer)
		}
	}
	require.EqualValues(t, len(killers), s.Stats().Deaths)
}

func TestHangsUpBeyond8KiBOfHeader(t *testing.T) {
	s := start(t, Options{}, twelve()...)
	ask := func(n int) error {
		ids := make([]string, n)
		for i := range ids {
			ids[i] = vmID(i + 1).String()
		}
		_, err := s.raw(http.MethodGet, s.url+"/vms?uuids="+strings.Join(ids, ","))
		return err
	}
	require.NoError(t, ask(218))
	require.ErrorIs(t, ask(220), io.EOF)
}

func TestTagSearchLosesRowsAfterTheLimit(t *testing.T) {
	s := start(t, Options{}, VM{UUID: vmID(1), Tags: map[string]any{"a": true}},
		VM{UUID: vmID(2), Tags: map[string]any{"a": false, "b": true}},
		VM{UUID: vmID(3), Tags: map[string]any{"a": false, "b": true}})
	a := s.get("/vms", "tag.a=true")
	require.Equal(t, "3", a.header.Get("X-Joyent-Resource-Count"), "LIKE lets %%b{true} of another tag pass")
	require.Equal(t, []int{1}, s.list("tag.a=true"))
	a = s.get("/vms", "tag.a=true&limit=1")
	require.Equal(t, "3", a.header.Get("X-Joyent-Resource-Count"))
	require.Equal(t, "[]", a.body)
}

func TestTagsReadBackAsLossyAsInVMAPI(t *testing.T) {
	s := start(t, Options{}, VM{UUID: vmID(1), Tags: map[string]any{
		"plain": "a-b=c", "literal": "x%2Dy%3Dz", "huge": 1e21, "half": 0.5, "neg": -5, "yes": true, "a-b": "v", "under": `a\b`,
	}})
	require.JSONEq(t, `{"plain":"a-b=c","literal":"x-y=z","huge":"%n{1e+21}","half":0.5,"neg":-5,"yes":true,"a-b":"v","under":"a\\b"}`,
		s.get("/vms/"+vmID(1).String()+"/tags", "").body)
	require.Equal(t, []int{1}, s.list("tag.plain=a-b%3Dc"))
	require.Equal(t, []int{}, s.list("tag.plain=a-b=c"))
	require.Equal(t, []int{1}, s.list("tag.a-b=v"))
	require.Equal(t, []int{}, s.list(`tag.under=a\5cb`), "a backslash cannot be found")
}

func TestMiddleWildcardsCrossTags(t *testing.T) {
	s := start(t, Options{}, VM{UUID: vmID(1), Tags: map[string]any{"a": "x", "z": "yb"}})
	require.Equal(t, []int{1}, s.list("tag.a=*b"))
	require.Equal(t, []int{}, s.list("tag.a=*c"))
}

func TestOverlayShowsTheHostsStatusAndFiltersDoNotSeeIt(t *testing.T) {
	s := start(t, Options{HostStatusOverlay: true}, twelve()...)
	require.NoError(t, s.PutHost(Host{UUID: hostID(1), Hostname: "cn1", Status: "unknown"}))
	a := s.get("/vms", "state=running&fields=state,zone_state&limit=1&server_uuid="+hostID(1).String())
	require.JSONEq(t, `[{"state":"unknown","zone_state":"running"}]`, a.body)
}

func TestDeltaPollFindsWhatWasWrittenSince(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	s := start(t, Options{Clock: func() time.Time { return now }}, twelve()...)
	now = now.Add(time.Minute)
	require.NoError(t, s.SetTags(vmID(3), map[string]any{"role": "db"}))
	require.NoError(t, s.Destroy(vmID(9)))
	require.Equal(t, []int{9, 3}, s.list("query=(_mtime>=1060000)"))
	require.Equal(t, []int{}, s.list("query=(_mtime>=1060001)"))
	require.Len(t, s.list("query=(_mtime>=1000000)"), 12)
}

func TestDatabaseOutage(t *testing.T) {
	s := start(t, Options{}, twelve()...)
	require.NoError(t, s.SetFaults(Fault{Mode: FaultError}))
	a := s.get("/vms", "limit=1")
	require.Equal(t, 500, a.status)
	require.NotContains(t, a.body, "code")
	a = s.get("/ping", "")
	require.Equal(t, 503, a.status)
	require.Contains(t, a.body, `"moray":"offline"`)
	require.NoError(t, s.SetFaults())
	require.Equal(t, 200, s.get("/ping", "").status)
}

func TestVersionsAndFormatsThatAreRefused(t *testing.T) {
	s := start(t, Options{}, twelve()...)
	for header, want := range map[[2]string]int{
		{"Accept-Version", "~1"}: 400, {"Accept-Version", "8"}: 400, {"Accept-Version", "*"}: 200, {"Accept-Version", "~9"}: 200,
		{"Accept", "text/html"}: 406, {"Accept", "application/json"}: 200, {"Accept", "*/*"}: 200,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/vms?limit=1", nil)
		require.NoError(t, err)
		req.Header.Set(header[0], header[1])
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, want, resp.StatusCode, header)
	}
}
