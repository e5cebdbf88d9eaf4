package zone_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/collectors/zone"
)

// events writes what the kernel tells of a v2 cgroup's processes.
func events(t *testing.T, dir, populated string) {
	t.Helper()
	write(t, filepath.Join(dir, "cgroup.events"), "populated "+populated+"\nfrozen 0\n")
}

// process makes a process of a /proc, with its parent and its title.
func process(t *testing.T, proc, pid, parent, title string) {
	t.Helper()
	write(t, filepath.Join(proc, pid, "stat"), pid+" (a) b) S "+parent+strings.Repeat(" 0", 17)+" 4711 0 0")
	write(t, filepath.Join(proc, pid, "cmdline"), title+"\x00")
	write(t, filepath.Join(proc, pid, "status"), "Name:\ta\nNSpid:\t"+pid+"\n")
}

func TestACgroupThatWasLeftBehindIsNoRunningZone(t *testing.T) {
	root, proc := t.TempDir(), t.TempDir()
	tree(t, root, true, "/docker/"+hexA, "/docker/"+hexB, "/docker/"+hexC)
	events(t, filepath.Join(root, "docker", hexA), "0")
	events(t, filepath.Join(root, "docker", hexB), "1")
	r := resolver(t, zone.Options{Cgroup: root, Proc: proc})
	states := func() (all []string) {
		require.NoError(t, r.Refresh(t.Context()))
		for _, id := range []string{hexA, hexB, hexC} {
			z, ok := r.Lookup(byHash(id))
			require.True(t, ok)
			require.NotEmpty(t, z.Cgroups.IDs, "what is counted in the kernel does not depend on the state")
			all = append(all, z.State)
		}
		return all
	}
	require.Equal(t, []string{zone.Stopped, zone.Running, zone.Running}, states(), "the last one tells nothing")

	events(t, filepath.Join(root, "docker", hexA), "1")
	process(t, proc, "7", "1", "sh")
	write(t, filepath.Join(root, "docker", hexA, "cgroup.procs"), "7\n")
	require.Equal(t, []string{zone.Running, zone.Running, zone.Running}, states())
}

// LXC puts a number after the name of a cgroup where there is one of that name already.
func TestAnLXCContainerKeepsItsNameBesideACgroupThatWasLeftBehind(t *testing.T) {
	named := func(name string) uuid.UUID { return byHash("lxc:" + host.String() + ":" + name) }
	for _, title := range []string{"[lxc monitor] /var/lib/lxc web", "lxc-start\x00-F\x00-n\x00web", "lxc-start\x00--name=web", "lxc-execute\x00-nweb"} {
		root, proc := t.TempDir(), t.TempDir()
		tree(t, root, true, "/lxc.payload.web", "/lxc.payload.web-1", "/lxc.payload.db-2", "/lxc.payload.gone-3")
		events(t, filepath.Join(root, "lxc.payload.web"), "0")
		write(t, filepath.Join(root, "lxc.payload.web-1/cgroup.procs"), "7\n")
		process(t, proc, "7", "6", "/sbin/init")
		process(t, proc, "6", "1", title)
		write(t, filepath.Join(root, "lxc.payload.db-2/cgroup.procs"), "9\n")
		process(t, proc, "9", "8", "/sbin/init")
		process(t, proc, "8", "1", "[lxc monitor] /var/lib/lxc/db db-2")

		r := resolver(t, zone.Options{Cgroup: root, Proc: proc})
		zones, err := r.List(t.Context())
		require.NoError(t, err)
		require.Len(t, zones, 3)
		web, ok := r.Lookup(named("web"))
		require.True(t, ok, title)
		require.Equal(t, []string{zone.Running, "web", "/lxc.payload.web-1"}, []string{web.State, web.Alias, web.Cgroups.Path}, title)
		require.Equal(t, 7, web.InitPID)
		db, ok := r.Lookup(named("db-2"))
		require.True(t, ok, "that is its name")
		require.Equal(t, "/lxc.payload.db-2", db.Cgroups.Path)
		_, ok = r.Lookup(named("gone-3"))
		require.True(t, ok, "nobody tells its name")
	}
}

// The names are those that libvirt 9.0 made of these machines', with systemd and without.
func TestMachinesOfLibvirtAreFoundWhateverItsCgroupsAreCalled(t *testing.T) {
	one, two, three, four := uuid.New(), uuid.New(), uuid.New(), uuid.New()
	for _, paths := range [][]string{
		{"/machine/qemu-1-h7-big.db.libvirt-qemu", "/machine/qemu-2-h7oddnme2.libvirt-qemu", "/machine/qemu-3.libvirt-qemu", "/machine/qemu-4-other.libvirt-qemu"},
		{`/machine.slice/machine-qemu\x2d1\x2dh7\x2dbig.db.scope`, `/machine.slice/machine-qemu\x2d2\x2dh7oddnme2.scope`, `/machine.slice/machine-qemu\x2d3.scope`,
			`/machine.slice/machine-qemu\x2d4\x2dother.scope`},
	} {
		root, run := t.TempDir(), t.TempDir()
		tree(t, root, true, paths...)
		for name, d := range map[string]struct {
			number string
			id     uuid.UUID
		}{"h7-big.db": {"1", one}, "h7_odd näme 2": {"2", two}, "ü_ü": {"3", three}, "fourth": {"4", four}} {
			write(t, filepath.Join(run, "libvirt/qemu", name+".xml"), `<domstatus state='running' reason='booted' pid='30951'>
				<domain type='qemu' id='`+d.number+`'><name>`+name+`</name><uuid>`+d.id.String()+`</uuid></domain></domstatus>`)
		}
		r := resolver(t, zone.Options{Cgroup: root, Run: run, Proc: t.TempDir()})
		zones, err := r.List(t.Context())
		require.NoError(t, err)
		require.Len(t, zones, 5)
		for i, id := range []uuid.UUID{one, two, three, byHash("libvirt:" + host.String() + ":other")} {
			z, ok := r.Lookup(id)
			require.True(t, ok, paths[i])
			require.Equal(t, "libvirt", z.Runtime)
			require.Equal(t, paths[i], z.Cgroups.Path)
		}
		z, ok := r.Lookup(four)
		require.True(t, ok)
		require.True(t, z.Cgroups.IsZero(), "the number alone proves nothing")
	}
}

