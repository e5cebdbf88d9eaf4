package targets

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"iapi/measure"
)

// spool is a queue of batches on disk: append-only segments of records, and a file that says where the oldest record is
// that was not acknowledged. It survives a crash at any byte: what was half written is cut off when it is opened, and a
// position that was not written means that records come again. One goroutine uses it.
//
// A segment that is full, or an hour or so old, is followed by a new one, so that whole segments can be dropped when
// the spool is too large or too old.
type spool struct {
	dir    string
	limits spoolLimits
	lock   *os.File

	segments []*segment // oldest first
	active   *os.File   // the newest segment, open for appending; nil: the next append begins one
	next     uint64     // the number of the next segment
	bytes    int64
	points   int64 // not taken yet

	cursor int64  // in the oldest segment: the next record to take
	taken  *taken // not acknowledged yet
	cut    int64  // bytes that were cut off when it was opened

	unsynced bool
	syncedAt time.Time
}

type segment struct {
	number uint64
	size   int64
	points int64 // not taken yet
	first  time.Time
	last   time.Time
}

type taken struct {
	from   int64 // where its record begins; it ends at the cursor
	points int64
	gone   bool // its segment was dropped
}

type spoolLimits struct {
	bytes, segment int64
	age            time.Duration
	free           float64
	freeFraction   func(dir string) (float64, error)
	now            func() time.Time
	// lost is told of points that are given up: how many, and those that could still be read.
	lost func(reason string, n int64, points []measure.Point)
}

var (
	errInUse    = errors.New("another queue has the spool")
	errDiskFull = errors.New("the disk has too little room left")
)

// spoolDir is one target's own directory. Secrets are no part of its name, so that it stays when they change.
func spoolDir(dir, name string, t measure.Target) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{name, string(t.Kind), string(t.Transport), t.Address, t.Prefix}, "\x00")))
	return filepath.Join(dir, hex.EncodeToString(sum[:12]))
}

// PruneSpools removes what is left in spools below dir and was last written longer ago than age; a spool that a queue
// has open is left alone. It is how the data of instrumentations that are gone leave the disk.
func PruneSpools(dir string, age time.Duration, now time.Time) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list the spools: %w", err)
	}
	var all error
	for _, entry := range entries {
		sub := filepath.Join(dir, entry.Name())
		if _, err := os.Stat(filepath.Join(sub, "lock")); err != nil {
			continue // not a spool
		}
		all = errors.Join(all, pruneSpool(sub, age, now))
	}
	return all
}

func pruneSpool(dir string, age time.Duration, now time.Time) error {
	lock, err := lockDir(dir)
	if errors.Is(err, errInUse) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	numbers, err := listSegments(dir)
	if err != nil {
		return err
	}
	for _, number := range numbers {
		if info, err := os.Stat(segmentPath(dir, number)); err == nil && now.Sub(info.ModTime()) < age {
			return nil
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove a spool: %w", err)
	}
	return nil
}

func segmentPath(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x.seg", number))
}

func listSegments(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the spool's segments: %w", err)
	}
	var numbers []uint64
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), ".seg")
		if n, err := strconv.ParseUint(name, 16, 64); ok && len(name) == 16 && err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// openSpool opens or makes the spool in a directory. errInUse: another queue has it.
func openSpool(dir string, limits spoolLimits) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the spool's directory: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s := &spool{dir: dir, limits: limits, lock: lock, syncedAt: limits.now()}
	if err := s.recover(); err != nil {
		lock.Close()
		return nil, err
	}
	return s, nil
}

// recover finds what an earlier life has left.
func (s *spool) recover() error {
	numbers, err := listSegments(s.dir)
	if err != nil {
		return err
	}
	head, offset := s.readHead()
	s.next = head
	for _, number := range numbers {
		s.next = max(s.next, number+1)
		path := segmentPath(s.dir, number)
		from := int64(0)
		if number == head {
			from = offset
		}
		found, err := scanSegment(path, number, from)
		if err != nil {
			return err
		}
		seg := found.segment
		if found.length > seg.size {
			s.cut += found.length - seg.size
			if err := os.Truncate(path, seg.size); err != nil {
				return fmt.Errorf("cut the damaged end of a segment: %w", err)
			}
		}
		if number < head || seg.points == 0 {
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("remove a segment that was sent: %w", err)
			}
			continue
		}
		if len(s.segments) == 0 {
			s.cursor = found.start
		}
		s.segments = append(s.segments, seg)
		s.bytes += seg.size
		s.points += seg.points
	}
	return nil
}

// readHead is the position of the oldest record that was not acknowledged; what cannot be read is the beginning.
func (s *spool) readHead() (number uint64, offset int64) {
	raw, err := os.ReadFile(filepath.Join(s.dir, "head"))
	if err != nil {
		return 0, 0
	}
	if n, err := fmt.Sscanf(string(raw), "%016x %d\n", &number, &offset); n != 2 || err != nil || offset < 0 {
		return 0, 0
	}
	return number, offset
}

// writeHead replaces the position by rename. It is not synced: after a crash of the machine records may come again.
func (s *spool) writeHead() error {
	number := s.next
	if len(s.segments) > 0 {
		number = s.segments[0].number
	}
	path := filepath.Join(s.dir, "head")
	if err := os.WriteFile(path+".new", fmt.Appendf(nil, "%016x %d\n", number, s.cursor), 0o600); err != nil {
		return fmt.Errorf("write the spool's position: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write the spool's position: %w", err)
	}
	return nil
}

// empty reports whether there is nothing to take.
func (s *spool) empty() bool { return s.points == 0 }

