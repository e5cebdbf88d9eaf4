package instrumentation

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"iapi/catalog"
	"iapi/identity"
	"iapi/measure"
)

const (
	defaultGranularity = 1 // seconds
	maxMetricBytes     = 128
	maxKeyBytes        = 256 // of an idempotency key
	numericDecomps     = 1
)

// rules judge a wish: those of the policy, for one caller and the owner of what is wished.
type rules struct {
	collector
	scopeRules
	now    time.Time
	tenant bool // what is measured belongs to a tenant, who then may read all of it
}

func (s *Service) rules(c identity.Caller, owner uuid.UUID, found UserErrors) *rules {
	return &rules{
		collector:  collector{found: slices.Clone(found)},
		scopeRules: scopeRules{Policy: s.policy, owner: owner, operator: isOperator(c)},
		now:        s.now(), tenant: owner != uuid.Nil,
	}
}

// judged reports whether a member of the input has no mistake yet. Reading it may have found one that judging what is
// left of it would only repeat in other words.
func (r *rules) judged(member string) bool {
	return !slices.ContainsFunc(r.found, func(e UserError) bool { return len(e.Path) > 0 && e.Path[0] == member })
}

// build makes the record of a wish, without an ID, or returns every mistake in it.
func (s *Service) build(c identity.Caller, owner uuid.UUID, in CreateInput) (Instrumentation, error) {
	r := s.rules(c, owner, in.Mistakes)
	rec := Instrumentation{
		Revision: 1, Name: in.Name, Owner: owner, Metric: in.Metric, Decompositions: slices.Clone(in.Decompositions),
		Scope: in.Scope, CreatedBy: c.ID, CreatedAt: r.now, UpdatedAt: r.now, State: Created,
	}
	if in.IdempotencyKey != nil {
		r.key(*in.IdempotencyKey)
	}
	r.name(in.Name)
	metric := r.metric(s.catalog, in.Metric) // nil where it is mistaken: what does not depend on it is judged all the same
	if r.judged("predicate") {
		rec.Predicate = r.predicate(metric, in.Predicate)
	}
	if r.judged("decompositions") {
		r.decompositions(metric, in.Decompositions)
	}
	r.together(metric, in)
	rec.Tracing = metric != nil && metric.NeedsTracing(slices.Concat(in.Predicate.Fields(), in.Decompositions)...)
	rec.TTL, rec.ExpiresAt = r.ttl(metric, rec.Tracing, in.TTL)
	r.scope(in.Scope)
	r.place(metric, in.Scope, in.Predicate.Fields(), in.Decompositions)
	rec.Targets, rec.DefaultTargets = r.targets(in.Targets), len(in.Targets) == 0
	rec.Tags = r.tags(in.Tags)
	rec.Granularity = r.granularity(in.Granularity)
	return rec, r.found.orNil()
}

// apply makes an update of a standing record, or returns every mistake in it.
func (s *Service) apply(c identity.Caller, rec *Instrumentation, in UpdateInput, now time.Time) error {
	r := s.rules(c, rec.Owner, in.Mistakes)
	r.now = now
	if in.Name.Set {
		r.name(in.Name.Value)
		rec.Name = in.Name.Value
	}
	if in.Tags.Set {
		rec.Tags = r.tags(in.Tags.Value)
	}
	if in.Scope.Set {
		r.scope(in.Scope.Value)
		if metric, ok := s.metricInUse(rec.Metric); ok {
			r.place(metric, in.Scope.Value, rec.Predicate.Fields(), rec.Decompositions)
		}
		rec.Scope = in.Scope.Value
	}
	if in.Targets.Set {
		rec.Targets, rec.DefaultTargets = r.targets(in.Targets.Value), len(in.Targets.Value) == 0
	}
	if in.Granularity.Set {
		rec.Granularity = r.granularity(in.Granularity.Value)
	}
	if in.TTL.Set {
		metric, ok := s.metricInUse(rec.Metric)
		if !ok { // the definition has been withdrawn; the policy's bounds still hold
			metric = &catalog.Metric{Name: rec.Metric}
		}
		rec.TTL, rec.ExpiresAt = r.ttl(metric, rec.Tracing, in.TTL.Value)
	}
	return r.found.orNil()
}

