package kstat

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// le appends numbers as amd64 keeps them.
var le = binary.LittleEndian

// padded is a char[n] of C.
func padded(s []byte, n int) []byte {
	b := make([]byte, n)
	copy(b[:n-1], s)
	return b
}

// named is what a kstat_named_t holds: a string, or the bytes of another value.
type named struct {
	name  string
	kind  byte
	value []byte
}

// namedBytes lays out kstat_named_t as <sys/kstat.h> declares it, with the strings behind, at an address.
func namedBytes(base uint64, all []named) []byte {
	var b, strings []byte
	for _, n := range all {
		b = append(append(b, padded([]byte(n.name), 31)...), n.kind)
		value := make([]byte, 16)
		if n.kind == 9 {
			le.PutUint64(value, base+uint64(48*len(all)+len(strings)))
			le.PutUint32(value[8:], uint32(len(n.value)+1))
			strings = append(append(strings, n.value...), 0)
		} else {
			copy(value, n.value)
		}
		b = append(b, value...)
	}
	return append(b, strings...)
}

// headerBytes lays out a kstat_t.
func headerBytes(h header) []byte {
	var b []byte
	b = le.AppendUint64(b, uint64(h.created))
	b = le.AppendUint64(b, h.next)
	b = le.AppendUint32(b, 77) // ks_kid
	b = append(append(b, padded(h.module, 31)...), 0)
	b = le.AppendUint32(b, uint32(h.instance))
	b = append(append(b, padded(h.name, 31)...), h.kind)
	b = append(append(b, padded(h.class, 31)...), 0)
	b = le.AppendUint64(b, h.data)
	b = le.AppendUint32(b, h.count)
	b = le.AppendUint32(b, 0xaaaaaaaa) // padding
	b = le.AppendUint64(b, h.size)
	b = le.AppendUint64(b, uint64(h.snapped))
	return append(b, make([]byte, 32)...) // ks_update, ks_private, ks_snapshot, ks_lock
}

var decimal = regexp.MustCompile(`^-?[0-9]+$`)

// kernel gives the header and the data that the kernel would have for what the command printed.
func kernel(t testing.TB, r record, base uint64) (header, []byte) {
	created, err := strconv.ParseInt(string(nanoseconds(r.values["crtime"])), 10, 64)
	require.NoError(t, err)
	h := header{
		module: r.names[0], name: r.names[2], class: r.values["class"], instance: int32(instance(r)), created: created,
		snapped: r.at, data: base, count: 1,
	}
	number := func(name string) uint64 {
		n, err := strconv.ParseUint(string(r.values[name]), 10, 64)
		require.NoError(t, err, name)
		return n
	}
	if string(h.class) == "disk" {
		var b []byte
		b = le.AppendUint64(b, number("nread"))
		b = le.AppendUint64(b, number("nwritten"))
		b = le.AppendUint32(b, uint32(number("reads")))
		b = le.AppendUint32(b, uint32(number("writes")))
		for _, name := range []string{"wtime", "wlentime", "wlastupdate", "rtime", "rlentime", "rlastupdate"} {
			b = le.AppendUint64(b, number(name))
		}
		b = le.AppendUint32(b, uint32(number("wcnt")))
		b = le.AppendUint32(b, uint32(number("rcnt")))
		h.kind, h.size = 3, uint64(len(b))
		return h, b
	}
	var all []named
	for name, value := range r.values {
		if name == "class" || name == "crtime" || name == "snaptime" {
			continue
		}
		n := named{name: name, kind: 9, value: value}
		if decimal.Match(value) {
			n.kind = 4
			if value[0] == '-' {
				n.kind = 3
			}
			i, _ := strconv.ParseInt(string(value), 10, 64)
			u, _ := strconv.ParseUint(string(value), 10, 64)
			n.value = le.AppendUint64(nil, max(uint64(i), u))
			if i == int64(int32(i)) && len(all)%2 == 0 {
				n.kind -= 2 // the narrow types, too
			}
		}
		all = append(all, n)
	}
	b := namedBytes(base, all)
	h.kind, h.count, h.size = 1, uint32(len(all)), uint64(len(b))
	return h, b
}

// files are all samples of the command's output.
func files(t testing.TB) [][]byte {
	names, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.Len(t, names, 7)
	var all [][]byte
	for _, name := range names {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		all = append(all, text)
	}
	return all
}

