package vmapitest

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestServersAsCNAPIDoes(t *testing.T) {
	s := start(t, Options{})
	require.NoError(t, s.PutHost(Host{UUID: hostID(4), Hostname: "new", NotSetUp: true, Traits: map[string]any{"ssd": true, "n": 1}}))
	require.JSONEq(t, fmt.Sprintf(`[{"uuid":%q,"hostname":"cn2"},{"uuid":%q,"hostname":"cn3"}]`, hostID(2), hostID(3)),
		s.get("/servers", "setup=true&fields=uuid,hostname&offset=1&limit=1000").body)
	require.JSONEq(t, `[{"traits":{"ssd":true,"n":1},"status":"running"}]`, s.get("/servers", "hostname=new&fields=traits,status").body)
	require.JSONEq(t, `[]`, s.get("/servers", "offset=9").body)
	require.Contains(t, s.get("/servers/"+hostID(1).String(), "").body, `"datacenter":"coal"`)
	for query, want := range map[string]struct {
		status int
		code   string
	}{
		"bogus=1":    {409, "InvalidArgument"},
		"setup=yes":  {500, "InvalidParameters"},
		"limit=x":    {500, "InvalidParameters"},
		"limit=1001": {400, "InvalidParameters"},
		"limit=0":    {400, "InvalidParameters"},
	} {
		a := s.get("/servers", query)
		require.Equal(t, want.status, a.status, query)
		require.Contains(t, a.body, want.code, query)
	}
	require.Equal(t, 404, s.get("/servers/"+hostID(99).String(), "").status)
	require.NoError(t, s.RemoveHost(hostID(1)))
	require.Equal(t, 404, s.get("/servers/"+hostID(1).String(), "").status)
}
