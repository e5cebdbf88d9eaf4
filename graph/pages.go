package graph

import (
	"context"
	"errors"
	"io"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"

	"iapi/catalog"
	"iapi/graph/internal/leaf"
	"iapi/graph/model"
	"iapi/graph/scalar"
	"iapi/instrumentation"
	"iapi/measure"
)

// pages answers `instrumentations` where everything that is selected is in the records and their coverage: the lists that
// portals and scripts ask for all the time. Whatever is unusual (a field with a resolver of its own, an argument that does
// not hold, an error) is left to the executor, which answers just the same and words the errors.
type pages struct{ rules *instrumentation.Service }

// ExtensionName implements graphql.HandlerExtension.
func (pages) ExtensionName() string { return "Pages" }

// Validate implements graphql.HandlerExtension.
func (pages) Validate(graphql.ExecutableSchema) error { return nil }

// InterceptRootField implements graphql.RootFieldInterceptor.
func (p pages) InterceptRootField(ctx context.Context, next graphql.RootResolver) graphql.Marshaler {
	op, root := graphql.GetOperationContext(ctx), graphql.GetRootFieldContext(ctx)
	if root.Object == "instrumentations" && op.Operation.Operation == ast.Query {
		if body, ok := p.page(ctx, op, root.Field); ok {
			return graphql.WriterFunc(func(w io.Writer) { _, _ = w.Write(body) }) // a buffer
		}
	}
	return next(ctx)
}

// row is an instrumentation of a page.
type row struct {
	instrumentation.Instrumentation
	metric   *catalog.Metric
	coverage instrumentation.Coverage
}

// list is a page of them.
type list struct {
	rows           []row
	next, previous bool
}

func (p pages) page(ctx context.Context, op *graphql.OperationContext, field graphql.CollectedField) ([]byte, bool) {
	needs := &needs{}
	write, ok := connection(needs).Compile(op, field.Selections)
	if !ok {
		return nil, false
	}
	page, filter, err := listArguments(field.ArgumentMap(op.Variables))
	if err != nil {
		return nil, false
	}
	who := caller(ctx)
	found, err := p.rules.List(ctx, who, filter, page)
	if err != nil {
		return nil, false
	}
	var coverage []instrumentation.Coverage
	if needs.coverage {
		if coverage, err = p.rules.CoverageOf(ctx, who, found.Items); err != nil {
			return nil, false
		}
	}
	l := list{rows: make([]row, len(found.Items)), next: found.Next, previous: found.Previous}
	metrics := (&resolver{rules: p.rules}).view(ctx)
	for i, rec := range found.Items {
		m, err := metrics.metric(ctx, rec.Metric)
		if err != nil {
			return nil, false
		}
		l.rows[i] = row{Instrumentation: rec, metric: m.Of}
		if needs.coverage {
			l.rows[i].coverage = coverage[i]
		}
	}
	return write(make([]byte, 0, 1024*(1+len(l.rows))), &l), true
}

// needs is what a selection needs beside the records.
type needs struct{ coverage bool }

func connection(n *needs) *leaf.Object[list] {
	node := rowObject(n)
	edge := &leaf.Object[row]{Name: "InstrumentationEdge", Fields: map[string]leaf.Field[row]{
		"cursor": leaf.Value(func(b []byte, r *row) []byte { return leaf.String(b, rowCursor(r)) }),
		"node":   leaf.One(func(r *row) *row { return r }, node),
	}}
	rows := func(l *list) []row { return l.rows }
	return &leaf.Object[list]{Name: "InstrumentationConnection", Fields: map[string]leaf.Field[list]{
		"nodes": leaf.Many(rows, node), "edges": leaf.Many(rows, edge),
		"pageInfo": leaf.One(func(l *list) *list { return l }, pageObject),
	}}
}

func rowCursor(r *row) string { return cursor(byInstrumentation, string(r.ID)) }

var pageObject = &leaf.Object[list]{Name: "PageInfo", Fields: map[string]leaf.Field[list]{
	"hasNextPage":     leaf.Value(func(b []byte, l *list) []byte { return leaf.Bool(b, l.next) }),
	"hasPreviousPage": leaf.Value(func(b []byte, l *list) []byte { return leaf.Bool(b, l.previous) }),
	"startCursor": leaf.Value(func(b []byte, l *list) []byte {
		if len(l.rows) == 0 {
			return leaf.Text(b, "")
		}
		return leaf.String(b, rowCursor(&l.rows[0]))
	}),
	"endCursor": leaf.Value(func(b []byte, l *list) []byte {
		if len(l.rows) == 0 {
			return leaf.Text(b, "")
		}
		return leaf.String(b, rowCursor(&l.rows[len(l.rows)-1]))
	}),
}}