func TestTheKernelsBytesGiveTheRecordsOfTheCommand(t *testing.T) {
	for _, text := range files(t) {
		records, err := parse(text)
		require.NoError(t, err)
		require.NotEmpty(t, records)
		for _, want := range records {
			h, data := kernel(t, want, 0xfee0_0000_1000)
			h, err := decodeHeader(headerBytes(h))
			require.NoError(t, err)
			got, err := decode(h, data)
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
	}
}

func TestEveryTypeOfStatisticIsDecoded(t *testing.T) {
	const base = 0x1000
	minus := slices.Repeat([]byte{0xff}, 8)
	data := namedBytes(base, []named{
		{"char", 0, []byte("on-line")},
		{"full", 0, []byte("0123456789abcdef")},
		{"int32", 1, minus},
		{"uint32", 2, minus},
		{"int64", 3, minus},
		{"uint64", 4, minus},
		{"string", 9, []byte("a zone's name")},
		{"empty", 9, nil},
		{"thirty characters are the most", 4, nil},
	})
	values := map[string][]byte{}
	require.NoError(t, decodeNamed(values, data, base, 9))
	got := map[string]string{}
	for name, value := range values {
		got[name] = string(value)
	}
	require.Equal(t, map[string]string{
		"char": "on-line", "full": "0123456789abcdef", "int32": "-1", "uint32": "4294967295", "int64": "-1",
		"uint64": "18446744073709551615", "string": "a zone's name", "empty": "", "thirty characters are the most": "0",
	}, got)

	r, err := decode(header{kind: typeIntr}, []byte{1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	require.NoError(t, err)
	require.Equal(t, "1 2 3 4 4294967295", string(r.values["hard"])+" "+string(r.values["soft"])+" "+string(r.values["watchdog"])+
		" "+string(r.values["spurious"])+" "+string(r.values["multiple_service"]))
}

func TestAStringOutsideItsKstatIsRefused(t *testing.T) {
	const base = 0x1000
	for name, change := range map[string]func([]byte){
		"before it":    func(b []byte) { le.PutUint64(b[32:], base-1) },
		"behind it":    func(b []byte) { le.PutUint64(b[32:], base+48+3) },
		"across it":    func(b []byte) { le.PutUint32(b[40:], 4) },
		"wrapping it":  func(b []byte) { le.PutUint64(b[32:], 1<<64-1) },
		"larger still": func(b []byte) { le.PutUint32(b[40:], 1<<32-1) },
	} {
		data := namedBytes(base, []named{{"s", 9, []byte("x")}})
		require.NoError(t, decodeNamed(map[string][]byte{}, data, base, 1))
		change(data)
		if name == "across it" {
			le.PutUint64(data[32:], base+47)
		}
		require.ErrorIs(t, decodeNamed(map[string][]byte{}, data, base, 1), errShort, name)
	}
	require.ErrorIs(t, decodeNamed(map[string][]byte{}, make([]byte, 95), base, 2), errShort)
	values := map[string][]byte{}
	require.NoError(t, decodeNamed(values, append(padded([]byte("unset"), 31), append([]byte{9}, make([]byte, 16)...)...), base, 1))
	require.Empty(t, values, "a string that was never set is no value")
}

func TestARawKstatHasNoKnownLayout(t *testing.T) {
	_, err := decode(header{kind: 0}, make([]byte, 100))
	require.ErrorIs(t, err, errLayout)
	_, err = decode(header{kind: typeNamed, count: 1}, append(padded(nil, 31), append([]byte{5}, make([]byte, 16)...)...))
	require.ErrorIs(t, err, errLayout, "a float, which is obsolete")
}

func FuzzDecode(f *testing.F) {
	for _, text := range files(f) {
		records, err := parse(text)
		require.NoError(f, err)
		h, data := kernel(f, records[0], 0x1000)
		f.Add(headerBytes(h), data)
	}
	f.Fuzz(func(t *testing.T, head, data []byte) {
		h, err := decodeHeader(head)
		if err != nil {
			return
		}
		r, err := decode(h, data)
		if err != nil {
			return
		}
		require.NotContains(t, string(r.id), "\x00")
		for name, value := range r.values {
			require.NotContains(t, name+string(value), "\x00")
			require.LessOrEqual(t, len(value), max(len(data), 32))
		}
	})
}
