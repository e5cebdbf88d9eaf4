package graph

import (
	"github.com/99designs/gqlgen/graphql"
	"github.com/google/uuid"

	"iapi/graph/model"
	"iapi/instrumentation"
	"iapi/measure"
)

// Inputs become the domain's. Absent stays apart from null where the domain tells them apart.

// given is the value of a member, zero for an absent or null one.
func given[T any](o graphql.Omittable[*T]) T {
	p, _ := o.ValueOK()
	return value(p)
}

// optionalOf makes an optional of a member: set, and zero, for null.
func optionalOf[T any](o graphql.Omittable[*T]) instrumentation.Optional[T] {
	p, set := o.ValueOK()
	return instrumentation.Optional[T]{Set: set, Value: value(p)}
}

// pointerOf is optionalOf where null is told from a value.
func pointerOf[T any](o graphql.Omittable[*T]) instrumentation.Optional[*T] {
	p, set := o.ValueOK()
	return instrumentation.Optional[*T]{Set: set, Value: p}
}

// reading gathers the mistakes that reading an input finds.
type reading struct{ mistakes instrumentation.UserErrors }

func (r *reading) scope(in model.RawObject) instrumentation.Scope {
	if in == nil {
		return instrumentation.Scope{}
	}
	out, mistakes := instrumentation.ScopeFrom(in)
	r.mistakes = append(r.mistakes, mistakes...)
	return out
}

func (r *reading) predicate(in model.RawObject) measure.Predicate {
	if in == nil {
		return measure.Predicate{}
	}
	out, mistakes := instrumentation.PredicateFrom(in)
	r.mistakes = append(r.mistakes, mistakes...)
	return out
}

func (r *reading) targets(in []model.RawObject) []measure.Target {
	maps := make([]map[string]any, len(in))
	for i, t := range in {
		maps[i] = t
	}
	out, mistakes := instrumentation.TargetsFrom(maps)
	r.mistakes = append(r.mistakes, mistakes...)
	return out
}

func tagsOf(in []model.TagInput) []instrumentation.Tag {
	out := make([]instrumentation.Tag, len(in))
	for i, t := range in {
		out[i] = instrumentation.Tag{Key: t.Key, Value: t.Value}
	}
	return out
}

func createInputOf(in model.CreateInstrumentationInput) instrumentation.CreateInput {
	var r reading
	out := instrumentation.CreateInput{
		IdempotencyKey: in.IdempotencyKey.Value(), Owner: in.Owner.Value(), Name: given(in.Name), Metric: in.Metric,
		Predicate: r.predicate(in.Predicate.Value()), Decompositions: in.Decompositions.Value(), Scope: r.scope(in.Scope),
		Targets: r.targets(in.Targets.Value()), Tags: tagsOf(in.Tags.Value()),
		Granularity: in.GranularitySeconds.Value(), TTL: in.TTLSeconds.Value(), PreviewToken: in.PreviewToken.Value(),
	}
	out.Mistakes = r.mistakes
	return out
}

func updateInputOf(in model.UpdateInstrumentationInput) instrumentation.UpdateInput {
	var r reading
	out := instrumentation.UpdateInput{
		ID: instrumentation.ID(in.ID), ExpectedRevision: in.ExpectedRevision.Value(), Name: optionalOf(in.Name),
		Granularity: pointerOf(in.GranularitySeconds), TTL: pointerOf(in.TTLSeconds),
	}
	if v, set := in.Tags.ValueOK(); set {
		out.Tags = instrumentation.Some(tagsOf(v))
	}
	if v, set := in.Scope.ValueOK(); set {
		out.Scope = instrumentation.Some(r.scope(v))
	}
	if v, set := in.Targets.ValueOK(); set {
		out.Targets = instrumentation.Some(r.targets(v))
	}
	out.Mistakes = r.mistakes
	return out
}

func cloneInputOf(in model.CloneInstrumentationInput) instrumentation.CloneInput {
	var r reading
	out := instrumentation.CloneInput{
		ID: instrumentation.ID(in.ID), IdempotencyKey: in.IdempotencyKey.Value(), Name: optionalOf(in.Name),
		Granularity: pointerOf(in.GranularitySeconds), TTL: pointerOf(in.TTLSeconds),
	}
	if v, set := in.Predicate.ValueOK(); set {
		out.Predicate = instrumentation.Some(r.predicate(v))
	}
	if v, set := in.Decompositions.ValueOK(); set {
		out.Decompositions = instrumentation.Some(v)
	}
	if v, set := in.Scope.ValueOK(); set {
		out.Scope = instrumentation.Some(r.scope(v))
	}
	if v, set := in.Targets.ValueOK(); set {
		out.Targets = instrumentation.Some(r.targets(v))
	}
	if v, set := in.Tags.ValueOK(); set {
		out.Tags = instrumentation.Some(tagsOf(v))
	}
	out.Mistakes = r.mistakes
	return out
}

func filterOf(in *model.InstrumentationFilter) instrumentation.Filter {
	if in == nil {
		return instrumentation.Filter{}
	}
	f := instrumentation.Filter{
		Metric: given(in.Metric), Tags: tagsOf(in.Tags.Value()), VM: given(in.VM), Host: given(in.Host), Text: given(in.Text),
	}
	if owner, set := in.Owner.ValueOK(); set {
		if owner == nil { // null: the operators' own
			owner = &uuid.UUID{}
		}
		f.Owner = owner
	}
	for _, s := range in.State.Value() {
		f.States = append(f.States, instrumentation.State(s))
	}
	return f
}
