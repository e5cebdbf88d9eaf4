package faults

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/agent/session"
	"iapi/assignment"
	"iapi/graph/agentdoc"
	"iapi/tests/load/cloud"
	"iapi/tests/load/sim"
)

// kind is what an entry of a history tells.
type kind string

const (
	created      kind = "created"      // a create was answered
	restarted    kind = "restarted"    // an agent begins again with what it had applied
	deleted      kind = "deleted"      // a delete was asked for
	gone         kind = "gone"         // the API does not know the instrumentation, or not any more
	subscribed   kind = "subscribed"   // an agent has subscribed
	sent         kind = "sent"         // the API has sent a document
	received     kind = "received"     // an agent's session has handed it over
	applied      kind = "applied"      // the agent runs it
	acknowledged kind = "acknowledged" // the API has taken the agent's report of it
	counted      kind = "counted"      // the coverage of an instrumentation was read, so it is known
	sized        kind = "sized"        // what the service takes was measured, with nothing to do
)

// entry is one event. The order of entries is the order in which they were noted, which for one host is the order in which
// they happened.
type entry struct {
	at       time.Duration // since the start
	kind     kind
	host     uuid.UUID
	version  assignment.Version
	ids      []string // of the document
	id       string   // of the instrumentation
	moves    bool     // it follows the tags of VMs, so it may leave a host and come back
	coverage cloud.Coverage
	size     size
}

func (e entry) String() string {
	return fmt.Sprintf("%8.3f s  %-12s host %s  %s.%d.%.6s  %s %v", e.at.Seconds(), e.kind, e.host, e.version.Epoch, e.version.Generation,
		e.version.Hash, e.id, e.ids)
}

// history is everything that was seen of a run.
type history struct {
	began time.Time

	mu      sync.Mutex
	entries []entry
}

func newHistory() *history { return &history{began: time.Now()} }

func (h *history) note(e entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e.at = time.Since(h.began)
	h.entries = append(h.entries, e)
}

func (h *history) document(k kind, host uuid.UUID, a agentdoc.Assignment) {
	ids := make([]string, len(a.Instrumentations))
	for i, item := range a.Instrumentations {
		ids[i] = item.ID
	}
	h.note(entry{kind: k, host: host, version: a.Version, ids: ids})
}

func (h *history) observer() sim.Observer {
	return sim.Observer{
		Received: func(a *sim.Agent, doc session.Assignment) { h.document(received, a.Host(), doc) },
		Applied:  func(a *sim.Agent, doc session.Assignment) { h.document(applied, a.Host(), doc) },
		Acknowledged: func(a *sim.Agent, doc session.Assignment, _ []sim.Change) {
			h.document(acknowledged, a.Host(), doc)
		},
	}
}

func (h *history) all() []entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.entries)
}

// standing is what the store has in the end, by host.
type standing map[uuid.UUID]assignment.Version

