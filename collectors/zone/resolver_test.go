package zone_test

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/collectors/zone"
)

var (
	hexA = strings.Repeat("a1", 32)
	hexB = strings.Repeat("b2", 32)
	hexC = strings.Repeat("c3", 32)
	hexD = strings.Repeat("d4", 32)
	host = uuid.MustParse("11111111-2222-3333-4444-555555555555")
)

func byHash(name string) uuid.UUID { return uuid.NewSHA1(zone.Namespace, []byte(name)) }

// tree makes a tree of cgroups with the files that tell it is one.
func tree(t *testing.T, root string, v2 bool, paths ...string) {
	t.Helper()
	for _, p := range append(paths, "/") {
		dir := filepath.Join(root, p)
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), nil, 0o644))
	}
	if v2 {
		require.NoError(t, os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte("cpu memory pids\n"), 0o644))
	}
}

func resolver(t *testing.T, o zone.Options) *zone.Resolver {
	t.Helper()
	if o.Sockets == nil {
		o.Sockets = []string{}
	}
	if o.LXD == nil {
		o.LXD = []string{}
	}
	if o.Run == "" {
		o.Run = t.TempDir()
	}
	o.Host = host
	r, err := zone.New(o)
	require.NoError(t, err)
	return r
}

func TestEveryRuntimesCgroupsAreRecognised(t *testing.T) {
	root := t.TempDir()
	tree(t, root, true,
		"/docker/"+hexA,
		"/system.slice/docker-"+hexB+".scope",
		"/system.slice/ssh.service",
		"/machine.slice/libpod-"+hexC+".scope",
		"/machine.slice/libpod-conmon-"+hexC+".scope",
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b2c3d_0000_4000_8000_000000000001.slice/cri-containerd-"+hexD+".scope",
		"/kubepods/besteffort/pod0a1b2c3d-0000-4000-8000-000000000002/"+strings.Repeat("e5", 32),
		"/lxc.payload.web",
		"/lxc.monitor.web",
		"/lxc/101",
		"/qemu.slice/102.scope",
		`/machine.slice/machine-qemu\x2d3\x2dbig\x2ddb.scope/libvirt/emulator`,
		"/machine.slice/systemd-nspawn@deb.service/payload",
		"/docker/"+hexA+"/docker/"+hexB, // made inside a container: no zone of its own
		"/docker/notahexid",
	)
	zones, err := resolver(t, zone.Options{Cgroup: root, Proc: t.TempDir()}).List(t.Context())
	require.NoError(t, err)
	type short struct{ runtime, id, alias string }
	got := map[uuid.UUID]short{}
	for _, z := range zones {
		require.True(t, z.IsRunning())
		require.Equal(t, filepath.Join(root, z.Cgroups.Path), z.Cgroups.Unified)
		require.NotEmpty(t, z.Cgroups.IDs)
		got[z.UUID] = short{z.Runtime, z.ID, z.Alias}
	}
	hexE := strings.Repeat("e5", 32)
	require.Equal(t, map[uuid.UUID]short{
		byHash(hexA):                            {"docker", hexA, hexA[:12]},
		byHash(hexB):                            {"docker", hexB, hexB[:12]},
		byHash(hexC):                            {"podman", hexC, hexC[:12]},
		byHash(hexD):                            {"kubernetes", hexD, hexD[:12]},
		byHash(hexE):                            {"kubernetes", hexE, hexE[:12]},
		byHash("lxc:" + host.String() + ":web"): {"lxc", "web", "web"},
		byHash("lxc:" + host.String() + ":101"): {"lxc", "101", "101"},
		byHash("proxmox:" + host.String() + ":102"):    {"proxmox", "102", "102"},
		byHash("libvirt:" + host.String() + ":big-db"): {"libvirt", "big-db", "big-db"},
		byHash("nspawn:" + host.String() + ":deb"):     {"nspawn", "deb", "deb"},
	}, got)
	for _, z := range zones {
		switch z.ID {
		case hexD:
			require.Equal(t, "0a1b2c3d-0000-4000-8000-000000000001", z.Tags["pod"])
		case hexA:
			require.Len(t, z.Cgroups.IDs, 3, "the whole subtree's ids")
		}
	}
}

