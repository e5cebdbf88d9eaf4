package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"iapi/instrumentation"
)

var searchScript = load("search")

// scanBudget is how many members of an index one run of the search script looks at, countBudget where it only counts.
const (
	scanBudget  = 2000
	countBudget = 5_000
)

// query is a filter turned into indexes. A record matches if it is in one index of each group and its name has the text.
type query struct {
	groups [][]string // each not empty
	text   string     // in lower case; "": any

	// Of the states that are asked for: their place among the groups, from 1 (0: none are, or they are those that are noted),
	// when they are asked for (ms), and whether EXPIRED is one.
	states  int
	now     int64
	expired bool
}

// plan finds the indexes of a filter.
func plan(f instrumentation.Filter) *query {
	q := &query{text: strings.ToLower(f.Text)}
	if f.Owner != nil {
		q.groups = append(q.groups, []string{ownerIndex(*f.Owner)})
	}
	if f.Metric != "" {
		q.groups = append(q.groups, []string{metricIndex(f.Metric)})
	}
	if len(f.States) > 0 {
		var g []string
		for _, st := range f.States {
			g = append(g, stateIndex(st))
		}
		slices.Sort(g)
		q.groups = append(q.groups, slices.Compact(g))
		if !f.Now.IsZero() {
			q.states, q.now, q.expired = len(q.groups), f.Now.UnixMilli(), slices.Contains(f.States, instrumentation.Expired)
		}
	}
	for _, t := range f.Tags {
		q.groups = append(q.groups, []string{tagIndex(t)})
	}
	if q.text != "" {
		// The longest runs alone: a name that has them has the shorter ones too.
		n := min(3, len([]rune(q.text)))
		for _, g := range grams(q.text) {
			if len([]rune(g)) == n {
				q.groups = append(q.groups, []string{gramIndex(g)})
			}
		}
	}
	if len(q.groups) == 0 {
		q.groups = [][]string{{"ix:all"}}
	}
	return q
}

// exact reports whether the indexes decide alone. Of a longer text they only say that a name has all of its runs.
func (q *query) exact() bool { return len([]rune(q.text)) <= 3 }

// args are the states and the indexes as the script takes them.
func (q *query) args() []any {
	out := []any{q.states, q.now, flag(q.expired)}
	for _, g := range q.groups {
		out = append(append(out, len(g)), anys(g)...)
	}
	return out
}

// find walks the ids between two bounds (exclusive; "" open) and returns up to n records that match: from the newest down,
// or with up from the oldest up. matches says that the record of the id that is known matches too; where that is "", or
// the indexes do not decide, it is false.
func (s *Store) find(ctx context.Context, q *query, older, newer string, up bool, n int, known string) (found []instrumentation.Instrumentation, matches bool, err error) {
	w := walk{query: q, older: older, newer: newer, up: up, want: wantRecords, known: known}
	err = s.scan(ctx, &w, scanBudget, func() int { return n - len(found) }, func(reply any) error {
		named, err := q.named(reply)
		found = append(found, named[:min(len(named), n-len(found))]...)
		return err
	})
	return found, known != "" && w.has && q.exact(), err
}

// named returns the records of an answer whose names have the text.
func (q *query) named(reply any) ([]instrumentation.Instrumentation, error) {
	var out []instrumentation.Instrumentation
	for i, record := range texts(at(reply, 2)) {
		if record == "" {
			continue
		}
		r, err := decode(instrumentation.ID(text(at(at(reply, 1), i))), record)
		if err != nil {
			return out, err
		}
		if q.names(r) {
			out = append(out, *r)
		}
	}
	return out, nil
}

// names reports whether the record's name has the text. The indexes only say that it has all of its runs.
func (q *query) names(r *instrumentation.Instrumentation) bool {
	return q.text == "" || strings.Contains(strings.ToLower(r.Name), q.text)
}

// What a walk yields.
const (
	wantNumber  = "n" // of the ids
	wantRecords = "r" // ids and records
)

// walk is a walk along the ids of a query.
type walk struct {
	*query
	older, newer string // the bounds, exclusive; "": open
	up           bool   // from the oldest up
	want         string
	known        string // an id to look for in the indexes; "": none
	has          bool   // they have it
}

// scan calls fn with the script's answers, until the indexes are exhausted or need says that no more are needed. The walk
// knows its place by id, so records that come and go meanwhile neither repeat nor hide others.
func (s *Store) scan(ctx context.Context, w *walk, budget int, need func() int, fn func(reply any) error) error {
	low, high, known := "-", "+", w.known
	if w.older != "" {
		low = "(" + w.older
	}
	if w.newer != "" {
		high = "(" + w.newer
	}
	for need() > 0 {
		args := append([]any{flag(w.up), low, high, min(need(), budget), budget, w.want, known}, w.args()...)
		reply, err := s.do(ctx, searchScript, record, args...)
		if err != nil {
			return err
		}
		if known != "" {
			w.has, known = number(at(reply, 3)) == 1, ""
		}
		if err := fn(reply); err != nil {
			return err
		}
		last := text(at(reply, 0))
		if last == "" {
			return nil
		}
		if w.up {
			low = "(" + last
		} else {
			high = "(" + last
		}
	}
	return nil
}

