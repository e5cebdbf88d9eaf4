package graph

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"iapi/graph/internal/wire"
)

// GraphQL over HTTP, as the specification's draft and the audits of graphql-http have it.

const (
	mediaGraphQL = "application/graphql-response+json"
	mediaJSON    = "application/json"
)

func (s *Server) http(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	if origin := r.Header.Get("Origin"); origin != "" && slices.Contains(s.opts.Origins, origin) {
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type")
		h.Set("Access-Control-Allow-Methods", "GET, POST")
		h.Set("Vary", "Origin")
	}
	switch r.Method {
	case http.MethodOptions:
		w.Header().Set("Allow", "GET, POST, OPTIONS")
		w.WriteHeader(http.StatusNoContent)
		return
	case http.MethodGet, http.MethodPost:
	default:
		w.Header().Set("Allow", "GET, POST, OPTIONS")
		text(w, http.StatusMethodNotAllowed, "GraphQL is asked by GET and POST.")
		return
	}
	media := negotiate(r.Header.Values("Accept"))
	if media == "" {
		text(w, http.StatusNotAcceptable, "Answers are "+mediaGraphQL+" or "+mediaJSON+".")
		return
	}
	a := &answerer{Server: s, w: w, media: media}
	ctx, ok := s.authenticated(w, r, func(status int, err error) { a.refuse(r.Context(), status, err) })
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Limits.Timeout)
	defer cancel()
	params, status, err := s.params(w, r)
	if err != nil {
		a.refuse(ctx, status, err)
		return
	}
	now := graphql.Now()
	params.ReadTime = graphql.TraceTiming{Start: now, End: now}
	params.Headers = r.Header
	kind, outcome := s.run(graphql.StartOperationTrace(ctx), a, r.Method, params)
	s.measures.operation(kind, outcome, time.Since(began))
}

// run executes an operation and answers. It tells what kind of operation it was, and the code of its first error.
func (s *Server) run(ctx context.Context, a *answerer, method string, params *graphql.RawParams) (kind, outcome string) {
	op, errs := s.exec.CreateOperationContext(ctx, params)
	if errs != nil {
		response := s.exec.DispatchError(graphql.WithOperationContext(ctx, op), errs)
		a.requestError(response)
		return "none", codeOf(response.Errors)
	}
	kind = string(op.Operation.Operation)
	switch op.Operation.Operation {
	case ast.Mutation:
		if method == http.MethodGet {
			a.w.Header().Set("Allow", "POST")
			a.refuse(ctx, http.StatusMethodNotAllowed, &refusal{code: codeBadRequest, message: "Mutations are sent by POST."})
			return kind, codeBadRequest
		}
	case ast.Subscription:
		a.refuse(ctx, http.StatusBadRequest, &refusal{code: codeBadRequest, message: "Subscriptions need a websocket that speaks graphql-transport-ws."})
		return kind, codeBadRequest
	}
	responses, ctx := s.exec.DispatchOperation(ctx, op)
	response := responses(ctx)
	if response == nil { // the time is over
		response = s.exec.DispatchError(ctx, gqlerror.List{gqlerror.WrapIfUnwrapped(context.DeadlineExceeded)})
	}
	if len(response.Data) == 0 && len(response.Errors) > 0 && !reachedFields(response.Errors) {
		a.requestError(response)
	} else {
		a.respond(http.StatusOK, response, true)
	}
	return kind, codeOf(response.Errors)
}

// reachedFields reports whether one of the errors is a field's, so that the operation was executed.
func reachedFields(errs gqlerror.List) bool {
	return slices.ContainsFunc(errs, func(e *gqlerror.Error) bool { return len(e.Path) > 0 })
}

func codeOf(errs gqlerror.List) string {
	if len(errs) == 0 {
		return "OK"
	}
	code, _ := errs[0].Extensions["code"].(string)
	return code
}

// answerTime is how long a client may take to read an answer.
const answerTime = 30 * time.Second

// writeWithin gives an answer its deadline, so that a client that reads nothing holds nothing. The server lifts it before the next
// request.
func writeWithin(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTime)) // not every writer can
}

// params reads the request. The status goes with the error.
func (s *Server) params(w http.ResponseWriter, r *http.Request) (*graphql.RawParams, int, error) {
	if r.Method == http.MethodGet {
		return fromURL(r.URL.Query())
	}
	if t, options, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != mediaJSON ||
		(options["charset"] != "" && !strings.EqualFold(options["charset"], "utf-8")) {
		return nil, http.StatusUnsupportedMediaType, &refusal{code: codeBadRequest, message: "Send " + mediaJSON + " in UTF-8."}
	}
	// A body that trickles in must not hold the connection; the server lifts the deadline before the next request.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.opts.Limits.Timeout)) // not every writer can
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(s.opts.Limits.BodyBytes)))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return nil, http.StatusRequestEntityTooLarge, &refusal{
				code: codeTooLarge, message: "The body is larger than " + strconv.Itoa(s.opts.Limits.BodyBytes) + " bytes.",
			}
		}
		return nil, http.StatusBadRequest, &refusal{code: codeBadRequest, message: "The body cannot be read."}
	}
	return fromJSON(body)
}