// append writes a batch behind all others, and drops the oldest segments where it needs room.
func (s *spool) append(key string, points []measure.Point) error {
	now := s.limits.now()
	raw, err := encodeRecord(key, points, now)
	if err != nil {
		return err
	}
	if free, err := s.limits.freeFraction(s.dir); err == nil && free < s.limits.free {
		return errDiskFull
	}
	for len(s.segments) > 0 && (s.bytes+int64(len(raw)) > s.limits.bytes || now.Sub(s.segments[0].last) > s.limits.age) {
		reason := ReasonFull
		if now.Sub(s.segments[0].last) > s.limits.age {
			reason = ReasonOld
		}
		if err := s.dropOldest(reason); err != nil {
			return err
		}
	}
	if int64(len(raw)) > s.limits.bytes {
		return fmt.Errorf("spool a batch: %d bytes are more than the spool may hold", len(raw))
	}
	if err := s.roll(int64(len(raw)), now); err != nil {
		return err
	}
	seg := s.segments[len(s.segments)-1]
	if _, err := s.active.WriteAt(raw, seg.size); err != nil {
		// What is behind seg.size is overwritten by the next append, or cut off when the spool is opened again.
		return fmt.Errorf("write to the spool: %w", err)
	}
	seg.size += int64(len(raw))
	seg.points += int64(len(points))
	seg.last = now
	s.bytes += int64(len(raw))
	s.points += int64(len(points))
	s.unsynced = true
	return nil
}

// roll makes sure that there is a segment to append to.
func (s *spool) roll(need int64, now time.Time) error {
	if s.active != nil {
		seg := s.segments[len(s.segments)-1]
		if seg.size == 0 || seg.size+need <= s.limits.segment && now.Sub(seg.first) < s.limits.age/24 {
			return nil
		}
		if err := s.closeActive(); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(segmentPath(s.dir, s.next), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("begin a segment: %w", err)
	}
	if len(s.segments) == 0 {
		s.cursor = 0
	}
	s.active = f
	s.segments = append(s.segments, &segment{number: s.next, first: now, last: now})
	s.next++
	return nil
}

func (s *spool) closeActive() error {
	if s.active == nil {
		return nil
	}
	err := s.active.Sync()
	err = errors.Join(err, s.active.Close())
	s.active, s.unsynced = nil, false
	if err != nil {
		return fmt.Errorf("close a segment: %w", err)
	}
	return nil
}

// dropOldest gives up the oldest segment, all but the record that is taken.
func (s *spool) dropOldest(reason string) error {
	seg := s.segments[0]
	var points []measure.Point
	for at := s.cursor; at < seg.size; {
		r, next, err := readRecord(segmentPath(s.dir, seg.number), at, seg.size)
		if err != nil {
			break
		}
		points = append(points, r.Points...)
		at = next
	}
	n := seg.points
	if s.taken != nil {
		s.taken.gone = true
	}
	if err := s.removeOldest(); err != nil {
		return err
	}
	s.limits.lost(reason, n, points[:min(int64(len(points)), n)])
	return nil
}

func (s *spool) removeOldest() error {
	seg := s.segments[0]
	if len(s.segments) == 1 && s.active != nil {
		_ = s.active.Close() // its content is not wanted any more
		s.active, s.unsynced = nil, false
	}
	if err := os.Remove(segmentPath(s.dir, seg.number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a segment: %w", err)
	}
	s.segments = s.segments[1:]
	s.bytes -= seg.size
	s.points -= seg.points
	s.cursor = 0
	return s.writeHead()
}

// take reads the oldest record, which stays on disk until ack. Records that are too old or damaged are given up.
func (s *spool) take() (key string, points []measure.Point, ok bool) {
	for len(s.segments) > 0 && s.taken == nil {
		seg := s.segments[0]
		if s.cursor >= seg.size {
			if s.removeOldest() != nil {
				return "", nil, false
			}
			continue
		}
		r, next, err := readRecord(segmentPath(s.dir, seg.number), s.cursor, seg.size)
		if errors.Is(err, errDamaged) {
			if s.dropOldest(ReasonDamaged) != nil {
				return "", nil, false
			}
			continue
		}
		if err != nil {
			return "", nil, false // the disk may come back
		}
		n := int64(r.count)
		from := s.cursor
		s.cursor = next
		seg.points -= n
		s.points -= n
		switch {
		case s.limits.now().Sub(r.at) > s.limits.age:
			s.limits.lost(ReasonOld, n, r.Points)
		case r.unreadable:
			s.limits.lost(ReasonDamaged, n, nil)
		default:
			s.taken = &taken{from: from, points: n}
			return r.Key, r.Points, true
		}
	}
	return "", nil, false
}

// ack says that the record which was taken is settled.
func (s *spool) ack() error {
	t := s.taken
	s.taken = nil
	if t == nil || t.gone {
		return nil
	}
	if s.cursor >= s.segments[0].size {
		return s.removeOldest()
	}
	return s.writeHead()
}

// untake puts the record that was taken back; false if its segment was dropped meanwhile.
func (s *spool) untake() bool {
	t := s.taken
	s.taken = nil
	if t == nil || t.gone {
		return false
	}
	s.cursor = t.from
	s.segments[0].points += t.points
	s.points += t.points
	return true
}

// syncIfDue syncs what was appended, at most each second.
func (s *spool) syncIfDue() error {
	now := s.limits.now()
	if !s.unsynced || now.Sub(s.syncedAt) < fsyncEvery {
		return nil
	}
	s.syncedAt, s.unsynced = now, false
	if err := s.active.Sync(); err != nil {
		return fmt.Errorf("sync the spool: %w", err)
	}
	return nil
}

// close syncs and lets go; what was taken and not acknowledged comes again.
func (s *spool) close() error {
	return errors.Join(s.closeActive(), s.lock.Close())
}
