package dataapi

import (
	"encoding/json"
	"net/http"
	"time"
)

// Line is one line of a live stream. Exactly one of Event, Missed and Alive is set; every line has a position to go on
// from after a break.
type Line struct {
	Position string          `json:"position"`
	Event    json.RawMessage `json:"event,omitempty"`
	Missed   uint64          `json:"missed,omitempty"` // so many events went by before the reader came to them
	Alive    time.Time       `json:"alive,omitzero"`   // the first line, and whenever nothing else was to be said
}

// live shows a stream from the asked position or time on, and then as events arrive. What a slow reader has not read
// waits in the stream itself, which is bounded: nothing is kept for the reader, and it is told how much it has missed.
func (s *Server) live(w http.ResponseWriter, r *http.Request) {
	name, ok := s.begin(w, r)
	if !ok {
		return
	}
	q, err := s.query(r)
	if err != nil {
		s.refuse(w, &Refusal{Error: err.Error(), status: http.StatusBadRequest})
		return
	}
	if !s.enter() {
		s.refuse(w, tooManyReaders)
		return
	}
	defer s.leave()
	st, refusal := s.streams.subscribe(name)
	if refusal != nil {
		s.refuse(w, refusal)
		return
	}
	defer s.streams.unsubscribe(st)

	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy would hold the lines back
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // nothing more is read, and a deadline that passes would end the request
	send := func(lines ...Line) bool {
		_ = control.SetWriteDeadline(time.Now().Add(s.opts.Timeout)) // a recorder has none to set
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		for _, l := range lines {
			if enc.Encode(l) != nil {
				return false
			}
		}
		return control.Flush() == nil
	}
	if !send(Line{Position: s.position(q.after), Alive: s.opts.Now().UTC()}) {
		return
	}
	heartbeat := time.NewTicker(s.opts.Heartbeat)
	defer heartbeat.Stop()
	for after := q.after; ; {
		p := s.streams.follow(st, after, q.since, 256)
		var lines []Line
		if p.missed > 0 && after > 0 { // who begins has missed nothing
			lines = append(lines, Line{Position: s.position(after + p.missed), Missed: p.missed})
		}
		for _, e := range p.events {
			lines = append(lines, Line{Position: s.position(e.at), Event: e.line})
		}
		after = p.next
		if len(lines) > 0 {
			if !send(lines...) {
				return
			}
			continue
		}
		select {
		case <-p.news:
		case <-heartbeat.C:
			if !send(Line{Position: s.position(after), Alive: s.opts.Now().UTC()}) {
				return
			}
		case <-r.Context().Done():
			return
		case <-s.ctx.Done():
			return
		}
	}
}

var tooManyReaders = &Refusal{Error: "there are too many open connections", status: http.StatusServiceUnavailable, retryAfter: 10}
