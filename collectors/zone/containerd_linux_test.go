package zone_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/collectors/zone"
)

// startContainerd starts a containerd of the test's own, and gives where it listens and where it keeps what runs.
func startContainerd(t *testing.T, settings, plugins string) (socket, runs string) {
	t.Helper()
	dir := shortDir(t)
	socket, runs = filepath.Join(dir, "c.sock"), filepath.Join(dir, "run")
	write(t, filepath.Join(dir, "config.toml"), `version = 2
`+settings+`
root = "`+dir+`/root"
state = "`+runs+`/containerd"
[grpc]
  address = "`+socket+`"
[ttrpc]
  address = "`+socket+`.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "`+dir+`/opt"
`+plugins)
	daemon(t, nil, "containerd", "--config", filepath.Join(dir, "config.toml"))
	require.True(t, wait(func() bool { return exec.Command("ctr", "-a", socket, "version").Run() == nil }), "containerd answers")
	return socket, runs
}

// A task of a real containerd is a zone from its start until it ends, measured as it should be, and its labels are tags.
func TestTasksOfARealContainerdAreZones(t *testing.T) {
	_, err := exec.LookPath("ctr")
	_, err2 := exec.LookPath("containerd")
	need(t, err == nil && err2 == nil && os.Geteuid() == 0, "root, containerd and ctr")
	socket, runs := startContainerd(t, `disabled_plugins = ["io.containerd.grpc.v1.cri"]`, "")
	r := following(t, zone.Options{Run: runs})

	namespace := filepath.Base(filepath.Dir(runs)) // runc keeps those of all containerds in one place
	root, parent := t.TempDir(), "/"+namespace
	ctl := func(args ...string) []string { return append([]string{"-a", socket, "-n", namespace}, args...) }
	ctr := func(args ...string) { run(t, "ctr", ctl(args...)...) }
	for _, link := range []string{"bin", "lib", "lib64"} {
		require.NoError(t, os.Symlink("usr/"+link, filepath.Join(root, link)))
	}
	t.Cleanup(func() {
		removeCgroups(t, parent+"/job")
		removeCgroups(t, parent)
		_ = os.Remove(filepath.Join("/run/containerd/runc", namespace))
	})
	t.Cleanup(func() { try("ctr", ctl("task", "rm", "-f", "job")...) })
	ctr("run", "-d", "--rootfs", "--cgroup", parent+"/job", "--label", "role=front", "--label", "owner=mallory",
		"--mount", "type=bind,src=/usr,dst=/usr,options=rbind:ro", root, "job", "/bin/sh", "-c", busy)
	id := byHash("containerd:" + namespace + ":job")
	z := becomes(t, r, id, zone.Running)
	require.Equal(t, []string{"containerd", "job", "job", parent + "/job"}, []string{z.Runtime, z.ID, z.Alias, z.Cgroups.Path})
	require.Equal(t, map[string]string{"role": "front", "owner": "mallory"}, z.Tags)
	isBusy(t, r, z, 0)

	ctr("task", "kill", "-s", "KILL", "job")
	becomes(t, r, id, zone.Stopped) // containerd keeps the task, and its cgroup, until somebody removes it
	ctr("task", "rm", "job")
	becomes(t, r, id, "")
}
