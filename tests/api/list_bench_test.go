package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/measure"
	"iapi/store"
	"iapi/store/storetest"
)

const (
	benchRecords = 100_000
	benchOwners  = 100
	pageQuery    = `{ instrumentations(first: 50) { nodes { id name owner metric { name } tags { key value } scope { json text }
  coverage { expected running pending failed offline } state revision granularitySeconds createdAt } pageInfo { hasNextPage endCursor } } }`
)

func benchEach(b *testing.B, fn func(b *testing.B, s *store.Store)) {
	b.Run("embedded", func(b *testing.B) {
		// Snapshots hold the embedded server for a while; they are not what is measured.
		s, err := store.Open(b.Context(), store.Options{Embedded: &store.Embedded{Dir: b.TempDir(), SnapshotEvery: time.Hour}})
		require.NoError(b, err)
		b.Cleanup(func() { require.NoError(b, s.Close()) })
		fn(b, s)
	})
	b.Run("redis", func(b *testing.B) { fn(b, storetest.Real(b, store.Options{})) })
}

// seed writes records, their indexes and their counts as the store's scripts leave them (see store/keys.go).
func seed(b *testing.B, s *store.Store, n int) {
	b.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	at := time.Now().UTC().Add(-time.Hour).Truncate(time.Millisecond)
	for from := 0; from < n; from += 500 {
		_, err := s.Client().Pipelined(b.Context(), func(p redis.Pipeliner) error {
			for i := from; i < min(from+500, n); i++ {
				when := at.Add(time.Duration(i) * time.Millisecond)
				id, err := instrumentation.NewID(when, bytes.NewReader(binaryID(i)))
				require.NoError(b, err)
				rec := instrumentation.Instrumentation{
					ID: id, Revision: 1, Name: fmt.Sprint("requests ", i), Owner: owner(i % benchOwners), Metric: "cpu.usage",
					Scope: instrumentation.Scope{And: []instrumentation.Scope{
						{VMTag: &instrumentation.TagMatch{Key: "role", In: []string{"web", "db"}}},
						{Not: &instrumentation.Scope{VMAlias: "canary"}},
					}},
					Targets:     []measure.Target{{Kind: measure.Statsd, Address: "stats.example.com:8125", Prefix: "p"}},
					Tags:        []instrumentation.Tag{{Key: "env", Value: "prod"}, {Key: "team", Value: strconv.Itoa(i / 100 % 10)}},
					Granularity: 1, CreatedBy: "operator:bench", CreatedAt: when, UpdatedAt: when, State: instrumentation.Enabled, Evaluated: 1, EnabledAt: when,
				}
				raw, err := json.Marshal(rec)
				require.NoError(b, err)
				p.HSet(b.Context(), "iapi:{i}:rec", string(id), raw)
				for _, ix := range []string{"all", "o:" + rec.Owner.String(), "m:" + rec.Metric, "s:" + string(rec.State), "t:env\x00prod", "t:team\x00" + rec.Tags[1].Value} {
					p.ZAdd(b.Context(), "iapi:{i}:ix:"+ix, redis.Z{Member: string(id)})
				}
				for range 3 {
					p.HSet(b.Context(), fmt.Sprintf("iapi:{h%02d}:tot", r.IntN(16)), string(id)+":e", 4, string(id)+":r", 3, string(id)+":p", 1, string(id)+":h", 1)
				}
			}
			return nil
		})
		require.NoError(b, err)
	}
	now, err := s.Now(b.Context())
	require.NoError(b, err)
	_, err = s.Client().Pipelined(b.Context(), func(p redis.Pipeliner) error {
		for i := range 1600 {
			p.ZAdd(b.Context(), fmt.Sprintf("iapi:{h%02d}:seen", i%16), redis.Z{Score: float64(now.Add(time.Hour).UnixMilli()), Member: owner(i).String()})
		}
		return nil
	})
	require.NoError(b, err)
}

func binaryID(i int) []byte { return []byte{0, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)} }

func owner(i int) uuid.UUID {
	id := uuid.MustParse("00000000-0000-4000-8000-000000000000")
	id[14], id[15] = byte(i>>8), byte(i)
	return id
}

