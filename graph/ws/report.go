package ws

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/google/uuid"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"iapi/delivery"
	"iapi/graph/agentdoc"
	"iapi/identity"
	"iapi/instrumentation"
)

// reportPrefix is how the payload of an agent's report begins, and all of it but for the variables and the last brace.
var reportPrefix = []byte(`{"query":` + string(quote(agentdoc.Report)) + `,"variables":`)

// reportField is where the document has its one field.
var reportField = []gqlerror.Location{{Line: 2, Column: 3}}

// knownReport reads the payload of an agent's report, an agentdoc.ReportVariables. What is not exactly as agents write it, and
// what the schema refuses, is left to the executor, which knows how to complain.
func knownReport(payload []byte) (r delivery.Report, ok bool) {
	p, begins := variables(payload, reportPrefix)
	if !begins {
		return r, false
	}
	p.must(`{"input":{"host":`)
	r.Host = p.uuid()
	p.must(`,"session":`)
	r.Session = p.uuid()
	p.must(`,"sequence":`)
	r.Sequence = p.int()
	p.must(`,"agentVersion":`)
	r.AgentVersion = p.string()
	p.must(`,"capabilities":`)
	r.Capabilities = []string{}
	p.list(func() { r.Capabilities = append(r.Capabilities, p.string()) })
	if p.has(`,"applied":`) {
		r.Applied = p.version()
	}
	p.must(`,"instrumentations":`)
	r.Instrumentations = []delivery.Status{}
	p.list(func() { r.Instrumentations = append(r.Instrumentations, p.status()) })
	if p.has(`,"targets":`) {
		p.list(func() { r.Targets = append(r.Targets, p.target()) })
	}
	p.must(`}}`)
	return r, p.end()
}

// status reads an agentdoc.InstrumentationStatus.
func (p *plain) status() (s delivery.Status) {
	p.must(`{"id":`)
	s.ID = instrumentation.ID(p.string())
	p.must(`,"revision":`)
	s.Revision = int(p.int())
	p.must(`,"status":`)
	s.Status = p.word()
	if p.has(`,"message":`) {
		s.Message = p.string()
	}
	if p.has(`,"lastSampleAt":`) {
		s.LastSample = p.time()
	}
	if p.has(`,"vmFailures":`) {
		p.list(func() {
			p.must(`{"vm":`)
			vm := p.uuid()
			p.must(`,"status":`)
			f := instrumentation.SourceFailure{Status: p.word()}
			if p.has(`,"message":`) {
				f.Message = p.string()
			}
			p.must(`}`)
			if s.VMs == nil {
				s.VMs = make(map[uuid.UUID]instrumentation.SourceFailure)
			}
			s.VMs[vm] = f
		})
	}
	p.must(`}`)
	return s
}

// word reads a Status of the schema.
func (p *plain) word() instrumentation.Status {
	if s, known := statuses[string(p.quoted())]; known {
		return s
	}
	p.fail()
	return ""
}

// target reads an agentdoc.TargetStatus.
func (p *plain) target() (t delivery.TargetStatus) {
	p.must(`{"instrumentation":`)
	t.Instrumentation = instrumentation.ID(p.string())
	p.must(`,"target":`)
	t.Target = int(p.int())
	p.must(`,"connected":`)
	t.Connected = p.bool()
	p.must(`,"queued":`)
	t.Queued = p.int()
	p.must(`,"dropped":`)
	t.Dropped = p.int()
	if p.has(`,"lastSuccessAt":`) {
		t.LastSuccess = p.time()
	}
	if p.has(`,"lastError":`) {
		t.LastError = p.string()
	}
	p.must(`}`)
	return t
}

// statuses are those of the schema.
var statuses = func() map[string]instrumentation.Status {
	all := make(map[string]instrumentation.Status)
	for _, s := range []instrumentation.Status{
		instrumentation.StatusPending, instrumentation.StatusRunning, instrumentation.StatusFailed, instrumentation.StatusUnsupported,
		instrumentation.StatusDenied, instrumentation.StatusOverBudget, instrumentation.StatusOffline,
	} {
		all[string(s)] = s
	}
	return all
}()

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
	ctx, cancel := context.WithTimeout(ctx, c.server.opts.Timeout)
	defer cancel()
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