func (r *rules) key(key string) {
	if key == "" {
		r.add(CodeTypeMismatch, []string{"idempotencyKey"}, "it is empty")
	}
	r.text(key, maxKeyBytes, "idempotencyKey")
}

func (r *rules) name(name string) {
	if r.judged("name") {
		r.text(name, r.NameBytes, "name")
	}
}

// text refuses what is too long or would garble a terminal.
func (r *rules) text(s string, limit int, path ...string) {
	switch {
	case len(s) > limit:
		r.add(CodeLimitExceeded, path, "it is longer than %d bytes", limit)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl):
		r.add(CodeTypeMismatch, path, "it must be valid UTF-8 without control characters")
	}
}

// metric finds the metric that is meant. What only operators may use does not exist for what belongs to a tenant,
// whoever asks: its data would go to the tenant.
func (r *rules) metric(known Catalog, name string) *catalog.Metric {
	if !r.judged("metric") {
		return nil
	}
	if m, ok := known.Metric(name); ok {
		if m = showMetric(m, r.tenant); m != nil {
			return m
		}
	}
	var names []string
	for _, m := range known.Metrics() {
		if showMetric(m, r.tenant) != nil {
			names = append(names, m.Name)
		}
	}
	r.add(CodeUnknownMetric, []string{"metric"}, "there is no metric %q%s", clip(name), didYouMean(name, names))
	return nil
}

// predicate judges only the form of the predicate of an unknown metric.
func (r *rules) predicate(m *catalog.Metric, p measure.Predicate) measure.Predicate {
	var wrong *measure.PredicateError
	if err := p.Validate(); errors.As(err, &wrong) {
		r.predicateMistake(m, wrong)
		return p
	}
	depth, leaves := predicateSize(p)
	if depth > r.PredicateDepth {
		r.add(CodeInvalidPredicate, []string{"predicate"}, "it is nested deeper than %d levels", r.PredicateDepth)
	}
	if leaves > r.PredicateLeaves {
		r.add(CodeInvalidPredicate, []string{"predicate"}, "it has more than %d comparisons", r.PredicateLeaves)
	}
	if m == nil || depth > r.PredicateDepth || leaves > r.PredicateLeaves {
		return p
	}
	for _, wrong := range p.Check(m.FieldTypes(!r.tenant)) {
		r.predicateMistake(m, wrong)
	}
	return p.Simplify()
}

func (r *rules) predicateMistake(m *catalog.Metric, wrong *measure.PredicateError) {
	r.add(Code(wrong.Code), append([]string{"predicate"}, wrong.Path...), "%s", wrong.Message)
	if m != nil && wrong.Code == measure.UnknownField {
		r.found[len(r.found)-1].Message += " in metric " + m.Name
	}
}

func predicateSize(p measure.Predicate) (depth, leaves int) {
	if p.Op.IsComparison() {
		leaves = 1
	}
	for _, arg := range p.Args {
		d, l := predicateSize(arg)
		depth, leaves = max(depth, d), leaves+l
	}
	return depth + 1, leaves
}

func (r *rules) decompositions(m *catalog.Metric, names []string) {
	if m == nil {
		r.names(names)
		return
	}
	discrete, numeric := 0, 0
	fields := make([]string, len(m.Fields))
	for i, f := range m.Fields {
		fields[i] = f.Name
	}
	for i, name := range names {
		path := []string{"decompositions", strconv.Itoa(i)}
		f, ok := m.Field(name)
		switch {
		case !ok:
			r.add(CodeUnknownField, path, "metric %s has no field %q%s", m.Name, clip(name), didYouMean(name, fields))
		case slices.Index(names, name) < i:
			r.add(CodeLimitExceeded, path, "field %s is named twice", name)
		case f.Arity == catalog.Numeric:
			if numeric++; numeric > numericDecomps {
				r.add(CodeLimitExceeded, path, "one numeric field at most, and %s is another", name)
			} else if i != len(names)-1 {
				r.add(CodeTypeMismatch, path, "field %s is numeric and must come last", name)
			}
		default:
			if discrete++; discrete == r.DiscreteDecompositions+1 {
				r.add(CodeLimitExceeded, path, "%d discrete fields at most", r.DiscreteDecompositions)
			}
		}
		if i > len(m.Fields) { // a field more than there are is named twice or unknown
			return
		}
	}
}

