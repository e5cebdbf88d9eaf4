package store_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/store"
	"iapi/store/storetest"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

// model is the naive oracle: all records in a list.
type model struct {
	rng     *rand.Rand
	records []instrumentation.Instrumentation // oldest first
}

func pick[T any](rng *rand.Rand, from ...T) T { return from[rng.IntN(len(from))] }

func (m *model) fill(r *instrumentation.Instrumentation) {
	r.Name = strings.Repeat(pick(m.rng, "ab", "Abc", "b a", "ÄÖ", ""), m.rng.IntN(3)) + pick(m.rng, "x", "", "cab", "abc bcd")
	r.Metric = pick(m.rng, "cpu.a", "cpu.b")
	r.ExpiresAt = pick(m.rng, time.Time{}, created.Add(time.Minute), created.Add(time.Hour))
	r.Tags = nil
	for _, k := range []string{"k", "l"} {
		if m.rng.IntN(2) == 0 {
			r.Tags = append(r.Tags, instrumentation.Tag{Key: k, Value: pick(m.rng, "1", "2")})
		}
	}
}

func (m *model) filter() instrumentation.Filter {
	var f instrumentation.Filter
	if m.rng.IntN(3) == 0 {
		owner := pick(m.rng, uuid.Nil, uid(1), uid(2))
		f.Owner = &owner
	}
	if m.rng.IntN(3) == 0 {
		f.Metric = pick(m.rng, "cpu.a", "cpu.none")
	}
	if m.rng.IntN(3) == 0 {
		f.States = []instrumentation.State{pick(m.rng, instrumentation.Created, instrumentation.Enabled, instrumentation.Expired), instrumentation.Degraded}
		f.States = f.States[:1+m.rng.IntN(2)]
		f.Now = pick(m.rng, time.Time{}, created, created.Add(time.Minute), created.Add(time.Hour))
	}
	if m.rng.IntN(3) == 0 {
		f.Tags = append(f.Tags, instrumentation.Tag{Key: "k", Value: pick(m.rng, "1", "2")})
	}
	if m.rng.IntN(3) == 0 {
		f.Text = pick(m.rng, "a", "AB", "abab", "äö", "bcab", "abx", "zzz", "b a", "abcd")
	}
	return f
}

func (m *model) matching(f instrumentation.Filter) []instrumentation.ID {
	var out []instrumentation.ID
	for _, r := range slices.Backward(m.records) {
		if !r.ExpiresAt.IsZero() && !f.Now.Before(r.ExpiresAt) {
			r.State = instrumentation.Expired
		}
		ok := (f.Owner == nil || *f.Owner == r.Owner) && (f.Metric == "" || f.Metric == r.Metric) &&
			(len(f.States) == 0 || slices.Contains(f.States, r.State)) &&
			strings.Contains(strings.ToLower(r.Name), strings.ToLower(f.Text))
		for _, tag := range f.Tags {
			ok = ok && slices.Contains(r.Tags, tag)
		}
		if ok {
			out = append(out, r.ID)
		}
	}
	return out
}

func (m *model) step(t *testing.T, s *store.Store) {
	t.Helper()
	ctx := t.Context()
	if len(m.records) < 5 || m.rng.IntN(3) == 0 {
		r := newRecord(pick(m.rng, uuid.Nil, uid(1), uid(2)), "")
		m.fill(&r)
		commit(t, s, r)
		m.records = append(m.records, r)
		return
	}
	i := m.rng.IntN(len(m.records))
	r := &m.records[i]
	switch m.rng.IntN(3) {
	case 0:
		r.Revision++
		m.fill(r)
		_, err := s.Commit(ctx, change(*r, r.Revision-1))
		require.NoError(t, err)
	case 1:
		r.State = pick(m.rng, instrumentation.Created, instrumentation.Enabled, instrumentation.Degraded, instrumentation.Expired)
		require.NoError(t, s.SetState(ctx, r.ID, r.Revision, r.State, time.Time{}))
	case 2:
		require.NoError(t, s.Remove(ctx, r.ID))
		m.records = slices.Delete(m.records, i, i+1)
	}
}

