package dataapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"iapi/dataapi/event"
)

// maxTogether is how many batches a request may hold.
const maxTogether = 1024

// TogetherHead is the line before each batch of a request that holds batches of several streams.
type TogetherHead struct {
	Stream string `json:"stream"`
	Key    string `json:"key,omitempty"` // as an Idempotency-Key
	Events int    `json:"events"`        // so many lines follow
}

// TogetherAnswer says what became of each batch of such a request, in their order.
type TogetherAnswer struct {
	Batches []Outcome `json:"batches"`
}

// Outcome is what became of one batch. A status says that nothing of it was stored, in HTTP's words.
type Outcome struct {
	Accepted   int         `json:"accepted"`
	Duplicate  bool        `json:"duplicate,omitempty"`
	Status     int         `json:"status,omitempty"`
	Error      string      `json:"error,omitempty"`
	Lines      []LineError `json:"lines,omitempty"`
	RetryAfter int         `json:"retryAfter,omitempty"` // seconds
}

// taken stores a batch, or not, and says so.
func (s *Server) taken(name, key string, lines []byte, firstLine int) Outcome {
	receipt, refusal := s.take(name, key, lines, firstLine)
	if refusal != nil {
		return Outcome{Status: refusal.status, Error: refusal.Error, Lines: refusal.Lines, RetryAfter: refusal.retryAfter}
	}
	return Outcome{Accepted: receipt.Accepted, Duplicate: receipt.Duplicate}
}

func (s *Server) together(w http.ResponseWriter, r *http.Request) {
	body, refusal := s.lines(w, r)
	if refusal != nil {
		s.refuse(w, refusal)
		return
	}
	batches, err := apart(body)
	if err != nil {
		s.refuse(w, &Refusal{Error: err.Error(), status: http.StatusBadRequest})
		return
	}
	all := TogetherAnswer{Batches: make([]Outcome, 0, len(batches))}
	for _, b := range batches {
		all.Batches = append(all.Batches, s.taken(b.Stream, b.Key, b.lines, b.firstLine))
	}
	answer(w, http.StatusOK, all)
}

// headed is a batch as it came.
type headed struct {
	TogetherHead
	lines     []byte
	firstLine int
}

// apart takes a request's batches apart by what their heads say. An error is about the request as a whole.
func apart(body []byte) ([]headed, error) {
	var all []headed
	line := 0
	next := func() (text []byte) {
		text, body, _ = bytes.Cut(body, []byte("\n"))
		line++
		return text
	}
	for len(body) > 0 {
		text := bytes.TrimSpace(next())
		if len(text) == 0 {
			continue
		}
		b := headed{firstLine: line + 1}
		if err := json.Unmarshal(text, &b.TogetherHead); err != nil || event.CheckStream(b.Stream) != nil || len(b.Key) > maxKey || b.Events < 0 {
			return nil, fmt.Errorf(`line %d: is not the head of a batch, {"stream": name, "key": text, "events": number}`, line)
		}
		if len(all) == maxTogether {
			return nil, fmt.Errorf("line %d: there are more than %d batches", line, maxTogether)
		}
		begin := body
		for range b.Events {
			if len(body) == 0 {
				return nil, errors.New("the body has fewer lines than its last head says")
			}
			next()
		}
		b.lines = begin[:len(begin)-len(body)]
		all = append(all, b)
	}
	return all, nil
}