func rowObject(n *needs) *leaf.Object[row] {
	coverage := leaf.One(func(r *row) *instrumentation.Coverage { return &r.coverage }, coverageObject)
	return &leaf.Object[row]{Name: "Instrumentation", Is: []string{"Node"}, Fields: map[string]leaf.Field[row]{
		"id":     textOf(func(r *row) string { return string(r.ID) }),
		"name":   leaf.Value(func(b []byte, r *row) []byte { return leaf.Text(b, r.Name) }),
		"owner":  leaf.Value(func(b []byte, r *row) []byte { return leaf.UUID(b, r.Owner) }),
		"metric": leaf.One(func(r *row) *catalog.Metric { return r.metric }, metricObject),
		"predicate": leaf.One(func(r *row) *measure.Predicate {
			if r.Predicate.IsZero() {
				return nil
			}
			return &r.Predicate
		}, predicateObject),
		"decompositions": leaf.Many(func(r *row) []model.MetricField {
			return model.Instrumentation{Record: r.Instrumentation, Metric: &model.Metric{Of: r.metric}}.Decompositions()
		}, fieldObject),
		"scope":              leaf.One(func(r *row) *instrumentation.Scope { return &r.Scope }, scopeObject),
		"tags":               leaf.Many(func(r *row) []instrumentation.Tag { return r.Tags }, tagObject),
		"granularitySeconds": intOf(func(r *row) int { return r.Granularity }),
		"state":              textOf(func(r *row) string { return string(r.State) }),
		"revision":           intOf(func(r *row) int { return r.Revision }),
		"createdAt":          leaf.Value(func(b []byte, r *row) []byte { return leaf.Time(b, r.CreatedAt) }),
		"updatedAt":          leaf.Value(func(b []byte, r *row) []byte { return leaf.Time(b, r.UpdatedAt) }),
		"expiresAt":          leaf.Value(func(b []byte, r *row) []byte { return leaf.Time(b, r.ExpiresAt) }),
		"coverage": func(op *graphql.OperationContext, selected ast.SelectionSet) (leaf.Append[row], bool) {
			n.coverage = true
			return coverage(op, selected)
		},
		"targets": targets,
	}}
}

var (
	coverageObject = &leaf.Object[instrumentation.Coverage]{Name: "Coverage", Fields: map[string]leaf.Field[instrumentation.Coverage]{
		"expected": intOf(func(c *instrumentation.Coverage) int { return c.Expected }),
		"running":  intOf(func(c *instrumentation.Coverage) int { return c.Running }),
		"pending":  intOf(func(c *instrumentation.Coverage) int { return c.Pending }),
		"failed":   intOf(func(c *instrumentation.Coverage) int { return c.Failed }),
		"offline":  intOf(func(c *instrumentation.Coverage) int { return c.Offline }),
	}}
	metricObject = &leaf.Object[catalog.Metric]{Name: "Metric", Is: []string{"Node"}, Fields: map[string]leaf.Field[catalog.Metric]{
		"id":       textOf(func(m *catalog.Metric) string { return model.Metric{Of: m}.ID() }),
		"name":     textOf(func(m *catalog.Metric) string { return m.Name }),
		"label":    textOf(func(m *catalog.Metric) string { return m.Label }),
		"interval": textOf(func(m *catalog.Metric) string { return string(m.Interval) }),
		"unit":     textOf(func(m *catalog.Metric) string { return m.Unit }),
	}}
	fieldObject = &leaf.Object[model.MetricField]{Name: "MetricField", Fields: map[string]leaf.Field[model.MetricField]{
		"name":  textOf(func(f *model.MetricField) string { return f.Name() }),
		"label": textOf(func(f *model.MetricField) string { return f.Label() }),
		"arity": textOf(func(f *model.MetricField) string { return string(f.Arity()) }),
		"unit":  textOf(func(f *model.MetricField) string { return f.Unit() }),
	}}
	predicateObject = &leaf.Object[measure.Predicate]{Name: "Predicate", Fields: map[string]leaf.Field[measure.Predicate]{
		"json": leaf.Value(func(b []byte, p *measure.Predicate) []byte {
			raw, _ := p.MarshalJSON() // never fails
			return append(b, raw...)
		}),
		"text": textOf(func(p *measure.Predicate) string { return p.Text() }),
	}}
	scopeObject = &leaf.Object[instrumentation.Scope]{Name: "Scope", Fields: map[string]leaf.Field[instrumentation.Scope]{
		"json": leaf.Value(func(b []byte, s *instrumentation.Scope) []byte { return append(b, s.JSON()...) }),
		"text": textOf(func(s *instrumentation.Scope) string { return s.Text() }),
	}}
	tagObject = &leaf.Object[instrumentation.Tag]{Name: "Tag", Fields: map[string]leaf.Field[instrumentation.Tag]{
		"key":   textOf(func(t *instrumentation.Tag) string { return t.Key }),
		"value": textOf(func(t *instrumentation.Tag) string { return t.Value }),
	}}
	dataAPIObject = &leaf.Object[model.DataAPITarget]{Name: "DataApiTarget", Is: []string{"Target"}, Fields: map[string]leaf.Field[model.DataAPITarget]{
		"url":       textOf(func(t *model.DataAPITarget) string { return t.URL }),
		"transport": textOf(func(t *model.DataAPITarget) string { return string(t.Transport) }),
		"streamUrl": leaf.Value(func(b []byte, t *model.DataAPITarget) []byte { return leaf.Text(b, value(t.StreamURL)) }),
	}}
	statsdObject = &leaf.Object[model.StatsdTarget]{Name: "StatsdTarget", Is: []string{"Target"}, Fields: map[string]leaf.Field[model.StatsdTarget]{
		"address": textOf(func(t *model.StatsdTarget) string { return t.Address }),
		"prefix":  textOf(func(t *model.StatsdTarget) string { return t.Prefix }),
	}}
	graphiteObject = &leaf.Object[model.GraphiteTarget]{Name: "GraphiteTarget", Is: []string{"Target"}, Fields: map[string]leaf.Field[model.GraphiteTarget]{
		"address": textOf(func(t *model.GraphiteTarget) string { return t.Address }),
		"prefix":  textOf(func(t *model.GraphiteTarget) string { return t.Prefix }),
	}}
	otlpObject = &leaf.Object[model.OtlpTarget]{Name: "OtlpTarget", Is: []string{"Target"}, Fields: map[string]leaf.Field[model.OtlpTarget]{
		"endpoint": textOf(func(t *model.OtlpTarget) string { return t.Endpoint }),
	}}
)

