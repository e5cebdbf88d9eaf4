package zone_test

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/collectors/zone"
)

// busybox is a shell that runs in a root without anything else.
const busybox = "/bin/busybox"

// emptyRoot makes the root of a container: a shell, and the directories that runtimes mount on.
func emptyRoot(t *testing.T, dir string) {
	t.Helper()
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Skip("this needs " + busybox)
	}
	f, err := elf.NewFile(bytes.NewReader(program))
	require.NoError(t, err)
	if libraries, err := f.ImportedLibraries(); err != nil || len(libraries) > 0 {
		t.Skip("this needs a busybox that is linked statically")
	}
	for _, d := range []string{"bin", "sbin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	write(t, filepath.Join(dir, "bin/busybox"), string(program))
	write(t, filepath.Join(dir, "sbin/init"), "#!/bin/sh\n"+busy+"\n")
	write(t, filepath.Join(dir, "etc/os-release"), "ID=test\n")
	write(t, filepath.Join(dir, "etc/machine-id"), "0f1e2d3c4b5a49788796a5b4c3d2e1aa\n")
	for _, file := range []string{"bin/busybox", "sbin/init"} {
		require.NoError(t, os.Chmod(filepath.Join(dir, file), 0o755))
	}
	for _, link := range []string{"sh", "sleep"} {
		require.NoError(t, os.Symlink("busybox", filepath.Join(dir, "bin", link)))
	}
}

// archive packs a directory, with files before it.
func archive(t *testing.T, dir, file string, before map[string]string) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range before {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}))
		_, err := w.Write([]byte(text))
		require.NoError(t, err)
	}
	require.NoError(t, w.AddFS(os.DirFS(dir)))
	require.NoError(t, w.Close())
	write(t, file, b.String())
}

// lxcConfig configures a container of LXC's in a directory of its own.
func lxcConfig(t *testing.T, dir, name string) {
	t.Helper()
	emptyRoot(t, filepath.Join(dir, "root"))
	write(t, filepath.Join(dir, name, "config"), fmt.Sprintf(
		"lxc.rootfs.path = dir:%s/root\nlxc.uts.name = %s\nlxc.net.0.type = empty\nlxc.apparmor.profile = unconfined\nlxc.mount.auto = proc:mixed\n", dir, name))
}

func TestContainersOfARealLXCAreZones(t *testing.T) {
	needToProve(t, "lxc-start", "lxc-stop")
	tidy(t, "/lxc.pivot")
	dir, name := shortDir(t), "iapi"+uuid.NewString()[:8]
	lxcConfig(t, dir, name)
	r := following(t, zone.Options{})
	id := byHash("lxc:" + host.String() + ":" + name)
	start := func() { run(t, "lxc-start", "-P", dir, "-n", name, "--", "/bin/sh", "-c", busy) }
	stop := func() { try("lxc-stop", "-P", dir, "-k", "-n", name) }
	t.Cleanup(stop)

	start()
	z := becomes(t, r, id, zone.Running)
	require.Equal(t, []string{"lxc", name, "/lxc.payload." + name}, []string{z.Runtime, z.Alias, z.Cgroups.Path})
	isBusy(t, r, z, 0)
	stop()
	becomes(t, r, id, "")

	// A cgroup that was left behind takes nothing from the container that comes after it.
	layout, err := zone.ReadLayout("/sys/fs/cgroup")
	require.NoError(t, err)
	if layout.Unified == "" {
		return
	}
	left := filepath.Join(layout.Unified, "lxc.payload."+name)
	require.NoError(t, os.MkdirAll(filepath.Join(left, "inner"), 0o755))
	t.Cleanup(func() {
		_ = os.Remove(filepath.Join(left, "inner"))
		_ = os.Remove(left)
	})
	becomes(t, r, id, zone.Stopped)
	start()
	z = becomes(t, r, id, zone.Running)
	require.Equal(t, "/lxc.payload."+name+"-1", z.Cgroups.Path)
	isBusy(t, r, z, 0)
	stop()
	becomes(t, r, id, zone.Stopped)
}

