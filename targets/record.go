package targets

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"

	"iapi/measure"
)

// A record is a header and a batch in its internal form, so that it can be rendered when it is sent:
//
//	length of the body (4 bytes) · CRC32C of all that follows (4) · points (4) · unix nanoseconds (8) · body (gob)
//
// all little-endian.
const recordHeader = 20

// maxRecord bounds what is read into memory at once; batches are far smaller.
const maxRecord = 64 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errDamaged = errors.New("a record of the spool is damaged")

type recordBody struct {
	Key    string
	Points []measure.Point
}

type record struct {
	recordBody
	count      uint32
	at         time.Time
	unreadable bool // whole, but written by a version that this one does not understand
}

func encodeRecord(key string, points []measure.Point, at time.Time) ([]byte, error) {
	b := bytes.NewBuffer(make([]byte, recordHeader, 4096))
	if err := gob.NewEncoder(b).Encode(recordBody{key, points}); err != nil {
		return nil, fmt.Errorf("encode a batch: %w", err)
	}
	raw := b.Bytes()
	if len(raw) > maxRecord {
		return nil, fmt.Errorf("encode a batch: it has %d bytes", len(raw))
	}
	binary.LittleEndian.PutUint32(raw[0:], uint32(len(raw)-recordHeader))
	binary.LittleEndian.PutUint32(raw[8:], uint32(len(points)))
	binary.LittleEndian.PutUint64(raw[12:], uint64(at.UnixNano()))
	binary.LittleEndian.PutUint32(raw[4:], crc32.Checksum(raw[8:], castagnoli))
	return raw, nil
}

// readRaw reads and checks the record at an offset of a file that ends at end, into b as far as it suffices.
func readRaw(f io.ReaderAt, at, end int64, b []byte) ([]byte, error) {
	var head [recordHeader]byte
	if end-at < recordHeader {
		return nil, errDamaged
	}
	if _, err := f.ReadAt(head[:], at); err != nil {
		return nil, fmt.Errorf("read the spool: %w", err)
	}
	n := int64(binary.LittleEndian.Uint32(head[:])) + recordHeader
	if n > maxRecord || n > end-at {
		return nil, errDamaged
	}
	if int64(cap(b)) < n {
		b = make([]byte, n)
	}
	b = b[:n]
	if _, err := f.ReadAt(b, at); err != nil {
		return nil, fmt.Errorf("read the spool: %w", err)
	}
	if crc32.Checksum(b[8:], castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return nil, errDamaged
	}
	return b, nil
}

func headerOf(raw []byte) (count uint32, at time.Time) {
	return binary.LittleEndian.Uint32(raw[8:]), time.Unix(0, int64(binary.LittleEndian.Uint64(raw[12:]))).UTC()
}

// readRecord reads the record at an offset, and tells where the next begins.
func readRecord(path string, at, end int64) (record, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return record{}, 0, fmt.Errorf("read the spool: %w", err)
	}
	defer f.Close()
	raw, err := readRaw(f, at, end, nil)
	if err != nil {
		return record{}, 0, err
	}
	var r record
	r.count, r.at = headerOf(raw)
	err = gob.NewDecoder(bytes.NewReader(raw[recordHeader:])).Decode(&r.recordBody)
	r.unreadable = err != nil || len(r.Points) != int(r.count)
	for i := range r.Points {
		r.Points[i].Start = r.Points[i].Start.UTC()
	}
	return r, at + int64(len(raw)), nil
}

// scan is what scanSegment finds.
type scan struct {
	segment *segment // up to where it is whole
	start   int64    // the offset of the oldest record that was not acknowledged
	length  int64    // of the file
}

// scanSegment finds how far a segment is whole, and what is in it from the given offset on. An offset at which no record
// begins counts as the beginning.
func scanSegment(path string, number uint64, from int64) (scan, error) {
	f, err := os.Open(path)
	if err != nil {
		return scan{}, fmt.Errorf("open a segment: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return scan{}, fmt.Errorf("open a segment: %w", err)
	}
	seg := &segment{number: number}
	begins := from == 0
	var before int64 // points of records that were acknowledged
	var raw []byte
	for seg.size < info.Size() {
		if raw, err = readRaw(f, seg.size, info.Size(), raw); errors.Is(err, errDamaged) {
			break
		} else if err != nil {
			return scan{}, err
		}
		count, at := headerOf(raw)
		begins = begins || seg.size == from
		if seg.size < from {
			before += int64(count)
		}
		seg.points += int64(count)
		if seg.first.IsZero() {
			seg.first = at
		}
		seg.last = at
		seg.size += int64(len(raw))
	}
	if !begins && from != seg.size {
		return scan{seg, 0, info.Size()}, nil
	}
	seg.points -= before
	return scan{seg, from, info.Size()}, nil
}
