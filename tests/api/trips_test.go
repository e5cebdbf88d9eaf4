package api

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/graph"
	"iapi/instrumentation"
	"iapi/store"
	"iapi/store/storetest"
)

// trips notes what is sent to the store on behalf of requests: for each round trip its commands. What this process does beside
// is no part of an answer: it says every few seconds that it serves agents, follows streams, and looks whether those have gone
// back. So does not what opens a connection.
type trips struct {
	mu   sync.Mutex
	sent [][]string
}

// asking marks the contexts of requests.
type asking struct{}

func (t *trips) note(ctx context.Context, cmds ...redis.Cmder) {
	var names []string
	for _, c := range cmds {
		name := strings.ToLower(c.Name())
		if name == "hello" || name == "client" || ctx.Value(asking{}) == nil && !mutates(name, c.Args()) {
			continue
		}
		if strings.HasPrefix(name, "eval") {
			name += " " + fmt.Sprint(c.Args()[3])
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent = append(t.sent, names)
}

// mutates recognizes a mutation, which the embedded store makes in a goroutine of its own, for whoever has asked: the first
// argument of its script is the time.
func mutates(name string, args []any) bool {
	if !strings.HasPrefix(name, "eval") || len(args) < 5 {
		return false
	}
	at, is := args[4].(int64)
	return is && time.Since(time.UnixMilli(at)).Abs() < time.Hour
}

// take returns what was sent since it was last called.
func (t *trips) take() [][]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.sent
	t.sent = nil
	return out
}

func (*trips) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (t *trips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { t.note(ctx, cmd); return next(ctx, cmd) }
}

func (t *trips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { t.note(ctx, cmds...); return next(ctx, cmds) }
}

// TestACreateIsOneScriptAndTheEnqueue counts the commands of creates through the API: the script decides about the
// idempotency key, the quota and the record, and hands back what the answer needs.
func TestACreateIsOneScriptAndTheEnqueue(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, st *store.Store) {
		s, _ := front(t, st, func(o *graph.Options) { o.Records = nil })
		sent := &trips{}
		st.Client().AddHook(sent)
		alice := uuid.New()
		token := s.tenant(t, alice)
		wish := map[string]any{"metric": "cpu.usage", "scope": map[string]any{"all": true}, "name": "requests"}
		s.create(t, token, wish) // the scripts are loaded, and the queue is known
		sent.take()
		for range 3 {
			id := s.create(t, token, wish)
			require.Equal(t, [][]string{
				{"evalsha iapi:{i}:"}, {"evalsha asynq:{default}:t:" + id + ":1", "xadd"},
			}, sent.take())
		}
		keyed := merged(wish, map[string]any{"idempotencyKey": "k"})
		first := s.create(t, token, keyed)
		require.Len(t, sent.take(), 2)

		require.Equal(t, first, s.create(t, token, keyed), "the same key, the same answer")
		require.Equal(t, []string{"evalsha iapi:{i}:"}, sent.take()[0])
		refused := func(input map[string]any, code, path string) {
			t.Helper()
			p := s.mutate(t, token, "createInstrumentation", "CreateInstrumentationInput", "instrumentation { id }", input)
			require.Nil(t, p["instrumentation"])
			require.Equal(t, code, at(t, p, "userErrors", 0, "code"))
			require.Equal(t, path, at(t, p, "userErrors", 0, "path", 1))
			require.Equal(t, [][]string{{"evalsha iapi:{i}:"}, {"evalsha iapi:{i}:"}}, sent.take(), "the script, and the audit entry of the refusal")
		}
		refused(merged(keyed, map[string]any{"name": "another"}), "IDEMPOTENCY_CONFLICT", "idempotencyKey")

		require.NoError(t, st.Client().HSet(t.Context(), "iapi:{i}:quota", alice.String()+":live", 1_000_000).Err())
		sent.take()
		refused(wish, "LIMIT_EXCEEDED", "metric")

		require.NoError(t, st.Remove(t.Context(), instrumentation.ID(first)))
		sent.take()
		refused(keyed, "NOT_FOUND", "idempotencyKey")
	})
}

// TestAPageIsTwoRoundTrips: the records and where the page ends, then the coverage of all of them.
func TestAPageIsTwoRoundTrips(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, st *store.Store) {
		s, _ := front(t, st, func(o *graph.Options) { o.Records = nil })
		sent := &trips{}
		st.Client().AddHook(sent)
		for range 60 {
			s.create(t, "operator", map[string]any{"metric": "cpu.usage", "scope": map[string]any{"everyHost": true}})
		}
		s.must(t, "operator", pageQuery, nil) // the scripts are loaded
		const next = `query($after: String, $filter: InstrumentationFilter) { instrumentations(first: 5, after: $after, filter: $filter) {
  nodes { id coverage { expected } } pageInfo { hasPreviousPage endCursor } } }`
		for name, filter := range map[string]map[string]any{
			"all": nil, "one index": {"metric": "cpu.usage"}, "several": {"metric": "cpu.usage", "state": []any{"CREATED", "ENABLED"}},
		} {
			var after any
			for range 2 {
				sent.take()
				page := s.must(t, "operator", next, map[string]any{"after": after, "filter": filter})
				require.Len(t, sent.take(), 2, name)
				require.Equal(t, after != nil, at(t, page, "instrumentations", "pageInfo", "hasPreviousPage"))
				after = at(t, page, "instrumentations", "pageInfo", "endCursor")
			}
		}
	})
}