func fromURL(q url.Values) (*graphql.RawParams, int, error) {
	members := make(map[string]json.RawMessage)
	for _, name := range []string{"query", "operationName"} {
		if v := q.Get(name); v != "" {
			quoted, err := json.Marshal(v)
			if err != nil {
				return nil, http.StatusBadRequest, invalid(name, "a string")
			}
			members[name] = quoted
		}
	}
	for _, name := range []string{"variables", "extensions"} {
		if v := q.Get(name); v != "" {
			members[name] = json.RawMessage(v)
		}
	}
	return fromMembers(members)
}

func fromJSON(body []byte) (*graphql.RawParams, int, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil || members == nil {
		return nil, http.StatusBadRequest, &refusal{code: codeBadRequest, message: "The body is a JSON object with a query."}
	}
	return fromMembers(members)
}

func fromMembers(members map[string]json.RawMessage) (*graphql.RawParams, int, error) {
	var p graphql.RawParams
	read := func(name string, into any, what string) error {
		raw, ok := members[name]
		if !ok {
			return nil
		}
		decoder := json.NewDecoder(strings.NewReader(string(raw)))
		decoder.UseNumber()
		if err := decoder.Decode(into); err != nil {
			return invalid(name, what)
		}
		if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
			return invalid(name, what)
		}
		return nil
	}
	for _, m := range []struct {
		name string
		into any
		what string
	}{
		{"query", &p.Query, "a string"}, {"operationName", &p.OperationName, "a string"},
		{"variables", &p.Variables, "an object"}, {"extensions", &p.Extensions, "an object"},
	} {
		if err := read(m.name, m.into, m.what); err != nil {
			return nil, http.StatusBadRequest, err
		}
	}
	if p.Query == "" {
		return nil, http.StatusBadRequest, &refusal{code: codeBadRequest, message: "There is no query."}
	}
	return &p, http.StatusOK, nil
}

func invalid(name, what string) error {
	return &refusal{code: codeBadRequest, message: "The parameter " + name + " is " + what + "."}
}

// answerer writes one answer.
type answerer struct {
	*Server
	w     http.ResponseWriter
	media string
}

// refuse answers a request that is no GraphQL request, or may not be one.
func (a *answerer) refuse(ctx context.Context, status int, err error) {
	e := a.present.present(ctx, err)
	e.Path = nil
	a.respond(status, &graphql.Response{Errors: gqlerror.List{e}}, false)
}

// requestError answers a GraphQL request that was not executed. Under application/json a status other than 200 may come
// from anything on the way, so the answer has 200.
func (a *answerer) requestError(r *graphql.Response) {
	status := http.StatusOK
	if a.media == mediaGraphQL {
		status = http.StatusBadRequest
	}
	switch codeOf(r.Errors) {
	case codeRateLimited:
		status = http.StatusTooManyRequests
		if after, ok := r.Errors[0].Extensions["retryAfterSeconds"].(float64); ok {
			retryLater(a.w, time.Duration(after*float64(time.Second)))
		}
	case codeInternal:
		status = http.StatusInternalServerError
	}
	a.respond(status, r, false)
}

func (a *answerer) respond(status int, r *graphql.Response, executed bool) {
	body, err := wire.Append(make([]byte, 0, len(r.Data)+256), r, executed)
	if err != nil {
		a.log.Error("an answer cannot be encoded", "error", err)
		text(a.w, http.StatusInternalServerError, "Something went wrong on our side.")
		return
	}
	h := a.w.Header()
	h.Set("Content-Type", a.media+"; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	writeWithin(a.w)
	a.w.WriteHeader(status)
	_, _ = a.w.Write(body) // a client that has gone is no error
}

// negotiate picks the media type of the answer, "" where none fits. Who does not say gets application/json.
func negotiate(accept []string) string {
	if len(accept) == 0 {
		return mediaJSON
	}
	best, bestQ, bestRank := "", 0.0, 0
	for _, part := range strings.Split(strings.Join(accept, ","), ",") {
		t, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		q := 1.0
		if v, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(v, 64); err != nil || q <= 0 {
				continue
			}
		}
		if c := params["charset"]; c != "" && !strings.EqualFold(c, "utf-8") {
			continue
		}
		media, rank := mediaJSON, 1
		switch t {
		case mediaGraphQL:
			media, rank = mediaGraphQL, 3
		case mediaJSON:
			rank = 2
		case "*/*", "application/*":
		default:
			continue
		}
		if q > bestQ || q == bestQ && rank > bestRank {
			best, bestQ, bestRank = media, q, rank
		}
	}
	return best
}