func TestContainersOfARealLXDAreZones(t *testing.T) {
	needToProve(t, "lxd", "lxc")
	tidy(t, "/lxc.pivot")
	dir := shortDir(t)
	lxd, image := filepath.Join(dir, "lxd"), filepath.Join(dir, "image")
	emptyRoot(t, filepath.Join(image, "rootfs"))
	archive(t, image, filepath.Join(dir, "image.tar"), map[string]string{"metadata.yaml": "architecture: x86_64\ncreation_date: 1700000000\n"})
	env := []string{"LXD_DIR=" + lxd, "HOME=" + dir}
	require.NoError(t, os.Mkdir(lxd, 0o711))
	for _, e := range env {
		key, value, _ := strings.Cut(e, "=")
		t.Setenv(key, value)
	}
	t.Cleanup(func() { try("sh", "-c", `grep -o " $LXD_DIR/[^ ]*" /proc/mounts | sort -r | xargs -r -n 1 umount -l`) })
	daemon(t, nil, "lxd", "--group", "root")
	t.Cleanup(func() { try("lxd", "shutdown", "--timeout", "20") })
	require.True(t, wait(func() bool { return exec.Command("lxc", "info").Run() == nil }))
	run(t, "lxc", "storage", "create", "default", "dir")
	run(t, "lxc", "profile", "device", "add", "default", "root", "disk", "path=/", "pool=default")
	run(t, "lxc", "image", "import", filepath.Join(dir, "image.tar"), "--alias", "busy")
	run(t, "lxc", "project", "create", "shop", "-c", "features.images=false", "-c", "features.profiles=false")

	r := following(t, zone.Options{LXD: []string{filepath.Join(lxd, "unix.socket")}})
	name := "iapi" + uuid.NewString()[:8]
	for _, project := range []string{"default", "shop"} {
		in := "--project=" + project
		t.Cleanup(func() { try("lxc", "delete", "-f", in, name) })
		run(t, "lxc", "launch", "busy", name, in, "-c", "security.privileged=true", "-c", "user.role=front", "-c", "user.owner=mallory")
		id := uuid.MustParse(run(t, "lxc", "config", "get", in, name, "volatile.uuid"))
		z := becomes(t, r, id, zone.Running)
		require.Equal(t, []string{"lxc", name}, []string{z.Runtime, z.Alias})
		require.Equal(t, "front mallory", z.Tags["role"]+" "+z.Tags["owner"])
		isBusy(t, r, z, 0)
		run(t, "lxc", "stop", "-f", in, name)
		becomes(t, r, id, zone.Stopped)
		run(t, "lxc", "delete", "-f", in, name)
		becomes(t, r, id, "")
	}
}

func TestMachinesOfARealLibvirtAreZones(t *testing.T) {
	needToProve(t, "libvirtd", "virtlogd", "virsh", "qemu-system-x86_64")
	virsh := func(args ...string) string {
		return run(t, "virsh", append([]string{"-q", "-c", "qemu:///system"}, args...)...)
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		run(t, "systemctl", "start", "virtlogd", "libvirtd")
	} else if exec.Command("virsh", "-q", "-c", "qemu:///system", "version").Run() != nil {
		tidy(t, "/machine")
		daemon(t, nil, "virtlogd")
		daemon(t, nil, "libvirtd")
		require.True(t, wait(func() bool { return exec.Command("virsh", "-q", "-c", "qemu:///system", "version").Run() == nil }))
	}
	r := following(t, zone.Options{})
	for i, name := range []string{"iapi-test.db", "iapi_test näme", "ü_ü"} {
		id := uuid.New()
		file := filepath.Join(t.TempDir(), "domain.xml")
		write(t, file, `<domain type='qemu'><name>`+name+`</name><uuid>`+id.String()+`</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>
			<os><type arch='x86_64' machine='pc'>hvm</type></os><seclabel type='none'/>
			<devices><emulator>/usr/bin/qemu-system-x86_64</emulator><console type='null'/></devices></domain>`)
		t.Cleanup(func() { try("virsh", "-q", "-c", "qemu:///system", "destroy", id.String()) })
		virsh("create", file)
		z := becomes(t, r, id, zone.Running)
		require.True(t, wait(func() bool { z, _ = r.Lookup(id); return !z.Cgroups.IsZero() && len(processesOf(t, z)) == 1 }), "%+v", z)
		require.Equal(t, []any{"libvirt", name, name}, []any{z.Runtime, z.ID, z.Alias}, i)
		require.Equal(t, processesOf(t, z), []int{z.InitPID})
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", z.InitPID))
		require.NoError(t, err)
		require.Contains(t, string(text), id.String())
		virsh("destroy", id.String())
		becomes(t, r, id, "")
	}
}

