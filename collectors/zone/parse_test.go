package zone

import (
	"os"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func FuzzParseContainers(f *testing.F) {
	text, err := os.ReadFile("testdata/containers.json")
	require.NoError(f, err)
	f.Add(text)
	f.Add([]byte(`[{"Id":"x"}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := parseContainers(text, "docker")
		if err != nil {
			require.Nil(t, list)
		}
		for _, c := range list {
			require.Len(t, c.id, 64)
			require.Equal(t, uuid.NewSHA1(Namespace, []byte(c.id)), c.uuid)
		}
	})
}

func FuzzParseInstances(f *testing.F) {
	f.Add([]byte(`{"metadata":[{"name":"web","project":"default","type":"container","status":"Running","config":{"volatile.uuid":"0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0","user.role":"front"}}]}`))
	f.Add([]byte(`{"metadata":[{"config":null}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := parseInstances(text)
		if err != nil {
			require.Nil(t, list)
		}
		for _, c := range list {
			require.Equal(t, "lxc", c.runtime)
		}
	})
}

func FuzzParseBundle(f *testing.F) {
	f.Add([]byte(`{"annotations":{"io.kubernetes.cri.container-name":"app"},"linux":{"cgroupsPath":"/kubepods/pod1/x"}}`))
	f.Add([]byte(`{"annotations":{"nerdctl/labels":"{\"role\":\"db\"}"},"linux":{"cgroupsPath":"system.slice:nerdctl:x"}}`))
	f.Add([]byte(`{"linux":{"cgroupsPath":"/../.."}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := parseBundle(text, "default", "job")
		if err != nil {
			return
		}
		require.NotEqual(t, uuid.Nil, l.uuid)
		require.NotEqual(t, "/", l.cgroup)
		if strings.HasPrefix(l.cgroup, "/") {
			require.NotContains(t, l.cgroup+"/", "/../")
		}
	})
}

func FuzzParseDomain(f *testing.F) {
	f.Add([]byte("<domstatus state='running' pid='7'><domain type='kvm'><name>db</name><uuid>0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0</uuid></domain></domstatus>"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if l, err := parseDomain(text); err == nil {
			require.NotEmpty(t, l.id)
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
