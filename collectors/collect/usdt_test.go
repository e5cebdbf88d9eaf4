package collect

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// programWith writes a program that consists of nothing but the notes of probes.
func programWith(t *testing.T, notes string) string {
	t.Helper()
	const names = "\x00.note.stapsdt\x00.shstrtab\x00"
	const head, entry = 64, 64
	var b bytes.Buffer
	write := func(values ...any) {
		for _, v := range values {
			require.NoError(t, binary.Write(&b, binary.LittleEndian, v))
		}
	}
	write([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	write(uint16(2), uint16(62), uint32(1), uint64(0), uint64(0), uint64(head+len(notes)+len(names)), uint32(0), uint16(head), uint16(0), uint16(0), uint16(entry), uint16(3), uint16(2))
	b.WriteString(notes + names)
	section := func(name, kind uint32, offset, size int) {
		write(name, kind, uint64(0), uint64(0), uint64(offset), uint64(size), uint32(0), uint32(0), uint64(1), uint64(0))
	}
	section(0, 0, 0, 0)
	section(1, 7, head, len(notes))
	section(15, 3, head+len(notes), len(names))
	path := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o700))
	return path
}

func TestProgramsTellTheirProbes(t *testing.T) {
	path := programWith(t, "....postgresql\x00query__start\x00....")
	require.True(t, HasUSDT(path+":postgresql:query__start"))
	for _, probe := range []string{path + ":postgresql:query__done", path + ":sql:query__start2", path, path + ":postgresql", "/nowhere:a:b", filepath.Dir(path) + ":a:b", ""} {
		require.False(t, HasUSDT(probe), probe)
	}
}

// What a definition names is opened by root: a pipe that nobody writes to would be waited for, and a device do something.
func TestOnlyRegularFilesAreOpenedToLookForProbes(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, unix.Mkfifo(pipe, 0o600))
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(pipe, link))
	for _, path := range []string{pipe, link, "/dev/null", t.TempDir()} {
		_, err := openRegular(path)
		require.ErrorIs(t, err, os.ErrInvalid, path)
		require.False(t, HasUSDT(path+":a:b"))
	}
}
