package e2e

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// postgres is a server of our own, of the newest PostgreSQL that Debian has put on this machine.
type postgres struct {
	bin, data, port string
	as              *syscall.SysProcAttr
}

func startPostgres(t testing.TB) *postgres {
	t.Helper()
	servers, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // the pattern is right
	need(t, len(servers) > 0, "PostgreSQL")
	account, err := user.Lookup("postgres")
	need(t, err == nil, "the account postgres")
	uid, err := strconv.Atoi(account.Uid)
	require.NoError(t, err)
	gid, err := strconv.Atoi(account.Gid)
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "iapi-postgres-*") // which the account can reach, as it cannot those of tests
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chown(dir, uid, gid))
	p := &postgres{
		bin: filepath.Dir(servers[len(servers)-1]), data: filepath.Join(dir, "data"), port: freePort(t),
		as: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}},
	}
	initdb := exec.Command(filepath.Join(p.bin, "initdb"), "-D", p.data, "--auth=trust", "--no-sync", "--no-locale")
	initdb.SysProcAttr, initdb.Dir = p.as, dir
	out, err := initdb.CombinedOutput()
	require.NoError(t, err, string(out))
	server := exec.Command(filepath.Join(p.bin, "postgres"), "-D", p.data, "-p", p.port, "-k", dir, "-h", "127.0.0.1", "-F")
	server.SysProcAttr, server.Dir = p.as, dir
	require.NoError(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGINT) // which ends it at once, but in order
		_ = server.Wait()
	})
	require.True(t, wait(patience, func() bool {
		return exec.Command(filepath.Join(p.bin, "pg_isready"), "-h", "127.0.0.1", "-p", p.port).Run() == nil
	}))
	return p
}

func (p *postgres) query(t testing.TB, queries ...string) {
	t.Helper()
	args := []string{"-h", "127.0.0.1", "-p", p.port, "-U", "postgres", "-X", "-q", "-d", "postgres"}
	for _, q := range queries {
		args = append(args, "-c", q)
	}
	out, err := exec.Command(filepath.Join(p.bin, "psql"), args...).CombinedOutput()
	require.NoError(t, err, string(out))
}

func testPostgres(t testing.TB, a api) {
	p := startPostgres(t)
	id := a.create("postgres.queries", "--by", "query", "--by", "latency", "--every-host")
	a.becomes(id, "ENABLED")
	p.query(t, "select 1+1", "select 1+1", "select 'a, \"b\"' || chr(10)", "select 1+1")
	wanted := map[string]float64{"select 1+1": 3, "select 'a, \"b\"' || chr(10)": 1}
	counted := map[string]float64{}
	a.awaitEvents(id, func(all []event) bool {
		clear(counted)
		for _, e := range all {
			if strings.HasPrefix(e.Fields["query"], "select") {
				counted[e.Fields["query"]] += e.value(t)
				require.EqualValues(t, e.value(t), e.buckets("latency"))
			}
		}
		return len(counted) == 2 && counted["select 1+1"] >= 3
	})
	require.Equal(t, wanted, counted)
	a.run("delete", id)
}
