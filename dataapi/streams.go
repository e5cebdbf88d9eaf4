package dataapi

import (
	"bytes"
	"container/list"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"iapi/dataapi/event"
)

// streams holds all that was received. Every bound is kept by every change, under one lock that is never held across I/O.
type streams struct {
	opts Options
	boot string // of this life: positions of another mean nothing here

	mu     sync.Mutex
	byName map[string]*stream
	bytes  int64
	floor  uint64                    // above every position of streams that were dropped, so that none is given twice
	keys   map[keyHash]*list.Element // of keyEntry
	recent *list.List                // oldest first
}

type stream struct {
	name    string
	made    time.Time
	used    time.Time // last written to or read live
	written time.Time
	events  []stored // oldest first
	first   uint64   // the position of the first event ever
	next    uint64   // the position of the next event
	bytes   int64
	readers int
	news    chan struct{} // closed and replaced when events are added
}

// stored is an event with its position.
type stored struct {
	at   uint64
	time time.Time
	line []byte
}

// entryCost estimates what an event takes beside its text, in bytes.
const entryCost = 64

type keyHash [16]byte

type keyEntry struct {
	hash     keyHash
	accepted int
}

func newStreams(o Options) *streams {
	var boot [8]byte
	_, _ = rand.Read(boot[:]) // never fails: it ends the process instead
	return &streams{
		opts: o, boot: hex.EncodeToString(boot[:]), byName: map[string]*stream{},
		keys: map[keyHash]*list.Element{}, recent: list.New(),
	}
}

func hashKey(name, key string) keyHash {
	sum := sha256.Sum256([]byte(name + "\x00" + key))
	return keyHash(sum[:16])
}

// seen answers a batch whose key is known.
func (s *streams) seen(name, key string) (Receipt, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seenLocked(name, key)
}

func (s *streams) seenLocked(name, key string) (Receipt, bool) {
	if key == "" {
		return Receipt{}, false
	}
	e, ok := s.keys[hashKey(name, key)]
	if !ok {
		return Receipt{}, false
	}
	s.recent.MoveToBack(e)
	return Receipt{Accepted: e.Value.(keyEntry).accepted, Duplicate: true}, true
}

// store adds a batch, once for each key.
func (s *streams) store(name, key string, events []stored) (Receipt, *Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.seenLocked(name, key); ok {
		return r, nil
	}
	st, refusal := s.streamLocked(name)
	if refusal != nil {
		return Receipt{}, refusal
	}
	now := s.opts.Now()
	st.used, st.written = now, now
	for _, e := range events {
		e.at = st.next
		st.next++
		st.events = append(st.events, e)
		cost := int64(len(e.line) + entryCost)
		st.bytes += cost
		s.bytes += cost
	}
	s.trimLocked(st)
	if key != "" {
		hash := hashKey(name, key)
		s.keys[hash] = s.recent.PushBack(keyEntry{hash, len(events)})
		for len(s.keys) > s.opts.MaxKeys {
			delete(s.keys, s.recent.Remove(s.recent.Front()).(keyEntry).hash)
		}
	}
	if len(events) > 0 {
		close(st.news)
		st.news = make(chan struct{})
	}
	return Receipt{Accepted: len(events)}, nil
}

// trimLocked keeps the bounds after events were added to a stream.
func (s *streams) trimLocked(st *stream) {
	if n := len(st.events) - s.opts.MaxEventsPerStream; n > 0 {
		s.dropLocked(st, n)
	}
	for s.bytes > s.opts.MaxBytes && len(st.events) > 0 {
		if idle := s.mostIdleLocked(st); idle != nil && len(idle.events) > 0 {
			s.dropLocked(idle, (len(idle.events)+1)/2)
			continue
		}
		s.dropLocked(st, 1)
	}
}

// dropLocked drops a stream's oldest events.
func (s *streams) dropLocked(st *stream, n int) {
	for i := range n {
		cost := int64(len(st.events[i].line) + entryCost)
		st.bytes -= cost
		s.bytes -= cost
		st.events[i].line = nil
	}
	if st.events = st.events[n:]; cap(st.events) > 64 && len(st.events) < cap(st.events)/4 {
		st.events = slices.Clone(st.events)
	}
}

// mostIdleLocked is the stream that has events and was not used for longest, other than one.
func (s *streams) mostIdleLocked(except *stream) *stream {
	var idle *stream
	for _, st := range s.byName {
		if st != except && len(st.events) > 0 && (idle == nil || st.used.Before(idle.used)) {
			idle = st
		}
	}
	return idle
}

