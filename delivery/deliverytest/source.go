// Package deliverytest has a Source in memory, for tests of the feed and of what stands on it.
package deliverytest

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/google/uuid"

	"iapi/assignment"
	"iapi/delivery"
)

// FirstEpoch is the epoch of every host at first.
const FirstEpoch = "0000000000000001"

// Source keeps documents, sessions and reports in memory. Its stream has no gaps unless Gap makes one.
type Source struct {
	mu       sync.Mutex
	docs     map[uuid.UUID]assignment.Stored
	hosts    map[uuid.UUID]bool
	sessions map[uuid.UUID]delivery.Session
	begun    int64 // how many sessions have begun
	parts    int
	stuck    map[int]chan struct{} // parts that do not answer, until it is closed
	watchers map[int]*watcher
	next     int
	err      error
	reports  [][]delivery.Report
	touched  []uuid.UUID
	calls    map[string]int
	silent   bool
	damage   damage
	held     chan struct{} // reads of documents wait until it is closed; nil: they do not
}

// damage is of which hosts nothing can be read, and why.
type damage map[uuid.UUID]error

var _ delivery.Unreadable = damage{}

func (d damage) Error() string           { return fmt.Sprintf("%d hosts cannot be read", len(d)) }
func (d damage) Of(host uuid.UUID) error { return d[host] }

// of is the damage of some hosts, nil where there is none.
func (d damage) of(hosts []uuid.UUID) error {
	some := damage{}
	for _, host := range hosts {
		if d[host] != nil {
			some[host] = d[host]
		}
	}
	if len(some) == 0 {
		return nil
	}
	return some
}

// Damage has nothing of a host be readable, or all of it where err is nil.
func (s *Source) Damage(host uuid.UUID, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.damage[host] = err
}

type watcher struct {
	wake    chan struct{} // capacity 1
	changes []delivery.Change
	gap     bool
	failed  error
}

var _ delivery.Source = (*Source)(nil)

// New makes a Source that has nothing.
func New() *Source {
	return &Source{
		docs: make(map[uuid.UUID]assignment.Stored), hosts: make(map[uuid.UUID]bool), sessions: make(map[uuid.UUID]delivery.Session),
		watchers: make(map[int]*watcher), calls: make(map[string]int), parts: 1, stuck: make(map[int]chan struct{}),
		damage: make(damage),
	}
}

// Split makes a Source of several parts, before it is used. A host's last byte tells its part.
func (s *Source) Split(parts int) { s.parts = parts }

// Part implements delivery.Source.
func (s *Source) Part(host uuid.UUID) (part, of int) { return int(host[15]) % s.parts, s.parts }

// Stick has a part not answer any more, until release is called. What is asked of it waits for that, or until its ctx ends.
func (s *Source) Stick(part int) (release func()) {
	stuck := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stuck[part] = stuck
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.stuck, part)
		close(stuck)
	}
}