// violations finds what must never happen. Each begins with the number of what it breaks.
func violations(entries []entry, end standing) []string {
	var found []string
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	type perHost struct {
		received, applied assignment.Version
		hashes            map[assignment.Version]string // by epoch and generation
		sent, subscribed  int
		had, acked        map[string]bool // what it has run, and of that what it has reported to have ended
		runs              []string
	}
	hosts := make(map[uuid.UUID]*perHost)
	of := func(id uuid.UUID) *perHost {
		if hosts[id] == nil {
			hosts[id] = &perHost{hashes: make(map[assignment.Version]string), had: make(map[string]bool), acked: make(map[string]bool)}
		}
		return hosts[id]
	}
	answered, moves, asked, ended := make(map[string]bool), make(map[string]bool), make(map[string]bool), make(map[string]bool)
	var sizes []size
	for _, e := range entries {
		h := of(e.host)
		switch e.kind {
		case created:
			answered[e.id], moves[e.id] = true, e.moves
		case deleted:
			asked[e.id] = true
		case sized:
			sizes = append(sizes, e.size)
		case gone:
			if answered[e.id] && !asked[e.id] {
				add("I3: %s was answered, and is lost\n%v", e.id, e)
			}
			ended[e.id] = true
			for id, other := range hosts {
				if slices.Contains(other.runs, e.id) {
					add("I6: host %s runs %s, which is gone\n%v", id, e.id, e)
				}
			}
		case restarted: // what it had received and not applied may come again
			if e.version != h.applied {
				add("I2: an agent begins again with another version than it has applied, %v\n%v", h.applied, e)
			}
			h.received = e.version
		case subscribed:
			h.subscribed++
		case sent, received, applied:
			numbered := assignment.Version{Epoch: e.version.Epoch, Generation: e.version.Generation}
			if hash, known := h.hashes[numbered]; known && hash != e.version.Hash {
				add("I2: two documents have one version\n%v", e)
			}
			h.hashes[numbered] = e.version.Hash
			switch e.kind {
			case sent:
				h.sent++
			case received:
				if !e.version.Newer(h.received) {
					add("I2: an agent was handed what is not newer than %v\n%v", h.received, e)
				}
				h.received = e.version
			case applied:
				if !e.version.Newer(h.applied) {
					add("I2: an agent went back from %v\n%v", h.applied, e)
				}
				for _, id := range e.ids {
					h.had[id] = true
					// Of one whose create was not answered it is not known whether it moves.
					if h.acked[id] && answered[id] && !moves[id] {
						add("I6: %s runs again after its delete was acknowledged\n%v", id, e)
					}
					if ended[id] {
						add("I6: %s runs after it was gone\n%v", id, e)
					}
				}
				h.applied, h.runs = e.version, e.ids
			}
		case acknowledged:
			for id := range h.had { // only a delete ends what does not move
				if !slices.Contains(e.ids, id) {
					h.acked[id] = true
				}
			}
		case counted:
			if ended[e.id] {
				add("I3: %s was gone, and is back\n%v", e.id, e)
			}
			if c := e.coverage; c.Expected != c.Running+c.Pending+c.Failed+c.Offline || min(c.Running, c.Pending, c.Failed, c.Offline) < 0 {
				add("I8: the coverage does not add up: %+v\n%v", c, e)
			}
		}
	}
	if len(sizes) > 1 {
		found = append(found, sizes[0].grown(sizes[len(sizes)-1])...)
	}
	for id, h := range hosts {
		v, known := end[id]
		if !known || len(h.hashes) == 0 {
			continue
		}
		// A host's documents are numbered without gaps, so its generation is how often it has changed.
		if changes := int(v.Generation); h.sent > changes+h.subscribed {
			add("I9: host %s was sent %d documents, for %d changes and %d subscriptions", id, h.sent, changes, h.subscribed)
		}
	}
	return found
}

// size is what may not grow.
type size struct {
	keys                            int64 // of the store
	goroutines, descriptors, memory int64 // of the APIs; memory in bytes
	unsure                          int   // creates that were not answered, and may have left an instrumentation behind
}

// grown tells what is more than it was, with the same load as then: I10. What is less than the slack is tasks that have just
// been done, connections that are about to end, and the like.
func (before size) grown(after size) []string {
	var found []string
	for _, c := range []struct {
		what     string
		is, most int64
	}{
		{"keys in the store", after.keys, before.keys*11/10 + 60 + 40*int64(after.unsure)},
		{"goroutines of the APIs", after.goroutines, before.goroutines + 40},
		{"descriptors of the APIs", after.descriptors, before.descriptors + 60},
		{"bytes of memory of the APIs", after.memory, before.memory*2 + 16<<20},
	} {
		if c.is > c.most {
			found = append(found, fmt.Sprintf("I10: %s have grown to %d: %+v to %+v", c.what, c.is, before, after))
		}
	}
	return found
}