func TestContainersOfARealPodmanAreZones(t *testing.T) {
	needToProve(t, "podman")
	tidy(t, "/libpod_parent/conmon", "/libpod_parent")
	dir := shortDir(t)
	emptyRoot(t, filepath.Join(dir, "root"))
	archive(t, filepath.Join(dir, "root"), filepath.Join(dir, "image.tar"), nil)
	name := "iapi" + uuid.NewString()[:8]
	podman := func(args ...string) string {
		return run(t, "podman", append([]string{"--root", dir + "/store", "--runroot", dir + "/run", "--tmpdir", dir + "/tmp"}, args...)...)
	}
	t.Cleanup(func() { try("sh", "-c", "grep -o ' "+dir+"/[^ ]*' /proc/mounts | sort -r | xargs -r -n 1 umount -l") })
	podman("import", "-q", filepath.Join(dir, "image.tar"), "localhost/"+name)
	socket := filepath.Join(dir, "podman.sock")
	daemon(t, nil, "podman", "--root", dir+"/store", "--runroot", dir+"/run", "--tmpdir", dir+"/tmp", "system", "service", "-t", "0", "unix://"+socket)
	t.Cleanup(func() {
		try("podman", "--root", dir+"/store", "--runroot", dir+"/run", "--tmpdir", dir+"/tmp", "rm", "-f", "-t", "0", name)
	})

	r := following(t, zone.Options{Sockets: []string{socket}})
	id := byHash(podman("run", "-d", "--name", name, "-l", "role=front", "--network", "none", "--ulimit", "nofile=64:64", "--ulimit", "nproc=64:64", "localhost/"+name, "/bin/sh", "-c", busy))
	z := becomes(t, r, id, zone.Running)
	require.Equal(t, []string{"podman", name, "front"}, []string{z.Runtime, z.Alias, z.Tags["role"]})
	isBusy(t, r, z, 0)
	podman("kill", name)
	becomes(t, r, id, zone.Stopped)
	podman("rm", name)
	becomes(t, r, id, "")
}

func TestContainersOfARealNspawnAreZones(t *testing.T) {
	needToProve(t, "systemd-nspawn", "machinectl")
	needSystemd(t)
	name := "iapi" + uuid.NewString()[:8]
	dir := filepath.Join("/var/lib/machines", name)
	t.Cleanup(func() { _ = os.RemoveAll(dir); _ = os.RemoveAll("/etc/systemd/nspawn/" + name + ".nspawn") })
	emptyRoot(t, dir)
	write(t, "/etc/systemd/nspawn/"+name+".nspawn", "[Exec]\nBoot=no\nProcessTwo=yes\nPrivateUsers=no\nParameters=/bin/sh /sbin/init\n[Network]\nPrivate=no\nVirtualEthernet=no\n")
	r := following(t, zone.Options{})
	named := func(name string) uuid.UUID { return byHash("nspawn:" + host.String() + ":" + name) }

	// One by its unit, and a copy of it, which has the same /etc/machine-id, beside it.
	t.Cleanup(func() { try("machinectl", "terminate", name); try("machinectl", "terminate", name+"-2") })
	run(t, "machinectl", "start", name)
	daemon(t, nil, "systemd-nspawn", "-q", "-M", name+"-2", "-D", dir, "--ephemeral", "-a", "/bin/sh", "/sbin/init")
	for _, m := range []string{name, name + "-2"} {
		require.True(t, wait(func() bool { z, _ := r.Lookup(named(m)); return strings.HasSuffix(z.Cgroups.Path, "/payload") }), m)
		z := becomes(t, r, named(m), zone.Running)
		require.Equal(t, []string{"nspawn", m}, []string{z.Runtime, z.Alias})
		isBusy(t, r, z, 1) // nspawn's stub init
	}
	run(t, "machinectl", "terminate", name)
	becomes(t, r, named(name), "")
	becomes(t, r, named(name+"-2"), zone.Running)
	run(t, "machinectl", "terminate", name+"-2")
	becomes(t, r, named(name+"-2"), "")
}

