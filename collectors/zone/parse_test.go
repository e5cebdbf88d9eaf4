package zone

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzParseContainers(f *testing.F) {
	text, err := os.ReadFile("testdata/containers.json")
	require.NoError(f, err)
	f.Add(text)
	f.Add([]byte(`[{"Id":"x"}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := parseContainers(text)
		if err != nil {
			require.Nil(t, list)
		}
		for _, c := range list {
			require.Len(t, c.ID, 64)
			if len(c.Names) == 0 {
				require.Equal(t, c.ID[:12], c.alias())
			}
		}
	})
}

func FuzzParseMachine(f *testing.F) {
	f.Add([]byte("NAME=a\nSCOPE=machine-a.scope\nID=0f1e2d3c4b5a69788796a5b4c3d2e1f0\nLEADER=12\nCLASS=vm\n"))
	f.Add([]byte("SCOPE=../../etc\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, ok := parseMachine(text)
		if ok {
			require.NotEmpty(t, m.unit)
			require.NotContains(t, m.unit, "/")
		}
		require.GreaterOrEqual(t, m.leader, 0)
	})
}

func FuzzParseStatic(f *testing.F) {
	f.Add([]byte(`{"11111111-2222-3333-4444-555555555555":{"cgroup":"/a","owner":"11111111-2222-3333-4444-555555555555"}}`))
	f.Add([]byte(`{"11111111-2222-3333-4444-555555555555":{"cgroup":"/.."}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := parseStatic(text)
		if err != nil {
			return
		}
		for _, s := range all {
			require.True(t, strings.HasPrefix(s.Cgroup, "/") && len(s.Cgroup) > 1)
			require.NotContains(t, "/"+s.Cgroup+"/", "/../")
		}
	})
}

func FuzzParseZoneadm(f *testing.F) {
	text, err := os.ReadFile("testdata/zoneadm.txt")
	require.NoError(f, err)
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		zones, err := parseZoneadm(text)
		if err != nil {
			return
		}
		for _, z := range zones {
			require.NotEqual(t, "global", z.ID)
			require.Contains(t, []string{Running, Stopped}, z.State)
		}
	})
}

func FuzzRecognize(f *testing.F) {
	f.Add("/docker/" + strings.Repeat("ab", 32))
	f.Add(`/machine.slice/machine-qemu\x2d3\x2dbig.scope`)
	f.Add("/lxc.payload.web")
	f.Fuzz(func(t *testing.T, rel string) {
		m, ok := recognize(rel)
		if ok {
			require.NotEmpty(t, m.runtime)
			require.NotEmpty(t, m.id)
			require.True(t, m.local || isContainerID(m.id))
		}
		_ = unescapeUnit(rel)
	})
}
