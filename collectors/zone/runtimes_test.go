package zone_test

import (
	"context"
	"net"
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

// fakeDaemon answers one question on a unix socket, as a runtime's daemon does.
func fakeDaemon(t *testing.T, uri string, answer func(http.ResponseWriter)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "iapi") // a socket's path must be short
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "daemon.sock")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.RequestURI() != uri {
			http.Error(w, "unexpected request", http.StatusBadRequest)
			return
		}
		answer(w)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return socket
}

func write(t *testing.T, file, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
}

func TestLXDAndIncusGiveTheirOwnUUIDsAndTags(t *testing.T) {
	root := t.TempDir()
	tree(t, root, true, "/lxc.payload.web", "/lxc.payload.shop_web", "/lxc.payload.unlisted")
	web, shop, stopped := uuid.New(), uuid.New(), uuid.New()
	socket := fakeDaemon(t, "/1.0/instances?recursion=1&all-projects=true", func(w http.ResponseWriter) {
		_, _ = w.Write([]byte(`{"type":"sync","status_code":200,"metadata":[
			{"name":"web","project":"default","type":"container","status":"Running","config":{"volatile.uuid":"` + web.String() + `","user.role":"front","user.owner":"mallory"}},
			{"name":"web","project":"shop","type":"container","status":"Frozen","config":{"volatile.uuid":"` + shop.String() + `"}},
			{"name":"old","project":"default","type":"container","status":"Stopped","config":{"volatile.uuid":"` + stopped.String() + `"}},
			{"name":"new","project":"default","type":"container","status":"Stopped","config":{}},
			{"name":"win","project":"default","type":"virtual-machine","status":"Running","config":{"volatile.uuid":"` + uuid.NewString() + `"}}]}`))
	})
	owner := uuid.New()
	zones, err := resolver(t, zone.Options{Cgroup: root, Proc: t.TempDir(), LXD: []string{socket}, Owner: zone.FixedOwner(owner)}).List(t.Context())
	require.NoError(t, err)
	got := map[uuid.UUID]string{}
	for _, z := range zones {
		require.Equal(t, owner, z.Owner, "never from a tag")
		got[z.UUID] = strings.Join([]string{z.Runtime, z.ID, z.Alias, z.State, z.Cgroups.Path, z.Tags["role"], z.Tags["project"]}, " ")
	}
	require.Equal(t, map[uuid.UUID]string{
		web:     "lxc web web running /lxc.payload.web front ",
		shop:    "lxc shop_web web running /lxc.payload.shop_web  shop",
		stopped: "lxc old old stopped   ",
		byHash("lxc:" + host.String() + ":unlisted"): "lxc unlisted unlisted running /lxc.payload.unlisted  ",
	}, got)
}

func TestContainerdsBundlesNameWhatItRuns(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	pod := "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b2c3d_0000_4000_8000_000000000001.slice/cri-containerd-" + hexA + ".scope"
	tree(t, root, true, pod, "/default/job", "/system.slice/nerdctl-"+hexB+".scope", "/batch.slice/own-task.scope", "/docker/"+hexC)
	tasks := filepath.Join(run, "containerd/io.containerd.runtime.v2.task")
	write(t, filepath.Join(tasks, "k8s.io", hexA, "config.json"), `{"ociVersion":"1.1.0","annotations":{"io.kubernetes.cri.container-type":"container",
		"io.kubernetes.cri.container-name":"app","io.kubernetes.cri.sandbox-name":"app-7d","io.kubernetes.cri.sandbox-namespace":"shop","unheard.of":"x"},
		"linux":{"cgroupsPath":"kubepods-burstable-pod0a1b2c3d_0000_4000_8000_000000000001.slice:cri-containerd:`+hexA+`"}}`)
	write(t, filepath.Join(tasks, "default", "job", "config.json"), `{"annotations":{"role":"front","io.containerd.x":"y"},"linux":{"cgroupsPath":"/default/job"}}`)
	write(t, filepath.Join(tasks, "default", "gone", "config.json"), `{"linux":{"cgroupsPath":"/default/gone"}}`)
	write(t, filepath.Join(tasks, "default", hexB, "config.json"), `{"annotations":{"name":"a label","nerdctl/name":"db","nerdctl/labels":"{\"role\":\"db\"}"},"linux":{"cgroupsPath":"system.slice:nerdctl:`+hexB+`"}}`)
	write(t, filepath.Join(tasks, "ci", "task", "config.json"), `{"linux":{"cgroupsPath":"batch.slice:own:task"}}`)
	write(t, filepath.Join(tasks, "moby", hexC, "config.json"), `{"annotations":{"nerdctl/name":"not docker's name"},"linux":{"cgroupsPath":"/docker/`+hexC+`"}}`)

	r := resolver(t, zone.Options{Cgroup: root, Run: run, Proc: t.TempDir()})
	require.NoError(t, r.Refresh(t.Context()))
	check := func(id uuid.UUID, runtime, alias, path string, tags map[string]string) {
		t.Helper()
		z, ok := r.Lookup(id)
		require.True(t, ok)
		require.Equal(t, []any{runtime, alias, path}, []any{z.Runtime, z.Alias, z.Cgroups.Path})
		require.Equal(t, tags, z.Tags)
	}
	check(byHash(hexA), "kubernetes", "app", pod, map[string]string{"container-type": "container", "container": "app", "pod-name": "app-7d",
		"namespace": "shop", "pod": "0a1b2c3d-0000-4000-8000-000000000001"})
	check(byHash("containerd:default:job"), "containerd", "job", "/default/job", map[string]string{"role": "front"})
	gone, ok := r.Lookup(byHash("containerd:default:gone"))
	require.True(t, ok)
	require.Equal(t, zone.Stopped, gone.State, "a bundle alone does not run")
	check(byHash(hexB), "containerd", "db", "/system.slice/nerdctl-"+hexB+".scope", map[string]string{"name": "db", "role": "db"})
	check(byHash("containerd:ci:task"), "containerd", "task", "/batch.slice/own-task.scope", map[string]string{})
	check(byHash(hexC), "docker", hexC[:12], "/docker/"+hexC, nil)

	write(t, filepath.Join(tasks, "default", "job", "config.json"), `{`)
	require.ErrorContains(t, r.Refresh(t.Context()), "job")
	_, ok = r.Lookup(byHash("containerd:default:job"))
	require.True(t, ok, "a file that cannot be read takes nothing away")
}

