package assignment

import (
	"slices"
	"strings"

	"github.com/google/uuid"

	"iapi/instrumentation"
	"iapi/measure"
	"iapi/placement"
)

// What one host's document may hold.
const (
	MaxInstrumentations = 256
	MaxBytes            = 1 << 20
)

// Build makes the document of a host from what is placed on it. digest returns the digest of a metric's definition, ""
// if it has none; such an instrumentation is still assigned, so that the agent reports that it cannot run it.
//
// Equal wishes give equal documents whatever the order of placed. When they come to more than MaxInstrumentations or
// MaxBytes of canonical bytes, those that were created last are left out and returned, so that a new wish never
// displaces an old one.
func Build(host uuid.UUID, placed []placement.Placed, digest func(metric string) string) (d Document, overBudget []instrumentation.ID) {
	d = Document{Host: host, Instrumentations: make([]Item, 0, min(len(placed), MaxInstrumentations))}
	sorted := slices.Clone(placed)
	slices.SortFunc(sorted, func(a, b placement.Placed) int {
		return strings.Compare(string(a.Instrumentation.ID), string(b.Instrumentation.ID))
	})
	var scratch []byte
	size := len("[]")
	for i, p := range sorted {
		it := item(p, digest(p.Instrumentation.Metric))
		scratch = appendItem(scratch[:0], &it)
		size += len(scratch) + len(",")
		if i == MaxInstrumentations || size > MaxBytes {
			for _, p := range sorted[i:] {
				overBudget = append(overBudget, p.Instrumentation.ID)
			}
			return d, overBudget
		}
		d.Instrumentations = append(d.Instrumentations, it)
	}
	return d, nil
}

func item(p placement.Placed, digest string) Item {
	rec := p.Instrumentation
	it := Item{
		ID: string(rec.ID), Revision: rec.Revision, Owner: known(rec.Owner), Metric: rec.Metric, DefinitionDigest: digest,
		Decompositions: rec.Decompositions, WholeHost: p.Whole, Granularity: rec.Granularity,
		VMs: make([]VM, len(p.VMs)), Targets: make([]Target, len(rec.Targets)),
	}
	if !rec.Predicate.IsZero() {
		it.Predicate = &rec.Predicate
	}
	if !rec.ExpiresAt.IsZero() {
		at := rec.ExpiresAt
		it.ExpiresAt = &at
	}
	for i, z := range p.VMs {
		it.VMs[i] = VM{UUID: z.UUID, Owner: known(z.Owner)}
	}
	slices.SortFunc(it.VMs, func(a, b VM) int { return slices.Compare(a.UUID[:], b.UUID[:]) })
	for i, t := range rec.Targets {
		it.Targets[i] = target(t)
	}
	return it
}

func target(t measure.Target) Target {
	out := Target{Kind: string(t.Kind), Address: t.Address, Headers: t.Headers}
	switch t.Kind {
	case measure.Statsd, measure.Graphite:
		out.Prefix = &t.Prefix
	case measure.DataAPI:
		transport := string(t.Transport)
		out.Transport = &transport
	}
	return out
}

// known returns nil for uuid.Nil, which is null on the wire.
func known(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}
