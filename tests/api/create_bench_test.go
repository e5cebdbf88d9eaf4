package api

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/graph"
	"iapi/store"
)

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
		n, used := 0, cpu(b)
		count.take()
		var last []byte
		for b.Loop() {
			last = fetch(b, a.client, a.url+"/graphql", body)
			n++
		}
		b.ReportMetric(float64((cpu(b)-used).Microseconds())/float64(n), "cpu-µs/create")
		b.ReportMetric(float64(len(count.take()))/float64(n), "store-trips/create")
		require.Contains(b, string(last), `"userErrors":[]`)
	})
}
