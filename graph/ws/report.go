package ws

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/google/uuid"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/graph/agentdoc"
	"iapi/identity"
	"iapi/instrumentation"
)

// reportPrefix is how the payload of an agent's report begins, and all of it but for the variables and the last brace.
var reportPrefix = []byte(`{"query":` + string(quote(agentdoc.Report)) + `,"variables":`)

// reportField is where the document has its one field.
var reportField = []gqlerror.Location{{Line: 2, Column: 3}}

// formalUUID is a UUID as the schema has it, in one spelling only.
type formalUUID uuid.UUID

func (u *formalUUID) UnmarshalText(text []byte) error {
	if len(text) != 36 {
		return errors.New("a UUID must be 8-4-4-4-12 hexadecimal digits")
	}
	return (*uuid.UUID)(u).UnmarshalText(text)
}

// reportInput is a ReportAgentStatusInput. What the schema requires is a pointer or a list, so that its absence shows.
type reportInput struct {
	Host, Session    *formalUUID
	Sequence         *int32
	AgentVersion     *string
	Capabilities     []*string
	Applied          *versionInput
	Instrumentations []*statusInput
	Targets          []*targetInput
}

type versionInput struct {
	Epoch      *string
	Generation *int32
	Hash       *string
}

type statusInput struct {
	ID           *string
	Revision     *int32
	Status       instrumentation.Status
	Message      string
	LastSampleAt time.Time
	VMFailures   []*failureInput
}

type failureInput struct {
	VM      *formalUUID
	Status  instrumentation.Status
	Message string
}

type targetInput struct {
	Instrumentation *string
	Target          *int32
	Connected       *bool
	Queued, Dropped *int64
	LastSuccessAt   time.Time
	LastError       string
}

// knownReport reads the payload of an agent's report. What is not exactly as agents write it, and what the schema refuses,
// is left to the executor, which knows how to complain.
func knownReport(payload []byte) (r delivery.Report, ok bool) {
	var v struct{ Input reportInput }
	if !variables(payload, reportPrefix, &v) {
		return r, false
	}
	in := &v.Input
	if in.Host == nil || in.Session == nil || in.Sequence == nil || in.AgentVersion == nil || in.Capabilities == nil || in.Instrumentations == nil {
		return r, false
	}
	r = delivery.Report{
		Host: uuid.UUID(*in.Host), Session: uuid.UUID(*in.Session), Sequence: int64(*in.Sequence), AgentVersion: *in.AgentVersion,
		Capabilities: make([]string, len(in.Capabilities)), Instrumentations: make([]delivery.Status, len(in.Instrumentations)),
	}
	for i, c := range in.Capabilities {
		if c == nil {
			return r, false
		}
		r.Capabilities[i] = *c
	}
	if a := in.Applied; a != nil {
		if a.Epoch == nil || a.Generation == nil || a.Hash == nil {
			return r, false
		}
		r.Applied = assignment.Version{Epoch: *a.Epoch, Generation: int64(*a.Generation), Hash: *a.Hash}
	}
	for i, s := range in.Instrumentations {
		if s == nil || s.ID == nil || s.Revision == nil || !statuses[s.Status] {
			return r, false
		}
		r.Instrumentations[i] = delivery.Status{
			ID: instrumentation.ID(*s.ID), Revision: int(*s.Revision), Status: s.Status, Message: s.Message, LastSample: s.LastSampleAt.UTC(),
		}
		if len(s.VMFailures) > 0 {
			r.Instrumentations[i].VMs = make(map[uuid.UUID]instrumentation.SourceFailure, len(s.VMFailures))
		}
		for _, f := range s.VMFailures {
			if f == nil || f.VM == nil || !statuses[f.Status] {
				return r, false
			}
			r.Instrumentations[i].VMs[uuid.UUID(*f.VM)] = instrumentation.SourceFailure{Status: f.Status, Message: f.Message}
		}
	}
	for _, t := range in.Targets {
		if t == nil || t.Instrumentation == nil || t.Target == nil || t.Connected == nil || !count(t.Queued) || !count(t.Dropped) {
			return r, false
		}
		r.Targets = append(r.Targets, delivery.TargetStatus{
			Instrumentation: instrumentation.ID(*t.Instrumentation), Target: int(*t.Target), Connected: *t.Connected,
			Queued: *t.Queued, Dropped: *t.Dropped, LastSuccess: t.LastSuccessAt.UTC(), LastError: t.LastError,
		})
	}
	return r, true
}

// count reports whether a number is there and an Int.
func count(n *int64) bool { return n != nil && *n >= math.MinInt32 && *n <= math.MaxInt32 }

// statuses are those of the schema.
var statuses = map[instrumentation.Status]bool{
	instrumentation.StatusPending: true, instrumentation.StatusRunning: true, instrumentation.StatusFailed: true,
	instrumentation.StatusUnsupported: true, instrumentation.StatusDenied: true, instrumentation.StatusOverBudget: true,
	instrumentation.StatusOffline: true,
}

// report stores an agent's report and answers byte for byte what the executor would.
func (c *conn) report(ctx context.Context, op *operation, r delivery.Report) {
	defer op.end()
	ctx = identity.WithCaller(ctx, *c.caller)
	present := c.server.opts.Present
	defer func() {
		if p := recover(); p != nil {
			c.finishWith(op, c.errorFrame(op.id, gqlerror.List{present(ctx, fmt.Errorf("an operation panicked: %v", p))}))
		}
	}()
	result, next, err := c.server.opts.Report(ctx, r)
	if err != nil {
		problem := present(ctx, err)
		problem.Path, problem.Locations = ast.Path{ast.PathName("reportAgentStatus")}, reportField
		failed := c.nextFrame(op.id, &graphql.Response{Errors: gqlerror.List{problem}})
		c.finishWith(op, append(failed, completeFrame(op.id)...))
		return
	}
	b := append([]byte(`{"id":`), op.quoted...)
	b = append(b, `,"type":"next","payload":{"data":{"reportAgentStatus":{"accepted":`...)
	b = strconv.AppendBool(b, result.Accepted)
	b = append(b, `,"superseded":`...)
	b = strconv.AppendBool(b, result.Superseded)
	b = append(b, `,"nextReportSeconds":`...)
	b = strconv.AppendInt(b, int64(next/time.Second), 10)
	b = append(b, `}}}}`...)
	c.finishWith(op, append(frame(opText, b), completeFrame(op.id)...))
}