// together refuses what no host of any system could do, so that every agent would refuse it.
func (r *rules) together(m *catalog.Metric, in CreateInput) {
	if m == nil || !r.judged("predicate") || !r.judged("decompositions") {
		return
	}
	asked := slices.Concat(in.Predicate.Fields(), in.Decompositions)
	switch {
	case m.Together(asked...):
	case m.Together(in.Decompositions...):
		r.add(CodeTypeMismatch, []string{"predicate"}, "no host can give the fields %s of %s together", strings.Join(slices.Compact(slices.Sorted(slices.Values(asked))), ", "), m.Name)
	default:
		r.add(CodeTypeMismatch, []string{"decompositions"}, "no host can give the fields %s of %s together", strings.Join(in.Decompositions, ", "), m.Name)
	}
	if m.NeedsTracing(asked...) && mixesZones(in.Predicate) {
		r.add(CodeInvalidPredicate, []string{"predicate"}, "what is traced cannot have zonename in one or with other fields")
	}
}

// place refuses what no host could measure of the places that the scope means: every agent would refuse it.
func (r *rules) place(m *catalog.Metric, s Scope, predicate, decompositions []string) {
	if m == nil || !r.judged("scope") || !r.judged("predicate") || !r.judged("decompositions") {
		return
	}
	place, of, other := catalog.Host, "whole hosts", "machines"
	if s.Zones(r.owner) {
		place, of, other = catalog.Zone, other, of
	}
	fields := slices.Concat(predicate, decompositions)
	switch {
	case m.Measures(place, fields...), !m.Together(fields...): // nor anywhere else, which has been said
	case !m.Measures(place):
		r.add(CodeInvalidScope, []string{"scope"}, "%s is measured of %s, and this scope means %s", m.Name, other, of)
	default:
		r.add(CodeInvalidScope, []string{"scope"}, "no host can give the fields %s of %s for %s, which this scope means", strings.Join(slices.Compact(slices.Sorted(slices.Values(fields))), ", "), m.Name, of)
	}
}

// mixesZones reports whether a zone's name is compared in one alternative with other fields: a tracer knows a zone by which
// program or map it is in, not by its name.
func mixesZones(p measure.Predicate) bool {
	if p.Op == measure.And {
		return slices.ContainsFunc(p.Args, mixesZones)
	}
	fields := p.Fields()
	return slices.Contains(fields, catalog.BuiltinZone) && slices.ContainsFunc(fields, func(f string) bool { return f != catalog.BuiltinZone })
}

// names judges the decompositions of an unknown metric, of whose fields nothing is known.
func (r *rules) names(names []string) {
	for i, name := range names {
		path := []string{"decompositions", strconv.Itoa(i)}
		if most := r.DiscreteDecompositions + numericDecomps; i == most {
			r.add(CodeLimitExceeded, path, "%d fields at most", most)
			return
		}
		if slices.Index(names, name) < i {
			r.add(CodeLimitExceeded, path, "field %s is named twice", clip(name))
		}
	}
}

func (r *rules) scope(s Scope) {
	if r.judged("scope") {
		r.found = append(r.found, r.checkScope(s).under("scope")...)
	}
}

