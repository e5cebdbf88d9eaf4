// Package light has agents for load tests that cost as little as can be, so that what is measured is the servers: one goroutine
// and one epoll for all of them. They are whole in what they say, the subscription and the reports word for word as agents
// send them, and look no further into what they hear than to answer it. They do not come back when their connection ends.
package light

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
	"iapi/graph/agentdoc"
	"iapi/tests/load/sim"
)

// Observer is told what the agents do, by the one goroutine of all. Its functions must not block; each may be nil.
type Observer struct {
	// Received: an assignment has come.
	Received func(host uuid.UUID)
	// Acknowledged: the API has taken the report of it, which has changed this.
	Acknowledged func(host uuid.UUID, changes []sim.Change)
	// Refused: the API did not take a report, which comes again.
	Refused func(err error)
}

// Options are what a fleet is made of. Hosts and Server must be given.
type Options struct {
	Hosts    []uuid.UUID
	Tokens   []string // of the hosts, in their order; nil: none
	Server   string   // http://ADDRESS:PORT
	InFlight int      // agents that are connecting for the first time at the same time; 0: all
	Mute     bool     // never reports
	Observer Observer
}

// item is what an agent needs to know of an instrumentation to report it.
type item struct {
	id       string
	revision int
}

// agent is what one host's agent knows.
type agent struct {
	host, session uuid.UUID
	version       assignment.Version
	items         []item // of the newest assignment
	told, acked   []item // of the last report, and of the last that was taken
	sequence      int64
	fresh, asking bool // there is something to report; a report is under way
}

var (
	quotedReport = quote(agentdoc.Report)
	quotedStatus = []byte(`,"status":"RUNNING","lastSampleAt":"`)
)

func quote(text string) []byte {
	raw, err := json.Marshal(text)
	if err != nil { // a string can always be written
		panic(err)
	}
	return raw
}

// subscribe is the message that asks for the assignments.
func (a *agent) subscribe() ([]byte, error) {
	raw, err := json.Marshal(map[string]any{"id": "a", "type": "subscribe", "payload": map[string]any{
		"query": agentdoc.Assignments, "variables": agentdoc.AssignmentsVariables{Host: a.host, Session: a.session},
	}})
	if err != nil {
		return nil, fmt.Errorf("write the subscription: %w", err)
	}
	return raw, nil
}

// report appends the message that tells that all of the assignment runs, and has an id of its own.
func (a *agent) report(b []byte, now time.Time) []byte {
	a.sequence++
	a.fresh, a.asking, a.told = false, true, a.items
	b = append(b, `{"id":"`...)
	b = strconv.AppendInt(b, a.sequence, 10)
	b = append(b, `","type":"subscribe","payload":{"query":`...)
	b = append(b, quotedReport...)
	b = append(b, `,"variables":{"input":{"host":"`...)
	b = appendUUID(b, a.host)
	b = append(b, `","session":"`...)
	b = appendUUID(b, a.session)
	b = append(b, `","sequence":`...)
	b = strconv.AppendInt(b, a.sequence, 10)
	b = append(b, `,"agentVersion":"light","capabilities":["procfs"],"applied":{"epoch":"`...)
	b = append(b, a.version.Epoch...)
	b = append(b, `","generation":`...)
	b = strconv.AppendInt(b, a.version.Generation, 10)
	b = append(b, `,"hash":"`...)
	b = append(b, a.version.Hash...)
	b = append(b, `"},"instrumentations":[`...)
	for i, it := range a.items {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"id":"`...)
		b = append(b, it.id...)
		b = append(b, `","revision":`...)
		b = strconv.AppendInt(b, int64(it.revision), 10)
		b = append(b, quotedStatus...)
		b = now.AppendFormat(b, time.RFC3339Nano)
		b = append(b, `"}`...)
	}
	return append(b, `]}}}}`...)
}

func appendUUID(b []byte, id uuid.UUID) []byte {
	var text [36]byte
	raw, _ := id.MarshalText() // never fails
	return append(b, append(text[:0], raw...)...)
}

// taken notes that the last report was taken, and gives what it has changed.
func (a *agent) taken() (out []sim.Change) {
	find := func(list []item, id string) (item, bool) {
		for _, it := range list {
			if it.id == id {
				return it, true
			}
		}
		return item{}, false
	}
	for _, now := range a.told {
		if was, had := find(a.acked, now.id); !had || was != now {
			out = append(out, sim.Change{ID: now.id, Revision: now.revision})
		}
	}
	for _, was := range a.acked {
		if _, still := find(a.told, was.id); !still {
			out = append(out, sim.Change{ID: was.id, Revision: was.revision, Gone: true})
		}
	}
	a.acked = a.told
	return out
}

// What is looked for in a document. An id stands first in an instrumentation, and nowhere else in the documents of load tests.
var (
	anAssignment = []byte(`"__typename":"Assignment"`)
	anEpoch      = []byte(`"epoch":"`)
	aGeneration  = []byte(`"generation":`)
	aHash        = []byte(`"hash":"`)
	anID         = []byte(`{"id":"`)
	aRevision    = []byte(`"revision":`)
)

// assigned takes over a document, and reports whether there was one.
func (a *agent) assigned(message []byte) bool {
	rest, ok := after(message, anAssignment)
	if !ok {
		return false
	}
	var v assignment.Version
	if rest, ok = after(rest, anEpoch); !ok {
		return false
	}
	v.Epoch = string(until(rest, '"'))
	if rest, ok = after(rest, aGeneration); !ok {
		return false
	}
	v.Generation = number(rest)
	if rest, ok = after(rest, aHash); !ok {
		return false
	}
	v.Hash = string(until(rest, '"'))
	items := make([]item, 0, len(a.items)+1)
	for {
		if rest, ok = after(rest, anID); !ok {
			break
		}
		it := item{id: string(until(rest, '"'))}
		if rest, ok = after(rest, aRevision); !ok {
			return false
		}
		it.revision = int(number(rest))
		items = append(items, it)
	}
	a.version, a.items, a.fresh = v, items, true
	return true
}

// after gives what follows a text.
func after(in, text []byte) ([]byte, bool) {
	i := bytes.Index(in, text)
	if i < 0 {
		return nil, false
	}
	return in[i+len(text):], true
}

func until(in []byte, end byte) []byte {
	if i := bytes.IndexByte(in, end); i >= 0 {
		return in[:i]
	}
	return in
}

func number(in []byte) (n int64) {
	for _, c := range in {
		if c < '0' || c > '9' {
			break
		}
		n = 10*n + int64(c-'0')
	}
	return n
}
