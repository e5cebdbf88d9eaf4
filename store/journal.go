package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
)

// entry is one mutation as the journal has it: the script that made it and the number that it got.
type entry struct {
	seq  int64
	name string
	args []string
}

// A frame is the length and the CRC32C of the payload, four bytes each, and the payload: the sequence number, the script's
// name, and the count and texts of the arguments, each text behind its length.
const (
	frameHead = 8
	maxFrame  = 64 << 20
)

func (e *entry) frame() []byte {
	b := make([]byte, frameHead, 512)
	put := func(t string) { b = append(binary.AppendUvarint(b, uint64(len(t))), t...) }
	b = binary.AppendUvarint(b, uint64(e.seq))
	put(e.name)
	b = binary.AppendUvarint(b, uint64(len(e.args)))
	for _, a := range e.args {
		put(a)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-frameHead))
	binary.BigEndian.PutUint32(b[4:], crc32.Checksum(b[frameHead:], castagnoli))
	return b
}

// nextFrame returns the entry that b begins with, and its length in bytes; ok is false where there is none that is whole.
func nextFrame(b []byte) (e entry, size int, ok bool) {
	if len(b) < frameHead {
		return e, 0, false
	}
	n := int64(binary.BigEndian.Uint32(b))
	if n == 0 || n > maxFrame || n > int64(len(b)-frameHead) {
		return e, 0, false
	}
	payload := b[frameHead : frameHead+n]
	if crc32.Checksum(payload, castagnoli) != binary.BigEndian.Uint32(b[4:]) {
		return e, 0, false
	}
	bad := false
	num := func() uint64 {
		v, k := binary.Uvarint(payload)
		if k <= 0 {
			bad, payload = true, nil
			return 0
		}
		payload = payload[k:]
		return v
	}
	str := func() string {
		k := num()
		if k > uint64(len(payload)) {
			bad, payload = true, nil
			return ""
		}
		t := string(payload[:k])
		payload = payload[k:]
		return t
	}
	e.seq, e.name = int64(num()), str()
	for i := num(); i > 0 && !bad; i-- {
		e.args = append(e.args, str())
	}
	return e, frameHead + int(n), !bad && len(payload) == 0
}

// readJournal returns the entries of a journal, and how many of its bytes they take from the beginning. A torn tail is what
// a crash leaves of a last write; damaged says that something is wrong before other entries, which are returned too.
func readJournal(b []byte) (entries []entry, good int, damaged bool) {
	for off := 0; off < len(b); {
		e, size, ok := nextFrame(b[off:])
		if !ok {
			next := off + 1
			for ; next < len(b); next++ {
				if _, _, ok := nextFrame(b[next:]); ok {
					break
				}
			}
			if next >= len(b) {
				return entries, good, damaged
			}
			damaged, off = true, next
			continue
		}
		entries = append(entries, e)
		off += size
		good = off
	}
	return entries, good, damaged
}

// journal is the file that mutations are appended to. It is used by one goroutine.
type journal struct {
	file *os.File
	size int64 // of what is whole
}

func createJournal(path string) (*journal, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create the journal: %w", err)
	}
	return &journal{file: f}, nil
}

// append writes frames and returns when they are on the disk. After an error nothing of them is in the file, or else the
// journal cannot be used any more: broken.
func (j *journal) append(frames []byte) (broken bool, err error) {
	_, err = j.file.Write(frames)
	if err == nil {
		err = j.file.Sync()
	}
	if err == nil {
		j.size += int64(len(frames))
		return false, nil
	}
	err = fmt.Errorf("write the journal: %w", err)
	_, seek := j.file.Seek(j.size, 0)
	if undo := errors.Join(j.file.Truncate(j.size), seek, j.file.Sync()); undo != nil {
		return true, errors.Join(err, undo)
	}
	return false, err
}

func (j *journal) close() error { return j.file.Close() }
