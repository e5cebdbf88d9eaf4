package vmapitest

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestControlOverHTTP(t *testing.T) {
	s := start(t, quick, twelve()...)
	call := func(method, path, body string, want int) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, want, resp.StatusCode, string(text))
		return string(text)
	}
	one := "/sim/vms/" + vmID(1).String()
	call("POST", one, `{"alias":"renamed","state":"stopped"}`, 204)
	v, _ := s.VM(vmID(1))
	require.Equal(t, "renamed", v.Alias)
	require.Equal(t, "db", v.Tags["role"], "what a POST does not name stays")
	call("PUT", one, `{"alias":"whole"}`, 204)
	v, _ = s.VM(vmID(1))
	require.Empty(t, v.Tags, "a PUT writes the VM whole")
	call("PUT", one+"/tags", `{"a":1}`, 204)
	call("DELETE", one, "", 204)
	v, _ = s.VM(vmID(1))
	require.Equal(t, "destroyed", v.State)
	require.False(t, v.Destroyed.IsZero())
	call("DELETE", "/sim/vms/"+vmID(2).String()+"?bulk=true", "", 204)
	v, _ = s.VM(vmID(2))
	require.True(t, v.Destroyed.IsZero())
	call("DELETE", "/sim/vms/"+vmID(3).String()+"?forget=true", "", 204)
	_, ok := s.VM(vmID(3))
	require.False(t, ok)

	require.Contains(t, call("PUT", one, `{"bogus":1}`, 400), "bogus: unknown key")
	require.Contains(t, call("PUT", one, `{"owner_uuid":"x"}`, 400), "owner_uuid: ")
	require.Contains(t, call("PUT", one, `{"tags":{"a":[]}}`, 400), "tags: ")
	require.Contains(t, call("PUT", "/sim/vms/x", `{}`, 400), "uuid: ")
	call("POST", "/sim/vms/"+vmID(99).String(), `{}`, 404)
	call("DELETE", "/sim/vms/"+vmID(99).String(), "", 404)

	host := "/sim/hosts/" + hostID(8).String()
	call("PUT", host, `{"hostname":"cn8","traits":{"ssd":true}}`, 204)
	call("POST", host, `{"status":"unknown"}`, 204)
	h, _ := s.Host(hostID(8))
	require.Equal(t, "unknown", h.Status)
	require.Equal(t, true, h.Traits["ssd"])
	call("DELETE", host, "", 204)

	call("PUT", "/sim/faults", `[{"mode":"error","path":"/vms","times":1}]`, 204)
	require.JSONEq(t, `[{"mode":"error","path":"/vms","times":1}]`, call("GET", "/sim/faults", "", 200))
	require.Equal(t, 500, s.get("/vms", "").status)
	require.Equal(t, 200, s.get("/vms", "").status)
	require.Contains(t, call("PUT", "/sim/faults", `[{"mode":"x"}]`, 400), "faults[0]: mode")
	call("DELETE", "/sim/faults", "", 204)
	require.Contains(t, call("POST", "/sim/generate", `{"seed":7,"hosts":2,"vms":50,"owners":3}`, 200), `"vms":61`)
	require.Contains(t, call("POST", "/sim/generate", `{"vms":50}`, 400), "hosts and owners")
	call("POST", "/sim/feeds/cut", "", 204)
	require.Contains(t, call("GET", "/sim", "", 200), "PUT    /sim/vms/UUID")
	require.Contains(t, call("GET", "/sim/stats", "", 200), `"listeners":0`)
}