// streamLocked finds or begins a stream; idle ones make room.
func (s *streams) streamLocked(name string) (*stream, *Refusal) {
	if st, ok := s.byName[name]; ok {
		return st, nil
	}
	now := s.opts.Now()
	var idle *stream
	for _, st := range s.byName {
		if st.readers > 0 {
			continue
		}
		if now.Sub(st.used) > s.opts.ForgetAfter {
			s.removeLocked(st)
		} else if idle == nil || st.used.Before(idle.used) {
			idle = st
		}
	}
	if len(s.byName) >= s.opts.MaxStreams {
		if idle == nil || now.Sub(idle.used) < s.opts.IdleAfter {
			return nil, &Refusal{Error: "there are too many streams", status: http.StatusServiceUnavailable, retryAfter: 60}
		}
		s.removeLocked(idle)
	}
	st := &stream{name: name, made: now, used: now, first: s.floor + 1, next: s.floor + 1, news: make(chan struct{})}
	s.byName[name] = st
	return st, nil
}

func (s *streams) removeLocked(st *stream) {
	s.bytes -= st.bytes
	s.floor = max(s.floor, st.next)
	delete(s.byName, st.name)
}

// page is a piece of a stream.
type page struct {
	events []stored
	missed uint64          // events after the asked position that are not kept any more
	next   uint64          // the position to go on from
	news   <-chan struct{} // closed when there are more
}

// read returns up to limit events behind a position that are not older than since.
func (st *stream) read(after uint64, since time.Time, limit int) page {
	p := page{news: st.news, next: st.next - 1}
	oldest := st.next - uint64(len(st.events))
	after = max(after, st.first-1)
	if after+1 < oldest {
		p.missed = oldest - after - 1
		after = oldest - 1
	}
	after = min(after, st.next-1)
	for _, e := range st.events[after+1-oldest:] {
		if !since.IsZero() && e.time.Before(since) {
			continue
		}
		if len(p.events) == limit {
			break
		}
		p.events = append(p.events, e)
	}
	if len(p.events) == limit && limit > 0 {
		p.next = p.events[limit-1].at
	}
	return p
}

// read reads a stream that exists.
func (s *streams) read(name string, after uint64, since time.Time, limit int) (page, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.byName[name]
	if !ok {
		return page{}, false
	}
	return st.read(after, since, limit), true
}

// subscribe keeps a stream from being dropped, and begins it if need be, for somebody may look before the first event.
func (s *streams) subscribe(name string) (*stream, *Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, refusal := s.streamLocked(name)
	if refusal == nil {
		st.readers++
	}
	return st, refusal
}

func (s *streams) unsubscribe(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.readers--
	st.used = s.opts.Now()
}

// follow reads a stream that is subscribed to.
func (s *streams) follow(st *stream, after uint64, since time.Time, limit int) page {
	s.mu.Lock()
	defer s.mu.Unlock()
	return st.read(after, since, limit)
}

// Info tells of one stream.
type Info struct {
	Stream    string    `json:"stream"`
	Type      string    `json:"type"`     // "memory"
	Location  string    `json:"location"` // of its data, below the server's root
	Created   time.Time `json:"created"`
	Written   time.Time `json:"written,omitzero"`
	Received  uint64    `json:"received"` // since it was created
	Kept      int       `json:"kept"`
	Oldest    time.Time `json:"oldest,omitzero"` // timestamps of events that are kept
	Newest    time.Time `json:"newest,omitzero"`
	Following int       `json:"following"` // live readers
}

func (st *stream) info() Info {
	i := Info{
		Stream: st.name, Type: "memory", Location: "/" + st.name + "/data", Created: st.made.UTC(), Written: st.written.UTC(),
		Received: st.next - st.first, Kept: len(st.events), Following: st.readers,
	}
	if st.written.IsZero() {
		i.Written = time.Time{}
	}
	for _, e := range st.events {
		if i.Oldest.IsZero() || e.time.Before(i.Oldest) {
			i.Oldest = e.time
		}
		if e.time.After(i.Newest) {
			i.Newest = e.time
		}
	}
	return i
}

func (s *streams) infoOf(name string) (Info, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.byName[name]
	if !ok {
		return Info{}, false
	}
	return st.info(), true
}

func (s *streams) all() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Info, 0, len(s.byName))
	for _, st := range s.byName {
		all = append(all, st.info())
	}
	slices.SortFunc(all, func(a, b Info) int { return strings.Compare(a.Stream, b.Stream) })
	return all
}

// decode reads a batch for a stream: every line, so that all bad ones are named, and stores nothing.
func decode(name string, lines []byte, firstLine int) ([]stored, *Refusal) {
	var events []stored
	var bad []LineError
	number := firstLine - 1
	for line := range bytes.SplitSeq(lines, []byte("\n")) {
		number++
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		e, err := event.Decode(line)
		text := ""
		switch {
		case err != nil:
			text = err.Error()
		case e.Stream != "" && e.Stream != name:
			text = "stream: is not the one that the batch is for"
		}
		if text != "" {
			if len(bad) < 100 {
				bad = append(bad, LineError{Line: number, Error: text})
			}
			continue
		}
		e.Stream = name
		events = append(events, stored{time: e.Timestamp, line: e.Append(nil)})
	}
	if bad != nil {
		return nil, &Refusal{Error: "nothing was stored: not every line is an event", Lines: bad, status: http.StatusBadRequest}
	}
	return events, nil
}
