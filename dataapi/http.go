package dataapi

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"iapi/dataapi/event"
)

const (
	defaultLimit = 1000
	maxKey       = 256 // bytes of an idempotency key
)

// PositionHeader tells, with an answer of events, the position to ask for the next ones after.
const PositionHeader = "Iapi-Position"

func (s *Server) refuse(w http.ResponseWriter, r *Refusal) {
	if r.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(r.retryAfter))
	}
	answer(w, r.status, r)
}

// bounded sets the deadlines of a request, and takes them away again from a connection that others may use.
func (s *Server) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		// A recorder in a test has no deadlines to set; a connection always has.
		_ = control.SetReadDeadline(time.Now().Add(s.opts.Timeout))
		_ = control.SetWriteDeadline(time.Now().Add(2 * s.opts.Timeout))
		defer func() { _ = control.SetWriteDeadline(time.Time{}) }()
		next.ServeHTTP(w, r)
	})
}

// begin checks a request's stream.
func (s *Server) begin(w http.ResponseWriter, r *http.Request) (name string, ok bool) {
	name = r.PathValue("stream")
	if err := event.CheckStream(name); err != nil {
		s.refuse(w, &Refusal{Error: err.Error(), status: http.StatusBadRequest})
		return "", false
	}
	return name, true
}

func (s *Server) post(w http.ResponseWriter, r *http.Request) {
	name, ok := s.begin(w, r)
	if !ok {
		return
	}
	key := r.Header.Get("Idempotency-Key")
	if len(key) > maxKey {
		s.refuse(w, &Refusal{Error: fmt.Sprintf("Idempotency-Key: has more than %d bytes", maxKey), status: http.StatusBadRequest})
		return
	}
	body, refusal := s.lines(w, r)
	if refusal != nil {
		s.refuse(w, refusal)
		return
	}
	receipt, refusal := s.take(name, key, body, 1)
	if refusal != nil {
		s.refuse(w, refusal)
		return
	}
	answer(w, http.StatusOK, receipt)
}

// lines is a request's body, which says that it is made of lines.
func (s *Server) lines(w http.ResponseWriter, r *http.Request) ([]byte, *Refusal) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); r.Header.Get("Content-Type") != "" && (err != nil || !takenTypes[kind]) {
		return nil, &Refusal{Error: "Content-Type: must be application/x-ndjson", status: http.StatusUnsupportedMediaType}
	}
	return s.body(w, r)
}

// curl says application/x-www-form-urlencoded of whatever it posts.
var takenTypes = map[string]bool{
	"application/x-ndjson": true, "application/ndjson": true, "application/jsonl": true, "application/json": true,
	"application/octet-stream": true, "text/plain": true, "application/x-www-form-urlencoded": true,
}

// body reads a request's body, unpacked, up to MaxBody.
func (s *Server) body(w http.ResponseWriter, r *http.Request) ([]byte, *Refusal) {
	var in io.Reader = http.MaxBytesReader(w, r.Body, s.opts.MaxBody)
	tooLarge := &Refusal{Error: fmt.Sprintf("the batch has more than %d bytes", s.opts.MaxBody), status: http.StatusRequestEntityTooLarge}
	switch strings.ToLower(r.Header.Get("Content-Encoding")) {
	case "", "identity":
	case "gzip":
		unpacked, err := gzip.NewReader(in)
		if err != nil {
			return nil, &Refusal{Error: "the body is not gzip", status: http.StatusBadRequest}
		}
		in = unpacked
	default:
		return nil, &Refusal{Error: "Content-Encoding: must be gzip or none", status: http.StatusUnsupportedMediaType}
	}
	body, err := io.ReadAll(io.LimitReader(in, s.opts.MaxBody+1))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok || int64(len(body)) > s.opts.MaxBody {
		return nil, tooLarge
	}
	if err != nil {
		return nil, &Refusal{Error: "the body could not be read", status: http.StatusBadRequest}
	}
	return body, nil
}

// take checks a batch and stores it whole, or says why not. A key that was seen is answered before the lines are read.
func (s *Server) take(name, key string, lines []byte, firstLine int) (Receipt, *Refusal) {
	if r, ok := s.streams.seen(name, key); ok {
		return r, nil
	}
	events, refusal := decode(name, lines, firstLine)
	if refusal != nil {
		return Receipt{}, refusal
	}
	return s.streams.store(name, key, events)
}

// query is what a reader may ask for.
type query struct {
	since time.Time
	after uint64
	limit int
}

func (s *Server) query(r *http.Request) (query, error) {
	q := query{limit: defaultLimit}
	var err error
	if text := r.URL.Query().Get("since"); text != "" {
		if q.since, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return q, errors.New("since: is not a time as RFC 3339 has it")
		}
	}
	if text := r.URL.Query().Get("limit"); text != "" {
		if q.limit, err = strconv.Atoi(text); err != nil || q.limit < 1 || q.limit > s.opts.MaxEventsPerStream {
			return q, fmt.Errorf("limit: must be from 1 to %d", s.opts.MaxEventsPerStream)
		}
	}
	if text := r.URL.Query().Get("after"); text != "" {
		boot, at, ok := strings.Cut(text, ".")
		n, err := strconv.ParseUint(at, 10, 63)
		if !ok || err != nil {
			return q, errors.New("after: is not a position")
		}
		if boot == s.streams.boot { // a position of another life means the beginning of this one
			q.after = n
		}
	}
	q.limit = min(q.limit, s.opts.MaxEventsPerStream)
	return q, nil
}

func (s *Server) position(at uint64) string { return s.streams.boot + "." + strconv.FormatUint(at, 10) }

func (s *Server) get(w http.ResponseWriter, r *http.Request) {
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		s.socket(w, r)
		return
	}
	name, ok := s.begin(w, r)
	if !ok {
		return
	}
	q, err := s.query(r)
	if err != nil {
		s.refuse(w, &Refusal{Error: err.Error(), status: http.StatusBadRequest})
		return
	}
	p, ok := s.streams.read(name, q.after, q.since, q.limit)
	if !ok {
		s.refuse(w, noStream)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set(PositionHeader, s.position(p.next))
	for _, e := range p.events {
		if _, err := w.Write(append(e.line[:len(e.line):len(e.line)], '\n')); err != nil {
			return
		}
	}
}

var noStream = &Refusal{Error: "there is no such stream", status: http.StatusNotFound}

func (s *Server) info(w http.ResponseWriter, r *http.Request) {
	name, ok := s.begin(w, r)
	if !ok {
		return
	}
	info, ok := s.streams.infoOf(name)
	if !ok {
		s.refuse(w, noStream)
		return
	}
	answer(w, http.StatusOK, info)
}

func (s *Server) list(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string][]Info{"streams": s.streams.all()})
}
