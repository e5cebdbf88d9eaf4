package ws

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/graph/agentdoc"
	"iapi/identity"
)

// operation is one that runs on a connection. It ends once: when it completes, fails, is completed by the peer, or when
// the connection ends.
type operation struct {
	id     string
	cancel context.CancelFunc
	runs   bool                                  // a goroutine executes it; under conn.mu
	lasts  bool                                  // so it does after the peer has ended it; under conn.mu
	quoted []byte                                // the id, for the frames of sub
	sub    atomic.Pointer[delivery.Subscription] // of the agents' subscription, when it stands; else nil
	read   atomic.Pointer[delivery.Subscription] // the same, where a resolver takes its events
}

// end stops the operation. It may be called again.
func (op *operation) end() {
	op.cancel()
	if sub := op.sub.Load(); sub != nil {
		sub.Close()
	}
}

// add registers an operation that is about to run, unless there is one of that id or there are too many: what the peer has ended
// counts until it has returned.
func (c *conn) add(op *operation) (added, exists bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.ContainsFunc(c.ops, func(o *operation) bool { return o.id == op.id }) {
		return false, true
	}
	if c.dead || len(c.ops)+c.lasting >= c.server.opts.MaxOperations {
		return false, false
	}
	op.runs = true
	c.ops = append(slices.Clone(c.ops), op)
	return true, false
}

// returned notes that nothing executes an operation any more. A subscription of an agent stands on.
func (c *conn) returned(op *operation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	op.runs = false
	if op.lasts {
		c.lasting--
	}
}

// removeID removes the operation with the id for its peer, nil if it has ended already.
func (c *conn) removeID(id string) *operation {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.ops, func(o *operation) bool { return o.id == id })
	if i < 0 {
		return nil
	}
	op := c.ops[i]
	c.ops = slices.Delete(slices.Clone(c.ops), i, i+1)
	if op.lasts = op.runs; op.lasts {
		c.lasting++
	}
	return op
}

// remove removes the very operation, and reports whether it had not ended already.
func (c *conn) remove(op *operation) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.ops, op)
	if i < 0 {
		return false
	}
	c.ops = slices.Delete(slices.Clone(c.ops), i, i+1)
	return true
}

type endingKey struct{}

// ending is where a resolver's stream leaves the error that ends it.
type ending struct {
	op  *operation
	mu  sync.Mutex
	err error
}

// Reads says that the resolver of ctx takes the events of a subscription of the feed, so that whatever is heard of the peer is a
// sign that the agent lives.
func Reads(ctx context.Context, sub *delivery.Subscription) {
	if e, ok := ctx.Value(endingKey{}).(*ending); ok {
		e.op.read.Store(sub)
	}
}

// EndWith makes the subscription of ctx end with an error rather than as complete. For streams of resolvers, before they
// close their channel.
func EndWith(ctx context.Context, err error) {
	if e, ok := ctx.Value(endingKey{}).(*ending); ok {
		e.mu.Lock()
		e.err = err
		e.mu.Unlock()
	}
}

// execute runs an operation through the executor.
func (c *conn) execute(ctx context.Context, op *operation, params *graphql.RawParams) {
	defer op.end()
	running := ctx
	exec, present := c.server.opts.Executor, c.server.opts.Present
	end := &ending{op: op}
	ctx = context.WithValue(identity.WithCaller(ctx, *c.caller), endingKey{}, end)
	defer func() {
		if r := recover(); r != nil {
			c.finishWith(op, c.errorFrame(op.id, gqlerror.List{present(ctx, fmt.Errorf("an operation panicked: %v", r))}))
		}
	}()
	ctx = graphql.StartOperationTrace(ctx)
	now := graphql.Now()
	params.ReadTime = graphql.TraceTiming{Start: now, End: now}
	oc, errs := exec.CreateOperationContext(ctx, params)
	if errs != nil {
		r := exec.DispatchError(graphql.WithOperationContext(ctx, oc), errs)
		c.finishWith(op, c.errorFrame(op.id, r.Errors))
		return
	}
	streams := oc.Operation != nil && oc.Operation.Operation == ast.Subscription
	if !streams {
		within, cancel := context.WithTimeout(ctx, c.server.opts.Timeout)
		defer cancel()
		ctx = within
	}
	responses, ctx := exec.DispatchOperation(ctx, oc)
	for first := true; ; first = false {
		r := responses(ctx)
		if running.Err() != nil {
			break
		}
		if r == nil && !streams { // the time is over
			r = exec.DispatchError(ctx, gqlerror.List{gqlerror.WrapIfUnwrapped(context.DeadlineExceeded)})
		}
		if r == nil {
			break
		}
		if streams && first && len(r.Errors) > 0 && (len(r.Data) == 0 || string(r.Data) == "null") {
			c.finishWith(op, c.errorFrame(op.id, r.Errors)) // it was refused
			return
		}
		c.sendAndWait(c.nextFrame(op.id, r))
		if !streams {
			break
		}
	}
	end.mu.Lock()
	err := end.err
	end.mu.Unlock()
	if err != nil {
		c.finishWith(op, c.errorFrame(op.id, gqlerror.List{present(ctx, err)}))
		c.closeAfter(err)
		return
	}
	c.finishWith(op, completeFrame(op.id))
}

// finishWith sends the last frame of an operation, unless the peer has ended it.
func (c *conn) finishWith(op *operation, frame []byte) {
	if c.remove(op) {
		c.send(frame)
	}
}