func idsOf(rs []instrumentation.Instrumentation) []instrumentation.ID {
	var out []instrumentation.ID
	for _, r := range rs {
		out = append(out, r.ID)
	}
	return out
}

// TestSearchAgreesWithANaiveOne checks random filters and pages in both directions, cursors of removed records included.
func TestSearchAgreesWithANaiveOne(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		m := &model{rng: rand.New(rand.NewPCG(1, 2))}
		var cursors []instrumentation.ID
		for range 150 {
			m.step(t, s)
			cursors = append(cursors, m.records[m.rng.IntN(len(m.records))].ID)
			for range 2 {
				f := m.filter()
				want := m.matching(f)
				n, err := s.Count(ctx, f)
				require.NoError(t, err)
				require.Equal(t, len(want), n, "count of %+v", f)

				cursor := ""
				if m.rng.IntN(3) > 0 {
					cursor = string(cursors[m.rng.IntN(len(cursors))])
				}
				size := 1 + m.rng.IntN(6)
				page := instrumentation.Page{First: size, After: cursor}
				var expect []instrumentation.ID
				if m.rng.IntN(2) == 0 {
					page = instrumentation.Page{Last: size, Before: cursor}
					for _, id := range want {
						if cursor == "" || string(id) > cursor {
							expect = append(expect, id)
						}
					}
					expect = expect[max(0, len(expect)-size):]
				} else {
					for _, id := range want {
						if cursor == "" || string(id) < cursor {
							expect = append(expect, id)
						}
					}
					expect = expect[:min(size, len(expect))]
				}
				found, next, previous, err := s.Search(ctx, f, page)
				require.NoError(t, err)
				require.Equal(t, expect, idsOf(found), "%+v %+v", f, page)
				if len(expect) > 0 {
					require.Equal(t, want[len(want)-1] != expect[len(expect)-1], next, "next: %+v %+v", f, page)
					require.Equal(t, want[0] != expect[0], previous, "previous: %+v %+v", f, page)
				}
			}
		}
	})
}

// TestPagesAreStableUnderChurn walks pages while records come and go: none that was there all the time is missed or told
// twice.
func TestPagesAreStableUnderChurn(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		lasting := map[instrumentation.ID]bool{}
		var doomed []instrumentation.ID
		for i := range 60 {
			r := commit(t, s, newRecord(uid(1), fmt.Sprintf("name %d", i)))
			if i%3 == 0 {
				doomed = append(doomed, r.ID)
			} else {
				lasting[r.ID] = true
			}
		}
		for _, forward := range []bool{true, false} {
			seen := map[instrumentation.ID]int{}
			for page := (instrumentation.Page{}); ; {
				page.First, page.Last = 7, 0
				if !forward {
					page.First, page.Last = 0, 7
				}
				found, next, previous, err := s.Search(ctx, instrumentation.Filter{Text: "name"}, page)
				require.NoError(t, err)
				for _, r := range found {
					seen[r.ID]++
				}
				more := next
				if forward {
					page.After = string(found[len(found)-1].ID)
				} else {
					more, page.Before = previous, string(found[0].ID)
				}
				if !more {
					break
				}
				if forward && len(doomed) > 0 {
					require.NoError(t, s.Remove(ctx, doomed[0]))
					doomed = doomed[1:]
				}
				if forward {
					commit(t, s, newRecord(uid(1), "name new")) // newer than all: behind a walk that goes down
				}
			}
			for id := range lasting {
				require.Equal(t, 1, seen[id])
			}
		}
	})
}

func TestSearchRefusesPagesWithoutASize(t *testing.T) {
	s := storetest.Embedded(t, store.Options{})
	for _, p := range []instrumentation.Page{{}, {First: 1, Last: 1}, {First: -1}} {
		_, _, _, err := s.Search(t.Context(), instrumentation.Filter{}, p)
		require.Error(t, err)
	}
}
