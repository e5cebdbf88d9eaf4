package dtrace

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/collectors/collect"
)

// Each definition runs on this kernel, and counts what is done.
func TestDefinitionsMeasure(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	h := newHelper(t)
	h.do("exec") // the runtime of Go tries something out at its first start of a process
	pid := h.cmd.Process.Pid
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	address := listener.Addr().String()
	_, port, _ := strings.Cut(address, ":")
	file := filepath.Join(t.TempDir(), "data")

	for _, c := range []struct {
		metric, predicate, do string
		by                    []string
		want                  map[string]float64 // exactly; nil: at least one
	}{
		{"unix.proc_execs", fmt.Sprintf(`{"eq":["ppid","%d"]}`, pid), "exec", []string{"execname"}, map[string]float64{"true": 1}},
		{"unix.proc_forks", fmt.Sprintf(`{"eq":["pid","%d"]}`, pid), "exec", nil, map[string]float64{"": 1}},
		{"unix.proc_exits", fmt.Sprintf(`{"eq":["ppid","%d"]}`, pid), "exec", []string{"execname"}, map[string]float64{"true": 1}},
		{"unix.thr_creates", fmt.Sprintf(`{"eq":["pid","%d"]}`, pid), "threads 20", []string{"pid"}, nil},
		{"tcp.connects", fmt.Sprintf(`{"and":[{"eq":["rport","%s"]},{"eq":["raddr","127.0.0.1"]}]}`, port), "connect " + address, []string{"rport", "raddr"}, map[string]float64{port + "|127.0.0.1": 1}},
		{"tcp.accepts", `{"eq":["raddr","127.0.0.1"]}`, "connect " + address, []string{"raddr"}, nil},
		{"disk.physio_ops", `{"eq":["optype","write"]}`, "fsync " + file, []string{"disk", "optype", "latency"}, nil},
		{"fs.logical_rwops", fmt.Sprintf(`{"and":[{"eq":["pid","%d"]},{"eq":["optype","write"]},{"eq":["size",4097]}]}`, pid), "write4097 " + file, []string{"optype", "size"}, map[string]float64{"write": 5}},
		{"syscall.syscalls", fmt.Sprintf(`{"and":[{"eq":["pid","%d"]},{"eq":["syscall","getppid"]}]}`, pid), "getppid 12", []string{"syscall", "pid"}, map[string]float64{fmt.Sprintf("getppid|%d", pid): 12}},
	} {
		t.Run(c.metric, func(t *testing.T) {
			p := open(t, e, wish(definition(t, c.metric), c.predicate, c.by...))
			h.do(c.do)
			sum := drained(t, p)
			require.Zero(t, sum.other)
			if c.want != nil {
				require.Equal(t, c.want, sum.sums)
				return
			}
			require.NotEmpty(t, sum.sums)
			require.NoError(t, p.Close())
		})
	}
}

// A socket belongs to the zone that has made it, whoever runs when it is connected.
func TestSocketsBelongToTheirOwnZone(t *testing.T) {
	needTracer(t)
	resolver, c := realZones(t, uuid.Nil, uuid.Nil)
	e := newEngine(t, Options{Zones: resolver})
	server, client := newHelper(t), newHelper(t)
	server.leave(c[0])
	client.leave(c[1])
	server.do("cgroup "+c[0].dir, "listen")
	client.do("cgroup " + c[1].dir)
	address := server.ask("where")
	open2 := func(metric string) *probe {
		r := wish(definition(t, metric), `{}`)
		r.WholeHost, r.Zones = false, []uuid.UUID{c[0].id, c[1].id}
		return open(t, e, r)
	}
	accepts, connects := open2("tcp.accepts"), open2("tcp.connects")
	client.do("connect "+address, "connect "+address, "connect "+address)
	serverKey, clientKey := c[0].id.String()+":", c[1].id.String()+":"
	require.Equal(t, map[string]float64{serverKey: 3, clientKey: 0}, drained(t, accepts).sums)
	require.Equal(t, map[string]float64{serverKey: 0, clientKey: 3}, drained(t, connects).sums)
}

// The USDT probes of PostgreSQL can be attached where it is installed; elsewhere the catalog does not offer the variant.
func TestQueriesAreAttached(t *testing.T) {
	needTracer(t)
	d := definition(t, "postgres.queries")
	v := variant(t, d, true)
	binary, _, _ := strings.Cut(v.When.USDT[0], ":")
	e := newEngine(t, Options{})
	p, err := e.Open(t.Context(), wish(d, `{}`, "latency"), v)
	if _, statErr := os.Stat(binary); statErr != nil {
		require.Equal(t, collect.Unsupported, collect.Refusal(err).Code)
		return
	}
	require.NoError(t, err)
	require.NoError(t, p.Close())
}
