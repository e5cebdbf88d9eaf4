package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/graph"
	"iapi/instrumentation"
	"iapi/store"
	"iapi/store/storetest"
)

// TestCursorsAreStableWhileOthersCreateAndDelete walks lists forwards and backwards while others create and delete all around
// the cursors: whatever exists all the time is seen exactly once, in order, and nothing at all is seen twice.
func TestCursorsAreStableWhileOthersCreateAndDelete(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, st *store.Store) {
		s, _ := front(t, st, func(o *graph.Options) { o.Records = nil })
		alice := uuid.New()
		token := s.tenant(t, alice)
		wish := func(name string) map[string]any {
			return map[string]any{
				"metric": "cpu.usage", "scope": map[string]any{"all": true}, "name": name,
				"tags": []any{map[string]any{"key": "team", "value": "core"}},
			}
		}
		// Every other one goes away while the list is read.
		var stay, leave []string
		for i := range 60 {
			id := s.create(t, token, wish(fmt.Sprint("walk ", i)))
			if i%2 == 0 {
				stay = append(stay, id)
			} else {
				leave = append(leave, id)
			}
		}
		slices.Reverse(stay) // the newest come first

		ctx, stop := context.WithCancel(t.Context())
		var others sync.WaitGroup
		defer func() { stop(); others.Wait() }()
		steps := make(chan struct{}, 1)
		step := func() {
			select {
			case steps <- struct{}{}:
			default:
			}
		}
		for range 2 {
			others.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					id := s.create(t, token, wish("walk beside"))
					if n%2 == 0 { // the record goes for good, as when its last host has acknowledged
						require.NoError(t, st.Remove(context.WithoutCancel(ctx), instrumentation.ID(id)))
					}
					step()
				}
			})
		}
		others.Go(func() {
			for _, id := range leave {
				if ctx.Err() != nil {
					return
				}
				require.NoError(t, st.Remove(context.WithoutCancel(ctx), instrumentation.ID(id)))
				step()
			}
		})

		const forwards = `query($n: Int, $at: String, $f: InstrumentationFilter) { instrumentations(first: $n, after: $at, filter: $f) {
  edges { cursor node { id } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }`
		const backwards = `query($n: Int, $at: String, $f: InstrumentationFilter) { instrumentations(last: $n, before: $at, filter: $f) {
  edges { cursor node { id } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }`
		for name, filter := range map[string]map[string]any{
			"all": nil, "several indexes": {"metric": "cpu.usage", "state": []any{"CREATED", "ENABLED"}, "tags": []any{map[string]any{"key": "team", "value": "core"}}},
			"text": {"text": "walk"},
		} {
			for _, query := range []string{forwards, backwards} {
				var seen []string
				var cursor any
				for more := true; more; {
					<-steps // something has changed since the last page
					page := s.must(t, token, query, map[string]any{"n": 3, "at": cursor, "f": filter})["instrumentations"]
					var ids []string
					for _, e := range at(t, page, "edges").([]any) {
						ids = append(ids, at(t, e, "node", "id").(string))
					}
					if query == forwards {
						seen = append(seen, ids...)
						more, cursor = at(t, page, "pageInfo", "hasNextPage").(bool), at(t, page, "pageInfo", "endCursor")
					} else {
						seen = append(ids, seen...)
						more, cursor = at(t, page, "pageInfo", "hasPreviousPage").(bool), at(t, page, "pageInfo", "startCursor")
					}
				}
				require.True(t, slices.IsSortedFunc(seen, func(a, b string) int { return strings.Compare(b, a) }), "%s: %v", name, seen)
				require.Len(t, slices.Compact(slices.Clone(seen)), len(seen), "%s: nothing comes twice", name)
				kept := slices.DeleteFunc(slices.Clone(seen), func(id string) bool { return !slices.Contains(stay, id) })
				require.Equal(t, stay, kept, "%s: everything that stays is seen", name)
			}
		}
	})
}
