package api

import (
	"context"
	"encoding/json"
	"net"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/graph"
	"iapi/store"
)

// trips counts what is sent to the store: a pipeline is one.
type trips struct{ n atomic.Int64 }

func (*trips) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (t *trips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { t.n.Add(1); return next(ctx, cmd) }
}

func (t *trips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { t.n.Add(1); return next(ctx, cmds) }
}

// BenchmarkCreate creates instrumentations over HTTP without a preview token, and counts what that sends to the store.
func BenchmarkCreate(b *testing.B) {
	benchEach(b, func(b *testing.B, s *store.Store) {
		a, _ := front(b, s, func(o *graph.Options) { o.Records = nil })
		count := &trips{}
		s.Client().AddHook(count)
		body, err := json.Marshal(map[string]any{
			"query": `mutation($input: CreateInstrumentationInput!) { createInstrumentation(input: $input) { instrumentation { id } userErrors { message } } }`,
			"variables": map[string]any{"input": map[string]any{
				"metric": "cpu.usage", "owner": owner(1).String(), "name": "requests", "scope": map[string]any{"all": true},
				"tags": []any{map[string]any{"key": "team", "value": "core"}},
			}},
		})
		require.NoError(b, err)
		fetch(b, a.client, a.url+"/graphql", body) // the scripts are loaded
		n, from, used := 0, count.n.Load(), cpu(b)
		var last []byte
		for b.Loop() {
			last = fetch(b, a.client, a.url+"/graphql", body)
			n++
		}
		b.ReportMetric(float64((cpu(b)-used).Microseconds())/float64(n), "cpu-µs/create")
		b.ReportMetric(float64(count.n.Load()-from)/float64(n), "store-trips/create")
		require.Contains(b, string(last), `"userErrors":[]`)
	})
}
