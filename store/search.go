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

// scanBudget is how many members of an index one run of the search script looks at.
const scanBudget = 2000

// query is a filter turned into indexes. A record matches if it is in one index of each group and its name has the text.
type query struct {
	groups [][]string // each not empty; the smallest comes first
	text   string     // in lower case; "": any
}

// plan finds the indexes of a filter and puts the smallest group first, which is the one that is walked.
func (s *Store) plan(ctx context.Context, f instrumentation.Filter) (*query, error) {
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
	}
	for _, t := range f.Tags {
		q.groups = append(q.groups, []string{tagIndex(t)})
	}
	if q.text != "" {
		// The longest runs alone: a name that has them has the shorter ones too.
		r := []rune(q.text)
		n := min(3, len(r))
		for _, g := range grams(q.text) {
			if len([]rune(g)) == n {
				q.groups = append(q.groups, []string{gramIndex(g)})
			}
		}
	}
	if len(q.groups) == 0 {
		q.groups = [][]string{{"ix:all"}}
	}
	if len(q.groups) == 1 {
		return q, nil
	}
	cards := make([][]*redis.IntCmd, len(q.groups))
	err := s.pipelined(ctx, "measure the indexes", func(p redis.Pipeliner) {
		for i, g := range q.groups {
			for _, name := range g {
				cards[i] = append(cards[i], p.ZCard(ctx, record+name))
			}
		}
	})
	if err != nil {
		return nil, err
	}
	best, size := 0, int64(-1)
	for i := range cards {
		var n int64
		for _, c := range cards[i] {
			n += c.Val()
		}
		if size < 0 || n < size {
			best, size = i, n
		}
	}
	q.groups[0], q.groups[best] = q.groups[best], q.groups[0]
	return q, nil
}

// args are the indexes as the script takes them.
func (q *query) args() []any {
	var out []any
	for _, g := range q.groups {
		out = append(append(out, len(g)), anys(g)...)
	}
	return out
}

// find walks the ids between two bounds (exclusive; "" open) and returns up to n records that match: from the newest down,
// or with up from the oldest up.
func (s *Store) find(ctx context.Context, q *query, older, newer string, up bool, n int) ([]instrumentation.Instrumentation, error) {
	var found []instrumentation.Instrumentation
	err := s.scan(ctx, q, older, newer, up, func() int { return n - len(found) }, func(ids []instrumentation.ID) error {
		records, err := s.Get(ctx, ids...)
		if err != nil {
			return err
		}
		for _, r := range records {
			if r != nil && q.names(r) && len(found) < n {
				found = append(found, *r)
			}
		}
		return nil
	})
	return found, err
}

// names reports whether the record's name has the text. The indexes only say that it has all of its runs.
func (q *query) names(r *instrumentation.Instrumentation) bool {
	return q.text == "" || strings.Contains(strings.ToLower(r.Name), q.text)
}

// scan calls fn with pieces of the ids that the indexes yield, until they are exhausted or need says that no more are
// needed. The walk knows its place by id, so records that come and go meanwhile neither repeat nor hide others.
func (s *Store) scan(ctx context.Context, q *query, older, newer string, up bool, need func() int, fn func([]instrumentation.ID) error) error {
	low, high := "-", "+"
	if older != "" {
		low = "(" + older
	}
	if newer != "" {
		high = "(" + newer
	}
	for need() > 0 {
		args := append([]any{flag(up), low, high, min(need(), 500), scanBudget}, q.args()...)
		reply, err := s.do(ctx, searchScript, record, args...)
		if err != nil {
			return err
		}
		if ids := texts(at(reply, 1)); len(ids) > 0 {
			if err := fn(toIDs(ids)); err != nil {
				return err
			}
		}
		last := text(at(reply, 0))
		if last == "" {
			return nil
		}
		if up {
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
	n, up := p.First, false
	if p.Last > 0 {
		n, up = p.Last, true
	}
	// Newest first: what comes after an item is older than it.
	if found, err = find(p.Before, p.After, up, n+1); err != nil {
		return nil, false, false, err
	}
	more := len(found) > n
	found = found[:min(n, len(found))]
	if up {
		slices.Reverse(found)
	}
	// Beyond the end that the walk began at there can be something only if that end is bounded.
	beyond := false
	if edge := p.After; !up && edge != "" {
		if len(found) > 0 {
			edge = string(found[0].ID)
		}
		rest, err := find(edge, "", true, 1)
		if err != nil {
			return nil, false, false, err
		}
		beyond = len(rest) > 0
	}
	if edge := p.Before; up && edge != "" {
		if len(found) > 0 {
			edge = string(found[len(found)-1].ID)
		}
		rest, err := find("", edge, false, 1)
		if err != nil {
			return nil, false, false, err
		}
		beyond = len(rest) > 0
	}
	if up {
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
	q, err := s.plan(ctx, f)
	if err != nil {
		return 0, err
	}
	if len(q.groups) == 1 && q.text == "" {
		n := 0
		var cards []*redis.IntCmd
		err := s.pipelined(ctx, "measure the indexes", func(p redis.Pipeliner) {
			for _, name := range q.groups[0] {
				cards = append(cards, p.ZCard(ctx, record+name))
			}
		})
		for _, c := range cards {
			n += int(c.Val())
		}
		return n, err
	}
	n := 0
	always := func() int { return 500 }
	err = s.scan(ctx, q, "", "", false, always, func(ids []instrumentation.ID) error {
		if len([]rune(q.text)) <= 3 {
			n += len(ids) // the indexes decide
			return nil
		}
		records, err := s.Get(ctx, ids...)
		for _, r := range records {
			if r != nil && q.names(r) {
				n++
			}
		}
		return err
	})
	return n, err
}

type finder func(older, newer string, up bool, n int) ([]instrumentation.Instrumentation, error)

// finder returns how records that match a filter are found. What is placed in a zone or on a host is a short list, which is
// read whole; anything else is walked by index.
func (s *Store) finder(ctx context.Context, f instrumentation.Filter) (finder, error) {
	if f.VM == uuid.Nil && f.Host == uuid.Nil {
		q, err := s.plan(ctx, f)
		return func(older, newer string, up bool, n int) ([]instrumentation.Instrumentation, error) {
			return s.find(ctx, q, older, newer, up, n)
		}, err
	}
	all, err := s.placedRecords(ctx, f) // oldest first
	return func(older, newer string, up bool, n int) ([]instrumentation.Instrumentation, error) {
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
		return found, nil
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
	if len(f.States) > 0 && !slices.Contains(f.States, r.State) {
		return false
	}
	for _, t := range f.Tags {
		if !slices.Contains(r.Tags, t) {
			return false
		}
	}
	return f.Text == "" || strings.Contains(strings.ToLower(r.Name), strings.ToLower(f.Text))
}