func (r *rules) targets(targets []measure.Target) []measure.Target {
	if !r.judged("targets") {
		return nil
	}
	if len(targets) == 0 {
		if len(r.DefaultTargets) == 0 {
			r.add(CodeInvalidTarget, []string{"targets"}, "none is given, and no default is configured")
		}
		return slices.Clone(r.DefaultTargets)
	}
	if len(targets) > r.Targets {
		r.add(CodeLimitExceeded, []string{"targets"}, "%d targets at most", r.Targets)
		return nil
	}
	for i, t := range targets {
		path := []string{"targets", strconv.Itoa(i)}
		switch err := t.Validate(); {
		case err != nil:
			r.add(CodeInvalidTarget, path, "%s", err)
		case !r.operator && !r.AllowPrivateTargets && private(t):
			r.add(CodeInvalidTarget, path, "it is an address of the host that measures, which tenants may not use")
		}
	}
	return slices.Clone(targets)
}

func (r *rules) tags(tags []Tag) []Tag {
	if !r.judged("tags") {
		return nil
	}
	if len(tags) > r.Tags {
		r.add(CodeLimitExceeded, []string{"tags"}, "%d tags at most", r.Tags)
		return nil
	}
	seen := make(map[string]bool, len(tags))
	for i, t := range tags {
		at := strconv.Itoa(i)
		if t.Key == "" {
			r.add(CodeTypeMismatch, []string{"tags", at, "key"}, "it is empty")
		}
		r.text(t.Key, r.TagKeyBytes, "tags", at, "key")
		r.text(t.Value, r.TagValueBytes, "tags", at, "value")
		if seen[t.Key] {
			r.add(CodeTypeMismatch, []string{"tags", at, "key"}, "the key is given twice")
		}
		seen[t.Key] = true
	}
	tags = slices.Clone(tags)
	sortTags(tags)
	return tags
}

func sortTags(tags []Tag) {
	slices.SortStableFunc(tags, func(a, b Tag) int { return cmp.Compare(a.Key, b.Key) })
}

func (r *rules) granularity(asked *int) int {
	n := valueOr(asked, defaultGranularity)
	if r.judged("granularitySeconds") && (n < 1 || n > r.GranularitySeconds) {
		r.add(CodeLimitExceeded, []string{"granularitySeconds"}, "it is between 1 and %d", r.GranularitySeconds)
	}
	return n
}

// ttl returns how long something lives, in seconds (0: without end), and when that is over. What traces always has an end.
// For an unknown metric, nil, the policy's bounds hold.
func (r *rules) ttl(m *catalog.Metric, tracing bool, asked *int) (int, time.Time) {
	longest := seconds(r.MaxTTL)
	if tracing {
		longest = min(longest, seconds(r.MaxTracingTTL))
		if m.MaxTTL > 0 {
			longest = min(longest, seconds(m.MaxTTL))
		}
	}
	var ttl int
	switch {
	case asked != nil:
		ttl = *asked
	case tracing:
		ttl = min(seconds(r.TracingTTL), longest)
	default:
		return 0, time.Time{}
	}
	if !r.judged("ttlSeconds") {
		return 0, time.Time{}
	}
	if ttl < 1 || ttl > longest {
		r.add(CodeTTLExceeded, []string{"ttlSeconds"}, "it is between 1 and %d", longest)
		if m != nil {
			r.found[len(r.found)-1].Message += " for metric " + m.Name
		}
		return 0, time.Time{}
	}
	return ttl, r.now.Add(time.Duration(ttl) * time.Second)
}

func valueOr[T any](p *T, or T) T {
	if p == nil {
		return or
	}
	return *p
}

// clip bounds what an error or an audit entry repeats of the input, and keeps it printable.
func clip(s string) string {
	const limit = 64
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// didYouMean suggests the name that is nearest to what was written, "" if none is near.
func didYouMean(written string, names []string) string {
	if len(written) > maxMetricBytes {
		return ""
	}
	best, distance := "", 2+len(written)/6
	for _, name := range names {
		if d := editDistance(strings.ToLower(written), name); d <= distance && (best == "" || d < distance) {
			best, distance = name, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// editDistance is how many bytes must be inserted, removed or replaced to make b of a.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