// What machined calls a container's ID is its /etc/machine-id, which copies share and the container itself may write.
func TestAContainerOfNspawnsIsKnownByItsNameAndWithoutNspawn(t *testing.T) {
	root, run, proc := t.TempDir(), t.TempDir(), t.TempDir()
	tree(t, root, true, `/machine.slice/machine-deb\x2d1.scope/payload`, "/machine.slice/systemd-nspawn@deb.service/payload/inner",
		"/machine.slice/systemd-nspawn@deb.service/supervisor")
	for name, unit := range map[string]string{"deb-1": `machine-deb\\x2d1.scope`, "deb": "systemd-nspawn@deb.service"} {
		write(t, filepath.Join(run, "systemd/machines", name), "# This is private data. Do not parse.\nNAME="+name+"\nSCOPE="+unit+
			"\nSERVICE=systemd-nspawn\nROOT=/var/lib/machines/deb\nID=0f1e2d3c4b5a49788796a5b4c3d2e1aa\nLEADER=817\nCLASS=container\nREALTIME=1795417041471133\n")
	}
	for file, pid := range map[string]string{"supervisor": "813", "payload": "817"} {
		write(t, filepath.Join(root, "machine.slice/systemd-nspawn@deb.service", file, "cgroup.procs"), pid+"\n")
		process(t, proc, pid, "1", file)
	}
	r := resolver(t, zone.Options{Cgroup: root, Run: run, Proc: proc})
	zones, err := r.List(t.Context())
	require.NoError(t, err)
	require.Len(t, zones, 2)
	for name, unit := range map[string]string{"deb-1": `machine-deb\x2d1.scope`, "deb": "systemd-nspawn@deb.service"} {
		z, ok := r.Lookup(byHash("nspawn:" + host.String() + ":" + name))
		require.True(t, ok, name)
		require.Equal(t, []any{"nspawn", name, "/machine.slice/" + unit + "/payload", 817}, []any{z.Runtime, z.Alias, z.Cgroups.Path, z.InitPID})
		require.Equal(t, filepath.Join(root, z.Cgroups.Path), z.Cgroups.Unified)
		if name == "deb" {
			require.Len(t, z.Cgroups.IDs, 2, "the container's own")
		}
	}
}

func TestServicesInSlicesOfTheirOwnAreZonesToo(t *testing.T) {
	root := t.TempDir()
	tree(t, root, true, "/jobs.slice/jobs-night.slice/batch.service", "/batch.service", "/user.slice/user-7.slice/batch.service",
		"/user.slice/user-7.slice/user@7.service/app.slice/batch.service", "/some-container/system.slice/batch.service")
	zones, err := resolver(t, zone.Options{Cgroup: root, Proc: t.TempDir(), Units: []string{"batch.service"}}).List(t.Context())
	require.NoError(t, err)
	require.Len(t, zones, 1)
	require.NoError(t, os.RemoveAll(filepath.Join(root, "batch.service")))
	zones, err = resolver(t, zone.Options{Cgroup: root, Proc: t.TempDir(), Units: []string{"batch.service"}}).List(t.Context())
	require.NoError(t, err)
	require.Len(t, zones, 1)
	require.Equal(t, "/jobs.slice/jobs-night.slice/batch.service", zones[0].Cgroups.Path)
}

// Who is in a container can give any title to a process that starts another.
func TestAContainerCannotNameItselfAfterAnother(t *testing.T) {
	root, proc := t.TempDir(), t.TempDir()
	tree(t, root, true, "/lxc.payload.web-2", "/lxc.payload.web-2/0", "/lxc.payload.web")
	events(t, filepath.Join(root, "lxc.payload.web"), "0")
	write(t, filepath.Join(root, "lxc.payload.web-2/0/cgroup.procs"), "7\n")
	process(t, proc, "7", "6", "sh")
	process(t, proc, "6", "5", "x web")
	write(t, filepath.Join(proc, "6", "status"), "Name:\tx\nNSpid:\t6\t12\n")

	r := resolver(t, zone.Options{Cgroup: root, Proc: proc})
	_, err := r.List(t.Context())
	require.NoError(t, err)
	web, ok := r.Lookup(byHash("lxc:" + host.String() + ":web"))
	require.True(t, ok)
	require.Equal(t, []string{zone.Stopped, "/lxc.payload.web"}, []string{web.State, web.Cgroups.Path})
	own, ok := r.Lookup(byHash("lxc:" + host.String() + ":web-2"))
	require.True(t, ok)
	require.Equal(t, zone.Running, own.State)
}