// Search implements instrumentation.Store. A page is one walk of the smallest index that the filter has.
func (s *Store) Search(ctx context.Context, f instrumentation.Filter, p instrumentation.Page) (found []instrumentation.Instrumentation, next, previous bool, err error) {
	if p.First < 0 || p.Last < 0 || (p.First > 0) == (p.Last > 0) {
		return nil, false, false, errors.New("search: one of first and last must be above zero")
	}
	find, err := s.finder(ctx, f)
	if err != nil {
		return nil, false, false, err
	}
	n, up, edge := p.First, false, p.After
	if p.Last > 0 {
		n, up, edge = p.Last, true, p.Before
	}
	// Newest first: what comes after an item is older than it.
	found, beyond, err := find(p.Before, p.After, up, n+1, edge)
	if err != nil {
		return nil, false, false, err
	}
	more := len(found) > n
	found = found[:min(n, len(found))]
	// Beyond the end that the walk began at there can be something only if that end is bounded: the item of the cursor, or
	// where that has gone another.
	if edge != "" && !beyond {
		if len(found) > 0 {
			edge = string(found[0].ID)
		}
		older, newer := edge, ""
		if up {
			older, newer = "", edge
		}
		rest, _, err := find(older, newer, !up, 1, "")
		if err != nil {
			return nil, false, false, err
		}
		beyond = len(rest) > 0
	}
	if up {
		slices.Reverse(found)
		return found, beyond, more, nil
	}
	return found, more, beyond, nil
}

// Count implements instrumentation.Store.
func (s *Store) Count(ctx context.Context, f instrumentation.Filter) (int, error) {
	if f.VM != uuid.Nil || f.Host != uuid.Nil {
		records, err := s.placedRecords(ctx, f)
		return len(records), err
	}
	q := plan(f)
	n := 0
	if len(q.groups) == 1 && q.exact() {
		var cards []*redis.IntCmd
		var late *redis.IntCmd
		err := s.pipelined(ctx, "measure the indexes", func(p redis.Pipeliner) {
			for _, name := range q.groups[0] {
				cards = append(cards, p.ZCard(ctx, record+name))
			}
			if q.states > 0 {
				late = p.ZCount(ctx, record+"expires", "-inf", itoa(q.now))
			}
		})
		for _, c := range cards {
			n += int(c.Val())
		}
		if err != nil || late == nil || late.Val() == 0 {
			return n, err
		}
		n = 0 // the indexes of the states are behind
	}
	if q.exact() {
		err := s.scan(ctx, &walk{query: q, want: wantNumber}, countBudget, func() int { return countBudget }, func(reply any) error {
			n += int(number(at(reply, 1)))
			return nil
		})
		return n, err
	}
	err := s.scan(ctx, &walk{query: q, want: wantRecords}, scanBudget, func() int { return scanBudget }, func(reply any) error {
		found, err := q.named(reply)
		n += len(found)
		return err
	})
	return n, err
}

// finder is find for one filter.
type finder func(older, newer string, up bool, n int, known string) ([]instrumentation.Instrumentation, bool, error)

// finder returns how records that match a filter are found. What is placed in a zone or on a host is a short list, which is
// read whole; anything else is walked by index.
func (s *Store) finder(ctx context.Context, f instrumentation.Filter) (finder, error) {
	if f.VM == uuid.Nil && f.Host == uuid.Nil {
		q := plan(f)
		return func(older, newer string, up bool, n int, known string) ([]instrumentation.Instrumentation, bool, error) {
			return s.find(ctx, q, older, newer, up, n, known)
		}, nil
	}
	all, err := s.placedRecords(ctx, f) // oldest first
	return func(older, newer string, up bool, n int, _ string) ([]instrumentation.Instrumentation, bool, error) {
		var found []instrumentation.Instrumentation
		for i := range all {
			r := &all[i]
			if !up {
				r = &all[len(all)-1-i]
			}
			if (older == "" || string(r.ID) > older) && (newer == "" || string(r.ID) < newer) && len(found) < n {
				found = append(found, *r)
			}
		}
		return found, false, nil
	}, err
}

// placedRecords returns the records that match a filter with a VM or a host, oldest first.
func (s *Store) placedRecords(ctx context.Context, f instrumentation.Filter) ([]instrumentation.Instrumentation, error) {
	host := f.Host
	if f.VM != uuid.Nil {
		at, err := s.hostOf(ctx, f.VM)
		if err != nil || at == uuid.Nil || (host != uuid.Nil && at != host) {
			return nil, err
		}
		host = at
	}
	placed, err := s.placedOn(ctx, host)
	if err != nil {
		return nil, err
	}
	var ids []instrumentation.ID
	for id, p := range placed {
		if f.VM == uuid.Nil || p.has(f.VM) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	records, err := s.Get(ctx, ids...)
	if err != nil {
		return nil, fmt.Errorf("search by place: %w", err)
	}
	var out []instrumentation.Instrumentation
	for _, r := range records {
		if r != nil && matches(r, f) {
			out = append(out, *r)
		}
	}
	return out, nil
}

// matches applies what a filter says of the record itself.
func matches(r *instrumentation.Instrumentation, f instrumentation.Filter) bool {
	if f.Owner != nil && r.Owner != *f.Owner || f.Metric != "" && r.Metric != f.Metric {
		return false
	}
	if len(f.States) > 0 && !slices.Contains(f.States, r.StateAt(f.Now)) {
		return false
	}
	for _, t := range f.Tags {
		if !slices.Contains(r.Tags, t) {
			return false
		}
	}
	return f.Text == "" || strings.Contains(strings.ToLower(r.Name), strings.ToLower(f.Text))
}