// await waits for the parts of hosts, and returns an error if ctx ends before they answer.
func (s *Source) await(ctx context.Context, hosts ...uuid.UUID) error {
	for _, host := range hosts {
		part, _ := s.Part(host)
		s.mu.Lock()
		stuck := s.stuck[part]
		s.mu.Unlock()
		if stuck == nil {
			continue
		}
		select {
		case <-stuck:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Know adds hosts to the inventory without a document.
func (s *Source) Know(hosts ...uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range hosts {
		s.hosts[h] = true
	}
}

// Commit gives a host a new document, the next generation, and tells those who watch.
func (s *Source) Commit(host uuid.UUID, body string) assignment.Version {
	s.mu.Lock()
	v := s.commit(host, body)
	s.mu.Unlock()
	s.Publish(delivery.Change{Host: host, Version: v})
	return v
}

// CommitAll is Commit for many hosts, with one entry of the stream for each.
func (s *Source) CommitAll(hosts []uuid.UUID, body string) {
	changes := make([]delivery.Change, len(hosts))
	s.mu.Lock()
	for i, h := range hosts {
		changes[i] = delivery.Change{Host: h, Version: s.commit(h, body)}
	}
	s.mu.Unlock()
	s.Publish(changes...)
}

func (s *Source) commit(host uuid.UUID, body string) assignment.Version {
	s.hosts[host] = true
	doc := s.docs[host]
	if doc.Version.Epoch == "" {
		doc.Version.Epoch = FirstEpoch
	}
	doc.Host, doc.Body = host, json.RawMessage(body)
	doc.Version.Generation++
	doc.Version.Hash = assignment.Hash(doc.Body)
	s.docs[host] = doc
	return doc.Version
}

// Set makes a document stand as it is, as after a restore, and tells nobody.
func (s *Source) Set(doc assignment.Stored) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hosts[doc.Host] = true
	s.docs[doc.Host] = doc
}

// Silence keeps changes from the stream, as when entries are trimmed.
func (s *Source) Silence(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = on
}

// Publish puts entries into the stream.
func (s *Source) Publish(changes ...delivery.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent {
		return
	}
	for _, w := range s.watchers {
		w.changes = append(w.changes, changes...)
		w.signal()
	}
}

// Gap tells those who watch that entries were missed.
func (s *Source) Gap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watchers {
		w.gap = true
		w.signal()
	}
}

// BreakStream ends all that watch with an error.
func (s *Source) BreakStream(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watchers {
		w.failed = err
		w.signal()
	}
}

// FailWith makes every call but WatchDocuments fail, until it is nil.
func (s *Source) FailWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// Hold has reads of documents wait until release is called, or until their ctx ends.
func (s *Source) Hold() (release func()) {
	held := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = held
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.held = nil
		close(held)
	}
}

// Watching is how many watch now.
func (s *Source) Watching() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.watchers)
}

// Calls is how often a method was called, and for how many hosts or reports in all: "Documents", "Documents of".
func (s *Source) Calls(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[name]
}

// Reports are the batches as they came.
func (s *Source) Reports() [][]delivery.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([][]delivery.Report(nil), s.reports...)
}

// Touched are the hosts of all touches, in order.
func (s *Source) Touched() []uuid.UUID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]uuid.UUID(nil), s.touched...)
}

// Session is the session that is the host's agent.
func (s *Source) Session(host uuid.UUID) uuid.UUID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[host].ID
}

func (w *watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// enter counts a call and says whether it fails. The mutex is held.
func (s *Source) enter(ctx context.Context, name string, of int) error {
	s.calls[name]++
	s.calls[name+" of"] += of
	if s.err != nil {
		return fmt.Errorf("%s: %w", name, s.err)
	}
	return ctx.Err()
}

// Documents implements delivery.Source.
func (s *Source) Documents(ctx context.Context, hosts ...uuid.UUID) ([]assignment.Stored, error) {
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err := s.await(ctx, hosts...); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.enter(ctx, "Documents", len(hosts)); err != nil {
		return nil, err
	}
	out := make([]assignment.Stored, len(hosts))
	for i, h := range hosts {
		if s.damage[h] == nil {
			out[i] = s.docs[h]
		}
	}
	return out, s.damage.of(hosts)
}

// Versions implements delivery.Source.
func (s *Source) Versions(ctx context.Context, hosts ...uuid.UUID) ([]assignment.Version, error) {
	if err := s.await(ctx, hosts...); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.enter(ctx, "Versions", len(hosts)); err != nil {
		return nil, err
	}
	out := make([]assignment.Version, len(hosts))
	for i, h := range hosts {
		if s.damage[h] == nil {
			out[i] = s.docs[h].Version
		}
	}
	return out, s.damage.of(hosts)
}

// Rebase implements delivery.Source.
func (s *Source) Rebase(ctx context.Context, host uuid.UUID, known assignment.Version) (assignment.Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.enter(ctx, "Rebase", 1); err != nil {
		return assignment.Version{}, err
	}
	doc := s.docs[host]
	v := doc.Version
	newer := known.Epoch > v.Epoch || known.Epoch == v.Epoch && known.Generation > v.Generation
	if newer || known.Epoch == v.Epoch && known.Generation == v.Generation && known.Hash != v.Hash {
		var n uint64
		if _, err := fmt.Sscanf(max(v.Epoch, known.Epoch), "%x", &n); err != nil {
			return v, fmt.Errorf("read an epoch: %w", err)
		}
		doc.Version.Epoch, doc.Version.Generation = fmt.Sprintf("%016x", n+1), 1
		s.docs[host] = doc
	}
	return doc.Version, nil
}

// WatchDocuments implements delivery.Source.
func (s *Source) WatchDocuments(ctx context.Context, fn func([]delivery.Change, bool)) error {
	w := &watcher{wake: make(chan struct{}, 1)}
	s.mu.Lock()
	id := s.next
	s.next++
	s.watchers[id] = w
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watchers, id)
		s.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.wake:
		}
		s.mu.Lock()
		changes, gap, failed := w.changes, w.gap, w.failed
		w.changes, w.gap = nil, false
		s.mu.Unlock()
		if failed != nil {
			return failed
		}
		fn(changes, gap)
	}
}