func TestServicesOfARealSystemdAreZones(t *testing.T) {
	needToProve(t, "systemctl", "systemd-run")
	needSystemd(t)
	r := following(t, zone.Options{Units: []string{"iapi-test@*.service"}})
	for _, properties := range [][]string{nil, {"-p", "Slice=iapi-jobs.slice"}, {"-p", "DynamicUser=yes"}} {
		unit := "iapi-test@" + uuid.NewString()[:8] + ".service"
		t.Cleanup(func() { try("systemctl", "stop", unit) })
		run(t, "systemd-run", append(append([]string{"-q", "--unit", unit}, properties...), "/bin/sh", "-c", busy)...)
		id := byHash("systemd:" + host.String() + ":" + unit)
		z := becomes(t, r, id, zone.Running)
		require.Equal(t, []string{"systemd", unit, unit}, []string{z.Runtime, z.ID, z.Alias})
		isBusy(t, r, z, 0)
		run(t, "systemctl", "stop", unit)
		becomes(t, r, id, "")
	}
}

func TestContainersOfARealKubernetesRuntimeAreZones(t *testing.T) {
	needToProve(t, "containerd", "ctr")
	_, err := os.Stat("/run/systemd/system")
	bySystemd := err == nil
	socket, runs := startContainerd(t, "", fmt.Sprintf(`[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/iapi/busy:1"
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = %t`, bySystemd))
	dir := t.TempDir()
	emptyRoot(t, filepath.Join(dir, "root"))
	importImage(t, socket, filepath.Join(dir, "root"), "iapi/busy:1")
	pod := uuid.New().String()
	parent := "/kubepods/burstable/pod" + pod
	if bySystemd {
		parent = "kubepods-burstable-pod" + strings.ReplaceAll(pod, "-", "_") + ".slice"
	} else {
		tidy(t, parent, "/kubepods/burstable", "/kubepods")
	}
	r := following(t, zone.Options{Run: runs})
	cri := dialCRI(t, socket)
	sandbox, container := cri.runPod(t, pod, parent, "docker.io/iapi/busy:1")

	z := becomes(t, r, byHash(container), zone.Running)
	require.Equal(t, []string{"kubernetes", "app"}, []string{z.Runtime, z.Alias})
	require.Equal(t, map[string]string{"container-type": "container", "container": "app", "pod": pod, "pod-name": "web", "namespace": "shop"}, z.Tags)
	isBusy(t, r, z, 0)
	z = becomes(t, r, byHash(sandbox), zone.Running)
	require.Equal(t, map[string]string{"container-type": "sandbox", "pod": pod, "pod-name": "web", "namespace": "shop"}, z.Tags)
	cri.stopPod(t, sandbox)
	becomes(t, r, byHash(container), "")
	becomes(t, r, byHash(sandbox), "")
}

// importImage makes an image of a root alone.
func importImage(t *testing.T, socket, root, name string) {
	t.Helper()
	dir := t.TempDir()
	layer := filepath.Join(dir, "layer.tar")
	archive(t, root, layer, nil)
	config, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"/bin/sleep", "3600"}, "Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum(t, layer)}}})
	require.NoError(t, err)
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "image.tar")
	archive(t, dir, file, map[string]string{"manifest.json": string(manifest), "config.json": string(config)})
	run(t, "ctr", "-a", socket, "-n", "k8s.io", "image", "import", file)
}