// targets is a list of a union: each member has a selection of its own.
func targets(op *graphql.OperationContext, selected ast.SelectionSet) (leaf.Append[row], bool) {
	dataAPI, ok1 := dataAPIObject.Compile(op, selected)
	statsd, ok2 := statsdObject.Compile(op, selected)
	graphite, ok3 := graphiteObject.Compile(op, selected)
	otlp, ok4 := otlpObject.Compile(op, selected)
	return func(b []byte, r *row) []byte {
		all := model.Instrumentation{Record: r.Instrumentation}.Targets()
		return leaf.List(b, all, func(b []byte, t *model.Target) []byte {
			switch t := (*t).(type) {
			case model.DataAPITarget:
				return dataAPI(b, &t)
			case model.StatsdTarget:
				return statsd(b, &t)
			case model.GraphiteTarget:
				return graphite(b, &t)
			case model.OtlpTarget:
				return otlp(b, &t)
			}
			return leaf.Text(b, "")
		})
	}, ok1 && ok2 && ok3 && ok4
}

func textOf[T any](get func(*T) string) leaf.Field[T] {
	return leaf.Value(func(b []byte, v *T) []byte { return leaf.String(b, get(v)) })
}

func intOf[T any](get func(*T) int) leaf.Field[T] {
	return leaf.Value(func(b []byte, v *T) []byte { return leaf.Int(b, get(v)) })
}

// listArguments reads the arguments of `instrumentations` as GraphQL has coerced them. Any error makes the executor read
// them again, so its text does not matter.
func listArguments(in map[string]any) (instrumentation.Page, instrumentation.Filter, error) {
	r := &arguments{}
	p, err := pageOf(byInstrumentation,
		optionalArgument(r, in, "first", scalar.UnmarshalInt), optionalArgument(r, in, "last", scalar.UnmarshalInt),
		optionalArgument(r, in, "after", graphql.UnmarshalString), optionalArgument(r, in, "before", graphql.UnmarshalString))
	if err != nil {
		return p, instrumentation.Filter{}, err
	}
	if in["filter"] == nil {
		return p, instrumentation.Filter{}, r.err
	}
	members, ok := in["filter"].(map[string]any)
	if owner, given := members["owner"]; !ok || given && owner == nil {
		return p, instrumentation.Filter{}, errUnusual
	}
	f := instrumentation.Filter{
		Owner:  optionalArgument(r, members, "owner", scalar.UnmarshalUUID),
		Metric: value(optionalArgument(r, members, "metric", graphql.UnmarshalString)),
		VM:     value(optionalArgument(r, members, "vm", scalar.UnmarshalUUID)),
		Host:   value(optionalArgument(r, members, "host", scalar.UnmarshalUUID)),
		Text:   value(optionalArgument(r, members, "text", graphql.UnmarshalString)),
	}
	for _, state := range listArgument(r, members, "state") {
		s, ok := state.(string)
		if !ok {
			return p, f, errUnusual
		}
		f.States = append(f.States, instrumentation.State(s))
	}
	for _, tag := range listArgument(r, members, "tags") {
		t, _ := tag.(map[string]any)
		key, isKey := t["key"].(string)
		value, isValue := t["value"].(string)
		if !isKey || !isValue {
			return p, f, errUnusual
		}
		f.Tags = append(f.Tags, instrumentation.Tag{Key: key, Value: value})
	}
	return p, f, r.err
}

var errUnusual = errors.New("the executor reads this")

// listArgument is a list as it is; what stands for a list of one is left to the executor.
func listArgument(r *arguments, in map[string]any, name string) []any {
	if in[name] == nil {
		return nil
	}
	items, ok := in[name].([]any)
	if !ok {
		r.err = errUnusual
	}
	return items
}

// arguments keeps the first error.
type arguments struct{ err error }

func optionalArgument[T any](r *arguments, in map[string]any, name string, read func(any) (T, error)) *T {
	v := in[name]
	if v == nil || r.err != nil {
		return nil
	}
	out, err := read(v)
	if err != nil {
		r.err = err
		return nil
	}
	return &out
}
