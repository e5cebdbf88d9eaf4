package graph

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/99designs/gqlgen/complexity"
	"github.com/99designs/gqlgen/graphql"
	"github.com/99designs/gqlgen/graphql/handler/lru"
	"github.com/google/uuid"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"iapi/graph/generated"
	"iapi/graph/model"
	"iapi/identity"
	"iapi/instrumentation"
)

func (l Limits) withDefaults() Limits {
	number := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	number(&l.BodyBytes, 1<<20)
	number(&l.Tokens, 5000)
	number(&l.Depth, 12)
	number(&l.Complexity, 25_000)
	if l.Timeout <= 0 {
		l.Timeout = 30 * time.Second
	}
	return l
}

// gate stands between the validation of an operation and its execution, for every transport.
type gate struct {
	schema  graphql.ExecutableSchema
	limits  Limits
	limiter Limiter
	open    bool // introspection for everybody
	log     *slog.Logger
}

// ExtensionName implements graphql.HandlerExtension.
func (*gate) ExtensionName() string { return "Gate" }

// Validate implements graphql.HandlerExtension.
func (*gate) Validate(graphql.ExecutableSchema) error { return nil }

// MutateOperationContext refuses operations that are too deep, too complex, or too many.
func (g *gate) MutateOperationContext(ctx context.Context, op *graphql.OperationContext) *gqlerror.Error {
	who := caller(ctx)
	op.DisableIntrospection = false
	if !g.open && !mayIntrospect[who.Kind] && introspections(op.Operation.SelectionSet) > 0 {
		return (&refusal{code: codeForbidden, message: "Introspection is for operators, services and tenants who say who they are."}).gqlerror()
	}
	if d := depth(op.Operation.SelectionSet, g.limits.Depth); d > g.limits.Depth {
		return (&refusal{code: codeTooComplex, message: fmt.Sprintf("Fields are nested more than %d deep.", g.limits.Depth)}).gqlerror()
	}
	cost := complexity.Calculate(ctx, g.schema, op.Operation, op.Variables) + introspectionCost*introspections(op.Operation.SelectionSet)
	if cost > g.limits.Complexity {
		return (&refusal{code: codeTooComplex, message: fmt.Sprintf(
			"The operation has complexity %d; at most %d is allowed. Ask for smaller pages or fewer fields.", cost, g.limits.Complexity)}).gqlerror()
	}
	if g.limiter == nil || who.Kind == identity.Agent { // agents are paced by their heartbeat
		return nil
	}
	id := who.ID
	if id == "" {
		id = "nobody" + remote(ctx)
	}
	ok, after, err := g.limiter.Allow(ctx, id, cost)
	if err != nil {
		g.log.WarnContext(ctx, "the rate limit cannot be checked", "caller", id, "error", err)
		return nil
	}
	if !ok {
		return (&refusal{code: codeRateLimited, message: "Too much was asked for in too short a time.", retryAfter: after}).gqlerror()
	}
	return nil
}

var mayIntrospect = map[identity.Kind]bool{identity.Operator: true, identity.Service: true, identity.Tenant: true}

type remoteKey struct{}

// withRemote keeps where a request comes from, so that callers without a name do not use up each other's budget.
func withRemote(ctx context.Context, r *http.Request) context.Context {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, remoteKey{}, ":"+host)
}

func remote(ctx context.Context) string {
	text, _ := ctx.Value(remoteKey{}).(string)
	return text
}

// introspectionCost is what each __schema or __type costs beside its fields. The lists below them are long, and no field
// says how long. Tools send one or two.
const introspectionCost = 2000

// introspections counts how often an operation asks for the schema. Its set is the root's.
func introspections(set ast.SelectionSet) int {
	n := 0
	for _, selection := range set {
		switch selection := selection.(type) {
		case *ast.Field:
			if selection.Name == "__schema" || selection.Name == "__type" {
				n++
			}
		case *ast.InlineFragment:
			n += introspections(selection.SelectionSet)
		case *ast.FragmentSpread:
			n += introspections(selection.Definition.SelectionSet)
		}
	}
	return n
}