// BeginSession implements delivery.Source.
func (s *Source) BeginSession(ctx context.Context, host, session uuid.UUID, held int64) (number int64, err error) {
	if err := s.await(ctx, host); err != nil {
		return 0, err
	}
	s.mu.Lock()
	stands := s.sessions[host]
	err = s.enter(ctx, "BeginSession", 1)
	switch {
	case err != nil:
	case held > 0 && stands.Number >= held:
		if stands.ID == session {
			number = stands.Number
		}
	default:
		number = s.begin(host, session)
		defer s.Publish(delivery.Change{Host: host, Kind: delivery.Superseded, Session: session})
	}
	s.mu.Unlock()
	return number, err
}

// begin makes a session the host's agent. The mutex is held.
func (s *Source) begin(host, session uuid.UUID) (number int64) {
	s.begun++
	s.sessions[host] = delivery.Session{ID: session, Number: s.begun}
	return s.begun
}

// Sessions implements delivery.Source.
func (s *Source) Sessions(ctx context.Context, hosts ...uuid.UUID) ([]delivery.Session, error) {
	if err := s.await(ctx, hosts...); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.enter(ctx, "Sessions", len(hosts)); err != nil {
		return nil, err
	}
	out := make([]delivery.Session, len(hosts))
	for i, h := range hosts {
		if s.damage[h] == nil {
			out[i] = s.sessions[h]
		}
	}
	return out, s.damage.of(hosts)
}

// Restore makes an earlier beginning stand, as a store does that has lost its last writes, or none. It tells nobody.
func (s *Source) Restore(host uuid.UUID, stands delivery.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[host] = stands
}

// Revoke revokes the credential of a host's agent, and tells those who watch.
func (s *Source) Revoke(host uuid.UUID) {
	s.mu.Lock()
	s.begin(host, delivery.Revoked)
	s.mu.Unlock()
	s.Publish(delivery.Change{Host: host, Kind: delivery.Revoke})
}

// Knows implements delivery.Source.
func (s *Source) Knows(ctx context.Context, host uuid.UUID) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hosts[host], s.enter(ctx, "Knows", 1)
}

// Touch implements delivery.Source.
func (s *Source) Touch(ctx context.Context, hosts ...uuid.UUID) (missed []uuid.UUID, err error) {
	s.mu.Lock()
	if err := s.enter(ctx, "Touch", len(hosts)); err != nil {
		s.mu.Unlock()
		return hosts, err
	}
	var late []uuid.UUID
	for _, host := range hosts {
		if part, _ := s.Part(host); s.stuck[part] != nil {
			late = append(late, host)
		} else {
			s.touched = append(s.touched, host)
		}
	}
	s.mu.Unlock()
	if err := s.await(ctx, late...); err != nil {
		return late, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.touched = append(s.touched, late...)
	return nil, nil
}

// ReportBatch implements delivery.Source.
func (s *Source) ReportBatch(ctx context.Context, reports []delivery.Report) ([]delivery.ReportResult, error) {
	out := make([]delivery.ReportResult, len(reports))
	for i, r := range reports {
		out[i].Err = s.await(ctx, r.Host)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.enter(context.WithoutCancel(ctx), "ReportBatch", len(reports)); err != nil {
		return nil, err
	}
	s.reports = append(s.reports, append([]delivery.Report(nil), reports...))
	for i, r := range reports {
		if out[i].Err == nil {
			agent := s.sessions[r.Host].ID
			out[i].Superseded = agent != uuid.Nil && agent != r.Session
			out[i].Accepted = !out[i].Superseded
		}
	}
	return out, nil
}