func TestLibvirtsStatusFilesGiveTheUUIDWithoutMachined(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	tree(t, root, true, `/machine.slice/machine-qemu\x2d3\x2dbig\x2ddb.scope`)
	id := uuid.New()
	write(t, filepath.Join(run, "libvirt/qemu/big-db.xml"), `<!-- WARNING: AUTO-GENERATED --><domstatus state='running' reason='booted' pid='4242'>
		<domain type='kvm' id='3'><name>big-db</name><uuid>`+id.String()+`</uuid></domain></domstatus>`)
	zones, err := resolver(t, zone.Options{Cgroup: root, Run: run, Proc: t.TempDir()}).List(t.Context())
	require.NoError(t, err)
	require.Len(t, zones, 1)
	require.Equal(t, id, zones[0].UUID)
	require.Equal(t, "big-db", zones[0].Alias)
	require.Equal(t, "libvirt", zones[0].Runtime)
	require.False(t, zones[0].Cgroups.IsZero())
}

func TestServicesThatTheOperatorNamesAreZones(t *testing.T) {
	root := t.TempDir()
	tree(t, root, true, "/system.slice/postgresql@15-main.service", "/system.slice/system-postgresql.slice/postgresql@16-main.service",
		"/system.slice/ssh.service", "/user.slice/user-1000.slice/postgresql@9-mine.service")
	zones, err := resolver(t, zone.Options{Cgroup: root, Proc: t.TempDir(), Units: []string{"postgresql@*.service"}}).List(t.Context())
	require.NoError(t, err)
	var ids []string
	for _, z := range zones {
		require.Equal(t, "systemd", z.Runtime)
		require.Equal(t, byHash("systemd:"+host.String()+":"+z.ID), z.UUID)
		ids = append(ids, z.ID)
	}
	require.ElementsMatch(t, []string{"postgresql@15-main.service", "postgresql@16-main.service"}, ids, "what users make themselves is none")

	_, err = zone.New(zone.Options{Units: []string{"["}})
	require.ErrorContains(t, err, "systemd")
}

// A change is seen because the kernel tells of it, long before the next interval.
func TestCgroupsThatComeAndGoAreSeenAtOnce(t *testing.T) {
	root := t.TempDir()
	tree(t, root, true, "/docker/"+hexA)
	r := resolver(t, zone.Options{Cgroup: root, Proc: t.TempDir(), Interval: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	eventually := func(what func() bool) { t.Helper(); require.Eventually(t, what, time.Minute, time.Millisecond) }
	known := func(id string) bool { _, ok := r.Lookup(byHash(id)); return ok }

	eventually(func() bool { return known(hexA) })
	tree(t, root, true, "/kubepods/besteffort/pod0a1b2c3d-0000-4000-8000-000000000002/"+hexB) // several levels at once
	eventually(func() bool { return known(hexB) })
	tree(t, root, true, "/docker/"+hexC)
	eventually(func() bool { return known(hexC) })
	tree(t, root, true, "/docker/"+hexC+"/inner")
	eventually(func() bool { z, _ := r.Lookup(byHash(hexC)); return len(z.Cgroups.IDs) == 2 })
	require.NoError(t, os.RemoveAll(filepath.Join(root, "docker", hexA)))
	eventually(func() bool { return !known(hexA) && known(hexC) })
	cancel()
	require.NoError(t, <-done)
}
