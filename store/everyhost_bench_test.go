package store_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/instrumentation"
	"iapi/store"
	"iapi/store/storetest"
)

// BenchmarkChangeOfEveryHost puts an instrumentation onto 2,000 hosts that have four, or takes it from them, by the steps that
// a worker and an API take. It prints the server's processor time for each host, by step.
func BenchmarkChangeOfEveryHost(b *testing.B) {
	s := storetest.Real(b, store.Options{})
	ctx := b.Context()
	const many = 256
	hosts := make([]uuid.UUID, 2000)
	sessions := make([]uuid.UUID, len(hosts))
	of := make(map[uuid.UUID]int, len(hosts))
	for i := range hosts {
		hosts[i], sessions[i] = uid(i), uid(1_000_000+i)
		of[hosts[i]] = i
	}
	spent := make(map[string]time.Duration)
	step := func(name string, fn func()) {
		before := serverTime(b, s)
		fn()
		spent[name] += serverTime(b, s) - before
	}
	sequence := int64(0)
	change := func(ids int) {
		step("mark", func() { require.NoError(b, s.MarkHosts(ctx, false, hosts...)) })
		for done := 0; done < len(hosts); {
			var claims []store.Claim
			step("claim", func() {
				var err error
				claims, err = s.ClaimHosts(ctx, "w", many, time.Minute)
				require.NoError(b, err)
			})
			some := make([]uuid.UUID, len(claims))
			for i, c := range claims {
				some[i] = c.Host
			}
			var read []store.FactsRead
			step("facts", func() {
				var err error
				read, err = s.FactsOf(ctx, some...)
				require.NoError(b, err)
			})
			drafts := make([]store.Draft, len(claims))
			for i, c := range claims {
				items := make([]assignment.Item, ids)
				for k := range items {
					n := 10 * of[c.Host]
					items[k] = item(uuid.NewSHA1(uuid.NameSpaceURL, []byte{byte(k)}).String(), 1, uid(n), uid(n+1))
				}
				body, hash, counts := body(items...)
				drafts[i] = store.Draft{Claim: c, Facts: read[i].Facts, Items: items, Body: body, Hash: hash, Placed: counts}
			}
			step("commit", func() {
				for _, c := range s.CommitDocuments(ctx, drafts) {
					require.NoError(b, c.Err)
					require.True(b, c.Done)
				}
			})
			done += len(claims)
		}
		sequence++
		for some := range slices.Chunk(hosts, many) {
			var docs []assignment.Stored
			step("documents", func() {
				var err error
				docs, err = s.Documents(ctx, some...)
				require.NoError(b, err)
			})
			reports := make([]store.Report, len(some))
			for i, d := range docs {
				reports[i] = store.Report{
					Host: some[i], Session: sessions[of[some[i]]], Sequence: sequence, AgentVersion: "1.0", Applied: d.Version,
					Capabilities: []string{"kstat", "procfs"},
				}
				for k := range ids {
					reports[i].Instrumentations = append(reports[i].Instrumentations, store.Status{
						ID:       instrumentation.ID(uuid.NewSHA1(uuid.NameSpaceURL, []byte{byte(k)}).String()),
						Revision: 1, Status: running, LastSample: created,
					})
				}
			}
			step("report", func() {
				results, err := s.ReportBatch(ctx, reports)
				require.NoError(b, err)
				require.True(b, results[0].Accepted)
			})
		}
	}
	change(4)
	clear(spent)
	changes := 0
	for b.Loop() {
		change(5)
		change(4)
		changes += 2
	}
	sum := time.Duration(0)
	for name, d := range spent {
		b.ReportMetric(float64(d.Microseconds())/float64(changes*len(hosts)), name+"-µs/host")
		sum += d
	}
	b.ReportMetric(float64(sum.Microseconds())/float64(changes*len(hosts)), "store-µs/host")
}

// serverTime is the processor time that the Redis server has used.
func serverTime(b *testing.B, s *store.Store) time.Duration {
	b.Helper()
	info, err := s.Client().Info(b.Context(), "cpu").Result()
	require.NoError(b, err)
	sum := 0.0
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_user" || name == "used_cpu_sys" {
			n, err := strconv.ParseFloat(value, 64)
			require.NoError(b, err, fmt.Sprintf("%q", line))
			sum += n
		}
	}
	return time.Duration(sum * float64(time.Second))
}