// closeAfter closes the connection where an error of the feed means that the agent must go.
func (c *conn) closeAfter(err error) {
	switch {
	case errors.Is(err, delivery.ErrSuperseded):
		c.close(agentdoc.CloseSuperseded, agentdoc.ReasonSuperseded)
	case errors.Is(err, delivery.ErrRevoked):
		c.close(agentdoc.CloseExpired, "The credential was revoked")
	}
}

// documentPrefix is how the payload of the agents' subscription begins, and all of it but for the variables and the last brace.
var documentPrefix = []byte(`{"query":` + string(quote(agentdoc.Assignments)) + `,"variables":`)

// knownDocument reads the payload of the agents' subscription. What is not exactly as agents write it is left to the
// executor, which knows how to complain.
func knownDocument(payload []byte) (v agentdoc.AssignmentsVariables, ok bool) {
	p, begins := variables(payload, documentPrefix)
	if !begins {
		return v, false
	}
	p.must(`{"host":`)
	v.Host = p.uuid()
	p.must(`,"session":`)
	v.Session = p.uuid()
	if p.has(`,"known":`) {
		known := p.version()
		v.Known = &known
	}
	p.must(`}`)
	return v, p.end()
}

// variables gives those of a payload that begins with prefix, and has nothing else but its last brace, to be read.
func variables(payload, prefix []byte) (p plain, begins bool) {
	text, begins := bytes.CutPrefix(payload, prefix)
	text, ends := bytes.CutSuffix(text, []byte(`}`))
	return plain{rest: text}, begins && ends
}

// feed runs the agents' subscription. It returns when the subscription stands; no goroutine and no context stays with it.
func (c *conn) feed(ctx context.Context, op *operation, v agentdoc.AssignmentsVariables) {
	defer op.cancel()
	var known assignment.Version
	if v.Known != nil {
		known = *v.Known
	}
	ctx = identity.WithCaller(ctx, *c.caller)
	sub, err := c.server.opts.Feed.Subscribe(ctx, v.Host, v.Session, known)
	if err != nil {
		c.finishWith(op, c.errorFrame(op.id, gqlerror.List{c.server.opts.Present(ctx, err)}))
		c.closeAfter(err)
		return
	}
	c.mu.Lock()
	gone := !slices.Contains(c.ops, op)
	if !gone {
		op.sub.Store(sub)
	}
	c.mu.Unlock()
	if gone {
		sub.Close()
		return
	}
	sub.OnReady(c.wake)
}

// event takes an event of an operation's subscription and frames it. An error ends the operation.
func (c *conn) event(op *operation) (outgoing, bool) {
	sub := op.sub.Load()
	if sub == nil {
		return outgoing{}, false
	}
	e, ok, err := sub.Take()
	switch {
	case ok:
		b := buffers.Get().(*[]byte)
		var frame []byte
		*b, frame = appendEvent((*b)[:0], op.quoted, e, c.server.opts.Clock())
		return outgoing{frame: frame, pooled: b}, true
	case err == nil, !c.remove(op):
		return outgoing{}, false
	}
	op.end()
	if errors.Is(err, delivery.ErrClosed) { // the process is about to stop
		c.close(agentdoc.CloseRestarting, agentdoc.RetryPrefix+(rand.N(c.server.opts.RestartWindow)+time.Millisecond).Round(time.Millisecond).String())
		return outgoing{}, false
	}
	c.send(c.errorFrame(op.id, gqlerror.List{c.server.opts.Present(c.server.ctx, err)}))
	c.closeAfter(err)
	return outgoing{}, false
}

// appendEvent appends the whole frame of an event: stored bytes, and around them what depends on the operation and on the
// time. It is byte for byte what the executor would answer to agentdoc.Assignments. The frame is the end of grown.
func appendEvent(b, quotedID []byte, e delivery.Event, now time.Time) (grown, frame []byte) {
	const room = 10 // for the longest header; the real one is put right before the payload
	start := len(b)
	b = append(b, make([]byte, room)...)
	b = append(b, `{"id":`...)
	b = append(b, quotedID...)
	b = append(b, `,"type":"next","payload":{"data":{"assignments":{"__typename":"`...)
	if e.Document == nil {
		b = append(b, agentdoc.TypeBookmark...)
		b = append(b, `","version":`...)
		b = appendVersion(b, e.Version)
	} else {
		b = append(b, agentdoc.TypeAssignment...)
		b = append(b, `",`...)
		b = AppendAssignment(b, e.Document, now)
	}
	b = append(b, `}}}}`...)
	var header [room]byte
	h := appendHeader(header[:0], opText, len(b)-start-room)
	copy(b[start+room-len(h):], h)
	return b, b[start+room-len(h):]
}

// AppendAssignment appends the members of a document, in the order of agentdoc.Assignments, without the braces.
func AppendAssignment(b []byte, doc *assignment.Stored, now time.Time) []byte {
	b = append(b, `"host":"`...)
	b = append(b, doc.Host.String()...)
	b = append(b, `","version":`...)
	b = appendVersion(b, doc.Version)
	b = append(b, `,"sentAt":"`...)
	b = now.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, `","instrumentations":`...)
	return append(b, doc.Body...)
}

func appendVersion(b []byte, v assignment.Version) []byte {
	b = append(b, `{"epoch":`...)
	b = appendQuoted(b, v.Epoch)
	b = append(b, `,"generation":`...)
	b = strconv.AppendInt(b, v.Generation, 10)
	b = append(b, `,"hash":`...)
	b = appendQuoted(b, v.Hash)
	return append(b, '}')
}