// depth is how deep fields are nested, counted up to one more than most. Introspection has a cost instead.
func depth(set ast.SelectionSet, most int) int {
	deepest := 0
	for _, selection := range set {
		d := 0
		switch selection := selection.(type) {
		case *ast.Field:
			if selection.Name == "__schema" || selection.Name == "__type" {
				continue
			}
			if d = 1; most > 0 {
				d += depth(selection.SelectionSet, most-1)
			}
		case *ast.InlineFragment:
			d = depth(selection.SelectionSet, most)
		case *ast.FragmentSpread:
			d = depth(selection.Definition.SelectionSet, most)
		}
		deepest = max(deepest, d)
	}
	return deepest
}

// complexityOf weighs the fields: about one for each field of the answer, and more where answering takes work.
func complexityOf() generated.ComplexityRoot {
	var c generated.ComplexityRoot
	page := func(child int, first, last *int) int {
		n := instrumentation.DefaultPage
		if first != nil {
			n = *first
		} else if last != nil {
			n = *last
		}
		return 5 + min(max(n, 1), instrumentation.MaxPage)*child
	}
	c.Query.Instrumentations = func(child int, first *int, _ *string, last *int, _ *string, _ *model.InstrumentationFilter) int {
		return page(child, first, last)
	}
	c.Query.Hosts = func(child int, first *int, _ *string, _ *bool) int { return page(child, first, nil) }
	c.Query.AuditLog = func(child int, first *int, _ *string) int { return page(child, first, nil) }
	c.Query.Nodes = func(child int, ids []string) int { return 1 + len(ids)*child }
	const preview = 200
	c.Query.PreviewScope = func(child int, _ model.RawObject, _ *string, _ *uuid.UUID) int { return preview + child }
	c.Query.CheckCreate = func(child int, _ model.CreateInstrumentationInput) int { return 5 + child }
	c.Query.CheckUpdate = func(child int, _ model.UpdateInstrumentationInput) int { return 5 + child }
	c.Query.ExplainPlacement = func(child int, _ string, _, _ *uuid.UUID) int { return 20 + child }
	paged := func(child int, first *int, _ *string) int { return page(child, first, nil) }
	c.Instrumentation.Vms, c.Instrumentation.Hosts = paged, paged
	c.ScopePreview.Vms, c.ScopePreview.Hosts = paged, paged
	c.Instrumentation.Problems = func(child int) int { return 5 + child }
	c.Host.Agent = func(child int) int { return 2 + child }
	counted := func(child int) int { return 20 + child }
	c.InstrumentationConnection.TotalCount, c.HostConnection.TotalCount = counted, counted

	// A mutation writes, if only that it was refused. Who has no credentials can ask for nothing but the exchange.
	const change = 10
	changed := func(child int, _ model.InstrumentationIDInput) int { return change + child }
	c.Mutation.PauseInstrumentation, c.Mutation.ResumeInstrumentation = changed, changed
	c.Mutation.DeleteInstrumentation, c.Mutation.RefreshInstrumentation = changed, changed
	c.Mutation.CreateInstrumentation = func(child int, in model.CreateInstrumentationInput) int {
		if given(in.PreviewToken) != "" {
			child += preview // what was shown is compared with what is now
		}
		return change + child
	}
	c.Mutation.CloneInstrumentation = func(child int, _ model.CloneInstrumentationInput) int { return change + child }
	c.Mutation.UpdateInstrumentation = func(child int, _ model.UpdateInstrumentationInput) int { return change + child }
	c.Mutation.DeleteInstrumentations = func(child int, in model.DeleteInstrumentationsInput) int {
		return change*(1+min(max(in.ExpectedCount, 0), 1000)) + child
	}
	c.Mutation.ExchangeJoinToken = func(child int, _ model.ExchangeJoinTokenInput) int { return 100 + child }
	return c
}

// queryCache keeps parsed queries by their text. Long ones are not kept, so that nobody fills the memory.
type queryCache struct{ *lru.LRU[*ast.QueryDocument] }

const (
	cachedQueries    = 1000
	cachedQueryBytes = 8 << 10
)

func newQueryCache() queryCache { return queryCache{lru.New[*ast.QueryDocument](cachedQueries)} }

// Add implements graphql.Cache.
func (c queryCache) Add(ctx context.Context, text string, doc *ast.QueryDocument) {
	if len(text) <= cachedQueryBytes {
		c.LRU.Add(ctx, text, doc)
	}
}
