package collectors_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/collectors"
)

func TestAHostsPolicyDeniesCollectors(t *testing.T) {
	registry := collectors.New(collectors.Options{Allowed: []string{"zfs", "kstat"}})
	require.Equal(t, []string{"kstat", "zfs"}, registry.Collectors(t.Context()))
	_, err := registry.Open(t.Context(), collectors.Request{ID: "x", Definition: definition(t, "unix.processes"), WholeHost: true})
	var refusal *collectors.Error
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, collectors.Denied, refusal.Code)
	require.Contains(t, refusal.Message, "the policy of this host does not allow procfs")
	registry = collectors.New(collectors.Options{})
	require.Equal(t, []string{"kstat", "procfs", "zfs"}, registry.Collectors(t.Context()), "without a policy all that there are")
	p, err := registry.Open(t.Context(), collectors.Request{ID: "x", Definition: definition(t, "unix.processes"), WholeHost: true})
	require.NoError(t, err)
	require.NoError(t, p.Close())
}