// plain is what a handler without GraphQL would do: the ids, then everything in one pipeline, then encoding/json.
func plain(s *store.Store) http.HandlerFunc {
	type coverage struct {
		Expected int `json:"expected"`
		Running  int `json:"running"`
		Pending  int `json:"pending"`
		Failed   int `json:"failed"`
		Offline  int `json:"offline"`
	}
	type item struct {
		ID          string                `json:"id"`
		Name        string                `json:"name"`
		Owner       uuid.UUID             `json:"owner"`
		Metric      string                `json:"metric"`
		Tags        []instrumentation.Tag `json:"tags"`
		Scope       json.RawMessage       `json:"scope"`
		Coverage    coverage              `json:"coverage"`
		State       string                `json:"state"`
		Revision    int                   `json:"revision"`
		Granularity int                   `json:"granularity"`
		CreatedAt   time.Time             `json:"createdAt"`
	}
	return func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		ids, err := s.Client().ZRevRange(ctx, "iapi:{i}:ix:all", 0, 50).Result()
		if err != nil {
			http.Error(w, "", http.StatusInternalServerError)
			return
		}
		next := len(ids) > 50
		ids = ids[:min(50, len(ids))]
		fields := make([]string, 0, 5*len(ids))
		for _, id := range ids {
			fields = append(fields, id+":e", id+":r", id+":p", id+":f", id+":h")
		}
		var records *redis.SliceCmd
		var counts [16]*redis.SliceCmd
		_, err = s.Client().Pipelined(ctx, func(p redis.Pipeliner) error {
			records = p.HMGet(ctx, "iapi:{i}:rec", ids...)
			for i := range counts {
				counts[i] = p.HMGet(ctx, fmt.Sprintf("iapi:{h%02d}:tot", i), fields...)
				p.ZRangeByScore(ctx, fmt.Sprintf("iapi:{h%02d}:seen", i), &redis.ZRangeBy{Min: "-inf", Max: strconv.FormatInt(time.Now().UnixMilli()-30_000, 10)})
			}
			return nil
		})
		if err != nil {
			http.Error(w, "", http.StatusInternalServerError)
			return
		}
		out := struct {
			Nodes   []item `json:"nodes"`
			HasNext bool   `json:"hasNextPage"`
			End     string `json:"endCursor"`
		}{make([]item, len(ids)), next, ids[len(ids)-1]}
		for i, v := range records.Val() {
			text, _ := v.(string)
			if err := json.Unmarshal([]byte(text), &out.Nodes[i]); err != nil {
				http.Error(w, "", http.StatusInternalServerError)
				return
			}
			c := &out.Nodes[i].Coverage
			for _, shard := range counts {
				n := shard.Val()[5*i : 5*i+5]
				for k, to := range []*int{&c.Expected, &c.Running, &c.Pending, &c.Failed} {
					t, _ := n[k].(string)
					v, _ := strconv.Atoi(t)
					*to += v
				}
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(out)
	}
}

func fetch(b *testing.B, c *http.Client, url string, body []byte) []byte {
	r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url, bytes.NewReader(body))
	require.NoError(b, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer operator")
	resp, err := c.Do(r)
	require.NoError(b, err)
	raw, err := io.ReadAll(resp.Body)
	require.NoError(b, err)
	require.NoError(b, resp.Body.Close())
	require.Equal(b, http.StatusOK, resp.StatusCode, "%s", raw)
	return raw
}

// BenchmarkListFirst50 asks for the newest 50 of 100,000 instrumentations, with tags, scope and coverage: through the API, and
// through a handler that reads the same keys in one pipeline and writes plain JSON. Both answer over loopback.
func BenchmarkListFirst50(b *testing.B) {
	benchEach(b, func(b *testing.B, s *store.Store) {
		seed(b, s, benchRecords)
		a, _ := front(b, s, nil)
		floor := httptest.NewServer(plain(s))
		b.Cleanup(floor.Close)
		query, err := json.Marshal(map[string]any{"query": pageQuery})
		require.NoError(b, err)
		var page struct {
			Data struct {
				Instrumentations struct {
					Nodes []struct{ Coverage struct{ Expected int } }
				}
			}
		}
		require.NoError(b, json.Unmarshal(fetch(b, a.client, a.url+"/graphql", query), &page))
		require.Len(b, page.Data.Instrumentations.Nodes, 50)
		require.NotZero(b, page.Data.Instrumentations.Nodes[0].Coverage.Expected)
		for _, c := range []struct{ name, url string }{{"plain", floor.URL}, {"graphql", a.url + "/graphql"}} {
			b.Run(c.name, func(b *testing.B) {
				b.ReportAllocs()
				n, pages, used := 0, 0, cpu(b)
				for b.Loop() {
					n = len(fetch(b, a.client, c.url, query))
					pages++
				}
				b.ReportMetric(float64((cpu(b)-used).Microseconds())/float64(pages), "cpu-µs/page")
				b.ReportMetric(float64(n), "B/page")
			})
		}
	})
}

// cpu is what this process has used: the server's side, the client's, and with it the embedded store's. On a busy machine it
// says more than the clock.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
