package graph

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
	"iapi/graph/ws"
)

// assignment is GET /agents/{host}/assignment: the subscription's document for agents that poll. The ETag is the version;
// who has it gets 304. With ?session= the session becomes the host's agent, as by subscribing.
func (s *Server) assignment(w http.ResponseWriter, r *http.Request) {
	if ok, after := s.opts.Admission.Admit(); !ok {
		retryLater(w, after)
		text(w, http.StatusTooManyRequests, "Too many come at the same time.")
		return
	}
	r = correlate(w, r)
	ctx, ok := s.authenticated(w, r, func(_ int, err error) { s.refusePoll(r.Context(), w, err) })
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Limits.Timeout)
	defer cancel()
	host, err := uuid.Parse(r.PathValue("host"))
	if err != nil || len(r.PathValue("host")) != 36 {
		s.refusePoll(ctx, w, &refusal{code: codeNotFound, message: "There is no such host."})
		return
	}
	session := uuid.Nil
	if v := r.URL.Query().Get("session"); v != "" {
		if session, err = uuid.Parse(v); err != nil || len(v) != 36 {
			s.refusePoll(ctx, w, &refusal{code: codeBadRequest, message: "The session is a uuid."})
			return
		}
	}
	doc, current, err := s.feed.poll(ctx, host, session, knownVersion(r.Header.Values("If-None-Match")))
	if err != nil {
		s.refusePoll(ctx, w, err)
		return
	}
	h := w.Header()
	h.Set("ETag", etag(doc.Version))
	h.Set("Cache-Control", "private, no-cache")
	h.Set("Vary", "Authorization")
	if current {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := append(ws.AppendAssignment([]byte{'{'}, &doc, s.opts.Clock()), '}')
	h.Set("Content-Type", mediaJSON+"; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	writeWithin(w)
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body) // a client that has gone is no error
}

// refusePoll answers in plain text, which ends with the id that the log has too.
func (s *Server) refusePoll(ctx context.Context, w http.ResponseWriter, err error) {
	e := s.present.present(ctx, err)
	status := http.StatusInternalServerError
	switch e.Extensions["code"] {
	case codeNotReady:
		status = http.StatusServiceUnavailable
	case codeNotFound:
		status = http.StatusNotFound
	case codeUnauthenticated:
		w.Header().Set("WWW-Authenticate", "Bearer")
		status = http.StatusUnauthorized
	case codeForbidden:
		status = http.StatusForbidden
	case codeBadRequest:
		status = http.StatusBadRequest
	case codeSuperseded:
		status = http.StatusConflict
	}
	if after, ok := e.Extensions["retryAfterSeconds"].(float64); ok {
		retryLater(w, time.Duration(after*float64(time.Second)))
	}
	text(w, status, fmt.Sprintf("%s (%v: %v)", e.Message, correlationExtension, e.Extensions[correlationExtension]))
}

func etag(v assignment.Version) string {
	return `"` + v.Epoch + "." + strconv.FormatInt(v.Generation, 10) + "." + v.Hash + `"`
}

// knownVersion reads the first version among the tags of If-None-Match, zero for none. What is no version of ours is
// passed over: it matches nothing.
func knownVersion(values []string) assignment.Version {
	for _, tag := range strings.Split(strings.Join(values, ","), ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if len(tag) < 2 || tag[0] != '"' || tag[len(tag)-1] != '"' {
			continue
		}
		parts := strings.Split(tag[1:len(tag)-1], ".")
		if len(parts) != 3 {
			continue
		}
		generation, err := strconv.ParseInt(parts[1], 10, 64)
		if err == nil && generation > 0 && len(parts[0]) == 16 && parts[2] != "" {
			return assignment.Version{Epoch: parts[0], Generation: generation, Hash: parts[2]}
		}
	}
	return assignment.Version{}
}
