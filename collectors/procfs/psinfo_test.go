package procfs

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/measure"
)

// psinfo lays a record out as sys/procfs.h of illumos does, by the sizes of its members and not by where IAPI looks for them.
func psinfo(t *testing.T, pid, ppid, threads int32, rss uint64, name, args string, model byte, contract int32) []byte {
	t.Helper()
	var b []byte
	put := func(parts ...any) {
		for _, part := range parts {
			var err error
			b, err = binary.Append(b, binary.LittleEndian, part)
			require.NoError(t, err)
		}
	}
	var fname [16]byte
	var psargs [80]byte
	copy(fname[:], name)
	copy(psargs[:], args)
	put(int32(0), threads, pid, ppid, pid, pid)                   // flag nlwp pid ppid pgid sid
	put(uint32(501), uint32(0), uint32(10), uint32(0))            // uid euid gid egid
	put(uint64(0xfffffe5a), uint64(2*rss), rss, uint64(0))        // addr size rssize pad1
	put(int64(-1), uint16(3), uint16(4), [4]byte{})               // ttydev pctcpu pctmem, and what aligns the next
	put(int64(1700000000), int64(pid), int64(7), int64(250))      // start, time
	put(int64(0), int64(0))                                       // ctime
	put(fname, psargs, int32(0), int32(1), uint64(1), uint64(2))  // fname psargs wstat argc argv envp
	put(model, [3]byte{}, int32(6), int32(7), int32(0), int32(8)) // dmodel pad2 taskid projid nzomb poolid
	put(int32(9), contract, int32(0))                             // zoneid contract filler
	put(int32(0), int32(1), uint64(0), uint64(0))                 // of the thread: flag lwpid addr wchan
	put(byte(0), byte(1), byte('S'), byte(20), [100]byte{})       // stype state sname nice, and the rest
	require.Len(t, b, 416)
	return b
}

// The processes of an illumos machine, as it would record them. No real one was there to be asked.
func TestProcessesOfIllumos(t *testing.T) {
	proc := t.TempDir()
	for pid, record := range map[int][]byte{
		1:  psinfo(t, 1, 0, 1, 2048, "init", "/sbin/init", 1, 1),
		77: psinfo(t, 77, 1, 5, 90210, "0123456789abcdef", "a b\nc", 2, 42),
		78: psinfo(t, 78, 77, 0, 0, "zombie", "", 0, 43),
		80: nil, // ends when it is to be read
	} {
		dir := filepath.Join(proc, fmt.Sprint(pid))
		require.NoError(t, os.MkdirAll(dir, 0o755))
		if record != nil {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "psinfo"), record, 0o644))
		}
	}
	all, err := catalog.Embedded()
	require.NoError(t, err)
	d, found := all.DefinitionOf("unix.processes")
	require.True(t, found)
	v, err := d.Select(catalog.Platform{OS: "illumos"}, catalog.Host, []string{"pid"})
	require.NoError(t, err)
	e := New(Options{Proc: proc, Psinfo: true, Hostname: "h"})
	measured := func(by ...string) map[string]float64 {
		p, err := e.Open(t.Context(), collect.Request{ID: "x", Definition: d, Decompositions: by, WholeHost: true, Granularity: time.Second}, v)
		require.NoError(t, err)
		defer func() { require.NoError(t, p.Close()) }()
		_, err = p.Collect(t.Context(), time.Now())
		require.NoError(t, err)
		r, err := p.Collect(t.Context(), time.Now())
		require.NoError(t, err)
		sums := map[string]float64{}
		for _, s := range r.Samples {
			sums[keyOf(s.Fields)] += s.Value
		}
		return sums
	}
	require.Equal(t, map[string]float64{"1|0|init|/sbin/init|1|32-bit": 1, "77|1|0123456789abcdef|a b\nc|42|64-bit": 1, "78|77|zombie|zombie|43|unknown": 1},
		measured("pid", "ppid", "execname", "psargs", "contract", "pmodel"))

	table := processTable{proc: proc, psinfo: true}
	slots := map[string]int{}
	for i, name := range catalog.ProcessColumns {
		slots[name] = i
	}
	_, err = table.join(slots, false)
	require.NoError(t, err)
	require.NoError(t, table.scan(func() int64 { return 1 }))
	p := table.byPID[77]
	require.Equal(t, []string{"77", "1", "0123456789abcdef", "init", "a b\nc", fmt.Sprint(90210 << 10), fmt.Sprint(2 * 90210 << 10), "5", "S", "501", "7000000250", "42", "64"}, textsOf(p.cols[:]))

	require.NoError(t, os.WriteFile(filepath.Join(proc, "80/psinfo"), make([]byte, 12), 0o644))
	require.ErrorContains(t, table.scan(func() int64 { return 2 }), "is not as the kernel writes it")
}

func keyOf(fields []measure.Field) (key string) {
	for i, f := range fields {
		if i > 0 {
			key += "|"
		}
		key += f.Value
	}
	return key
}

func textsOf(cols [][]byte) (all []string) {
	for _, col := range cols {
		all = append(all, string(col))
	}
	return all
}

func FuzzPsinfo(f *testing.F) {
	f.Add(make([]byte, psinfoBytes))
	f.Fuzz(func(t *testing.T, record []byte) {
		p := process{pid: 1}
		require.Equal(t, len(record) == psinfoBytes, p.parsePsinfo(record))
	})
}
