// Package graph is the door: GraphQL over HTTP and websockets, and the agents' GET. It finds out who calls, translates,
// calls the rules or the feed, and answers. It decides nothing itself.
package graph

//go:generate go run github.com/99designs/gqlgen generate

import (
	"context"
	"time"

	"iapi/graph/generated"
	"iapi/graph/model"
	"iapi/identity"
	"iapi/instrumentation"
)

// resolver translates between the schema and the rules.
type resolver struct {
	rules   *instrumentation.Service
	feed    *feed
	records *recordFeed
	join    identity.JoinTokens // nil: nobody joins here
	clock   func() time.Time
}

// One named conversion of the resolver for each type of the schema.
type (
	queryResolver               resolver
	mutationResolver            resolver
	subscriptionResolver        resolver
	instrumentationResolver     resolver
	instrumentationListResolver resolver
	hostListResolver            resolver
	previewResolver             resolver
	hostResolver                resolver
	metricResolver              resolver
)

func (r *resolver) Query() generated.QueryResolver               { return (*queryResolver)(r) }
func (r *resolver) Mutation() generated.MutationResolver         { return (*mutationResolver)(r) }
func (r *resolver) Subscription() generated.SubscriptionResolver { return (*subscriptionResolver)(r) }
func (r *resolver) Metric() generated.MetricResolver             { return (*metricResolver)(r) }
func (r *resolver) ScopePreview() generated.ScopePreviewResolver { return (*previewResolver)(r) }

func (r *resolver) Instrumentation() generated.InstrumentationResolver {
	return (*instrumentationResolver)(r)
}

func (r *resolver) InstrumentationConnection() generated.InstrumentationConnectionResolver {
	return (*instrumentationListResolver)(r)
}

func (r *resolver) Host() generated.HostResolver { return (*hostResolver)(r) }

func (r *resolver) HostConnection() generated.HostConnectionResolver { return (*hostListResolver)(r) }

// These inputs read themselves (see model.RawObject), so their resolvers are never asked.

func (r *resolver) PredicateInput() generated.PredicateInputResolver { return nil }
func (r *resolver) ScopeInput() generated.ScopeInputResolver         { return nil }
func (r *resolver) TargetInput() generated.TargetInputResolver       { return nil }

// caller is nobody where the request has no credentials; the rules refuse that.
func caller(ctx context.Context) identity.Caller {
	c, _ := identity.CallerFrom(ctx)
	return c
}

// view prepares records for answers: those that were read together are a list. Each metric is looked up once.
type view struct {
	rules   *instrumentation.Service
	caller  identity.Caller
	metrics map[string]*model.Metric
	list    *model.List[instrumentation.Instrumentation]
}

func (r *resolver) view(ctx context.Context) *view {
	return &view{
		rules: r.rules, caller: caller(ctx), metrics: make(map[string]*model.Metric),
		list: &model.List[instrumentation.Instrumentation]{},
	}
}

// metric is what the catalogue says of a metric, its name alone where it does not know it any more.
func (v *view) metric(ctx context.Context, name string) (*model.Metric, error) {
	if m, ok := v.metrics[name]; ok {
		return m, nil
	}
	found, err := v.rules.MetricOf(ctx, v.caller, name)
	if err != nil {
		return nil, err
	}
	m := model.UnknownMetric(name)
	if found != nil {
		m = &model.Metric{Of: found}
	}
	v.metrics[name] = m
	return m, nil
}

func (v *view) instrumentation(ctx context.Context, rec instrumentation.Instrumentation) (model.Instrumentation, error) {
	m, err := v.metric(ctx, rec.Metric)
	if err != nil {
		return model.Instrumentation{}, err
	}
	v.list.Items = append(v.list.Items, rec)
	return model.Instrumentation{Record: rec, Metric: m, List: v.list, At: len(v.list.Items) - 1}, nil
}

// one is instrumentation for a record that may be nil.
func (v *view) one(ctx context.Context, rec *instrumentation.Instrumentation) (*model.Instrumentation, error) {
	if rec == nil {
		return nil, nil
	}
	out, err := v.instrumentation(ctx, *rec)
	if err != nil {
		return nil, err
	}
	return &out, nil
}