func TestRecordsOfMachinedGiveTheUUID(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	unit := `machine-qemu\x2d1\x2dvm7.scope`
	tree(t, root, true, "/machine.slice/"+unit)
	require.NoError(t, os.MkdirAll(filepath.Join(run, "systemd/machines"), 0o755))
	record := "# This is private data. Do not parse.\nNAME=qemu-1-vm7\nSCOPE=" + strings.ReplaceAll(unit, `\`, `\\`) +
		"\nSERVICE=libvirt-qemu\nID=0f1e2d3c4b5a69788796a5b4c3d2e1f0\nLEADER=" + "4242\nCLASS=vm\nREALTIME=1\n"
	require.NoError(t, os.WriteFile(filepath.Join(run, "systemd/machines/qemu-1-vm7"), []byte(record), 0o644))
	require.NoError(t, os.Symlink("qemu-1-vm7", filepath.Join(run, "systemd/machines/unit:"+unit)))

	zones, err := resolver(t, zone.Options{Cgroup: root, Run: run, Proc: t.TempDir()}).List(t.Context())
	require.NoError(t, err)
	require.Len(t, zones, 1)
	require.Equal(t, uuid.MustParse("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"), zones[0].UUID)
	require.Equal(t, "libvirt", zones[0].Runtime)
	require.Equal(t, "qemu-1-vm7", zones[0].Alias)
}

func TestVersion1TreesAreJoinedByPath(t *testing.T) {
	root := t.TempDir()
	for _, c := range []string{"cpu,cpuacct", "memory", "systemd"} {
		tree(t, filepath.Join(root, c), false, "/docker/"+hexA)
	}
	require.NoError(t, os.Symlink("cpu,cpuacct", filepath.Join(root, "cpu")))
	require.NoError(t, os.Symlink("cpu,cpuacct", filepath.Join(root, "cpuacct")))
	tree(t, filepath.Join(root, "pids"), false)

	layout, err := zone.ReadLayout(root)
	require.NoError(t, err)
	require.Equal(t, zone.V1, layout.Mode)
	zones, err := resolver(t, zone.Options{Cgroup: root, Proc: t.TempDir()}).List(t.Context())
	require.NoError(t, err)
	require.Len(t, zones, 1)
	require.Equal(t, map[string]string{
		"cpu":     filepath.Join(root, "cpu,cpuacct/docker", hexA),
		"cpuacct": filepath.Join(root, "cpu,cpuacct/docker", hexA),
		"memory":  filepath.Join(root, "memory/docker", hexA),
		"systemd": filepath.Join(root, "systemd/docker", hexA),
	}, zones[0].Cgroups.V1)
	require.Empty(t, zones[0].Cgroups.Unified)
}

// fakeDocker answers on a unix socket as Docker does, with what answer gives.
func fakeDocker(t *testing.T, answer func(http.ResponseWriter)) string {
	return fakeDaemon(t, "/containers/json?all=1", answer)
}

func TestTheDockerAPIAddsNamesLabelsAndStoppedContainers(t *testing.T) {
	root := t.TempDir()
	tree(t, root, true, "/docker/"+hexA, "/special/"+hexC, "/other/"+hexD)
	recorded, err := os.ReadFile("testdata/containers.json")
	require.NoError(t, err)
	broken := false
	socket := fakeDocker(t, func(w http.ResponseWriter) {
		if broken {
			http.Error(w, "the daemon is confused", http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(recorded)
	})
	owner := uuid.New()
	r := resolver(t, zone.Options{Cgroup: root, Proc: t.TempDir(), Sockets: []string{socket}, Owner: zone.FixedOwner(owner)})
	check := func() {
		zones, err := r.List(t.Context())
		require.NoError(t, err)
		require.Len(t, zones, 3)
		web, ok := r.Lookup(byHash(hexA))
		require.True(t, ok)
		require.Equal(t, "web", web.Alias)
		require.Equal(t, map[string]string{"role": "front", "owner": "mallory"}, web.Tags)
		require.Equal(t, owner, web.Owner, "never from a label")
		require.True(t, web.IsRunning())
		batch, ok := r.Lookup(byHash(hexB))
		require.True(t, ok)
		require.Equal(t, zone.Stopped, batch.State)
		require.True(t, batch.Cgroups.IsZero())
		special, ok := r.Lookup(byHash(hexC))
		require.True(t, ok, "its cgroup parent is its own choice, but the runtime vouches for the id")
		require.Equal(t, filepath.Join(root, "special", hexC), special.Cgroups.Unified)
		_, ok = r.Lookup(byHash(hexD))
		require.False(t, ok, "nobody vouches for it")
	}
	require.NoError(t, r.Refresh(t.Context()))
	check()

	broken = true
	require.ErrorContains(t, r.Refresh(t.Context()), "500")
	check() // an error takes nothing away
}

func TestARuntimeThatHangsDelaysNothingForLong(t *testing.T) {
	socket := fakeDocker(t, func(w http.ResponseWriter) { <-t.Context().Done() })
	r := resolver(t, zone.Options{Cgroup: t.TempDir(), Sockets: []string{socket}})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, r.Refresh(ctx), context.DeadlineExceeded)
}

func TestStaticZones(t *testing.T) {
	root := t.TempDir()
	tree(t, root, true, "/machine/one", "/docker/"+hexA)
	one, two, over, owner := uuid.New(), uuid.New(), uuid.New(), uuid.New()
	file := filepath.Join(t.TempDir(), "zones.json")
	write := func(v any) {
		text, err := json.Marshal(v)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, text, 0o644))
	}
	write(map[uuid.UUID]any{
		one:  map[string]any{"cgroup": "/machine/one", "owner": owner, "alias": "first"},
		two:  map[string]any{"cgroup": "/machine/two"},
		over: map[string]any{"cgroup": "/docker/" + hexA},
	})
	r := resolver(t, zone.Options{Cgroup: root, Static: file, Proc: t.TempDir()})
	require.NoError(t, r.Refresh(t.Context()))
	z, ok := r.Lookup(one)
	require.True(t, ok)
	require.Equal(t, zone.Zone{
		UUID: one, Owner: owner, ID: "/machine/one", Alias: "first", Runtime: "static", State: zone.Running, Cgroups: z.Cgroups,
	}, z)
	z, ok = r.Lookup(two)
	require.True(t, ok)
	require.False(t, z.IsRunning())
	_, ok = r.Lookup(over)
	require.True(t, ok)
	_, ok = r.Lookup(byHash(hexA))
	require.False(t, ok, "the operator's name replaces the runtime's")

	require.NoError(t, os.WriteFile(file, []byte("{"), 0o644))
	require.Error(t, r.Refresh(t.Context()))
	_, ok = r.Lookup(one)
	require.True(t, ok, "an unreadable file takes nothing away")

	for field, bad := range map[string]any{
		"cgroup":  map[uuid.UUID]any{one: map[string]any{"cgroup": "/a/../../etc"}},
		"clean":   map[uuid.UUID]any{one: map[string]any{"cgroup": "relative"}},
		"root":    map[uuid.UUID]any{one: map[string]any{"cgroup": "/"}},
		"both":    map[uuid.UUID]any{one: map[string]any{"cgroup": "/x"}, two: map[string]any{"cgroup": "/x"}},
		"unknown": map[uuid.UUID]any{one: map[string]any{"cgroup": "/x", "path": "/y"}},
	} {
		write(bad)
		require.ErrorContains(t, r.Refresh(t.Context()), field)
	}
}

func TestZonesOfSmartOS(t *testing.T) {
	recorded, err := filepath.Abs("testdata/zoneadm.txt")
	require.NoError(t, err)
	command := filepath.Join(t.TempDir(), "zoneadm")
	script := "#!/bin/sh\n[ \"$*\" = 'list -cp' ] || exit 2\ncat " + recorded + "\n"
	require.NoError(t, os.WriteFile(command, []byte(script), 0o755))
	zones, err := resolver(t, zone.Options{Cgroup: filepath.Join(t.TempDir(), "none"), Zoneadm: command}).List(t.Context())
	require.NoError(t, err)
	states := map[string]string{}
	for _, z := range zones {
		states[z.UUID.String()] = z.State + " " + z.Tags["brand"]
	}
	require.Equal(t, map[string]string{
		"2f1dc911-6401-4fa4-8e9d-67ea2e39c271": "running joyent-minimal",
		"4b5a4f7c-0a1a-4e7d-a4a8-5a2f8d6b1c3e": "stopped bhyve",
		"7a3f1c52-9c1e-c0de-b3d1-8f6f5d3e2a10": "running lx",
	}, states)
}

func TestAMachineWithoutCgroupsHasNoZones(t *testing.T) {
	zones, err := resolver(t, zone.Options{Cgroup: filepath.Join(t.TempDir(), "none")}).List(t.Context())
	require.NoError(t, err)
	require.Empty(t, zones)
}
