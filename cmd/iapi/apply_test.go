package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func listed(nodes ...string) string {
	return `{"data":{"instrumentations":{"nodes":[` + strings.Join(nodes, ",") + `],"pageInfo":{"hasNextPage":false,"endCursor":null}}}}`
}

func made(id, name string) string {
	one := strings.NewReplacer("i-1", id, "web-cpu", name).Replace(standing)
	return `{"data":{"createInstrumentation":{"instrumentation":` + one + `,"userErrors":[]}}}`
}

func notMade(code, member string) string {
	return fmt.Sprintf(`{"data":{"createInstrumentation":{"instrumentation":null,"userErrors":[{"message":"no","path":["input",%q],"code":%q}]}}}`, member, code)
}

func applyTo(t *testing.T, server answer, manifest string) (int, string, string) {
	t.Helper()
	return runCLI(t, manifest, "apply", "-f", "-", "--yes", "--server", server.serve(t), "--data-dir", t.TempDir(), "--timeout", "5s")
}

func TestApplyLooksOnlyAtTheNamesInTheFileOfTheirOwner(t *testing.T) {
	var asked []map[string]any
	other := strings.ReplaceAll(standing, "web-cpu", "other")
	server := answer{"List": func(v map[string]any) string {
		asked = append(asked, v)
		return listed(standing, other, strings.ReplaceAll(other, "i-1", "i-2"))
	}}
	code, _, errs := applyTo(t, server, manifestText)
	require.Zero(t, code, errs)
	require.Equal(t, []map[string]any{{"first": float64(100), "filter": map[string]any{"owner": nil, "text": "web-cpu"}}}, asked)

	server["List"] = func(map[string]any) string { return listed(standing, strings.ReplaceAll(standing, "i-1", "i-2")) }
	code, _, errs = applyTo(t, server, manifestText)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, `two instrumentations named "web-cpu" (i-1 and i-2)`)
}

func TestApplyOfABoundCallerMeansItsOwnAccount(t *testing.T) {
	code, out, errs := applyTo(t, answer{"List": func(v map[string]any) string {
		if _, named := v["filter"].(map[string]any)["owner"]; named {
			return `{"errors":[{"message":"no","extensions":{"code":"FORBIDDEN"}}]}`
		}
		return listed(strings.Replace(standing, `"owner":null`, `"owner":"930896af-bf8c-48d4-885c-6573a94b1853"`, 1))
	}}, manifestText)
	require.Zero(t, code, errs)
	require.Contains(t, out, "1 unchanged")
}

// keeper is an API that keeps what it makes, by name and key.
type keeper struct {
	mu      sync.Mutex
	lists   int
	planned chan struct{}
	metrics map[string]string // of what stands, by id
	keys    map[string]kept
}

type kept struct{ id, metric string }

// begin forgets what stands, but not the keys.
func (k *keeper) begin() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lists, k.planned, k.metrics = 0, make(chan struct{}), make(map[string]string)
}

// serve answers as the API does. Nobody is answered a list before so many have asked for it, so that all have the same plan.
func (k *keeper) serve(together int) answer {
	k.keys = make(map[string]kept)
	return answer{
		"List": func(map[string]any) string {
			k.mu.Lock()
			var nodes []string
			for id, metric := range k.metrics {
				nodes = append(nodes, strings.NewReplacer("i-1", id, "cpu.usage", metric).Replace(standing))
			}
			if k.lists++; k.lists == together {
				close(k.planned)
			}
			planned := k.planned
			k.mu.Unlock()
			<-planned
			return listed(nodes...)
		},
		"Create": func(v map[string]any) string {
			k.mu.Lock()
			defer k.mu.Unlock()
			in := v["input"].(map[string]any)
			key, metric := in["idempotencyKey"].(string), in["metric"].(string)
			was, used := k.keys[key]
			_, stands := k.metrics[was.id]
			switch {
			case !used:
				was = kept{fmt.Sprint("i-", len(k.keys)), metric}
				k.keys[key], k.metrics[was.id] = was, metric
			case was.metric != metric:
				return notMade("IDEMPOTENCY_CONFLICT", "idempotencyKey")
			case !stands:
				return notMade("NOT_FOUND", "idempotencyKey")
			}
			return made(was.id, "web-cpu")
		},
	}
}

func TestAppliesAtTheSameTimeMakeOneOfAName(t *testing.T) {
	const n = 6
	manifest := func(metric string) string {
		return "instrumentations: [{name: web-cpu, metric: " + metric + ", by: [cpumode], scope: {everyHost: true}, granularity: 10s, tags: {team: core}}]"
	}
	for name, metric := range map[string]func(i int) string{
		"the same":  func(int) string { return "cpu.usage" },
		"different": func(i int) string { return []string{"cpu.usage", "nic.bytes"}[i%2] },
	} {
		t.Run(name, func(t *testing.T) {
			k := &keeper{}
			server := k.serve(n)
			url := server.serve(t)
			for deleted := range 3 { // what a key made is gone, and the next one's too
				k.begin()
				codes := make([]int, n)
				var running sync.WaitGroup
				for i := range n {
					running.Go(func() {
						codes[i], _, _ = runCLI(t, manifest(metric(i)), "apply", "-f", "-", "--yes", "--server", url, "--data-dir", t.TempDir(), "--timeout", "20s")
					})
				}
				running.Wait()
				require.Len(t, k.metrics, 1, "after %d were deleted", deleted)
				done := 0
				for i, code := range codes {
					require.Contains(t, []int{0, exitFailed}, code)
					if code == 0 {
						done++
						require.Equal(t, metric(i), slices.Collect(maps.Values(k.metrics))[0])
					}
				}
				if name == "the same" {
					require.Equal(t, n, done)
				} else {
					require.Equal(t, n/2, done, "the others are told")
				}
			}
		})
	}
}

func TestADryRunHasTheAPICheckEveryStep(t *testing.T) {
	var checked []string
	server := answer{ // a mutation would be an unexpected operation
		"List": func(map[string]any) string { return listed(standing) },
		"CheckCreate": func(v map[string]any) string {
			name := v["input"].(map[string]any)["name"].(string)
			checked = append(checked, "create "+name)
			if name == "good" {
				return `{"data":{"checkCreate":[]}}`
			}
			return `{"data":{"checkCreate":[{"message":"there is no such metric","path":["input","metric"],"code":"UNKNOWN_METRIC"}]}}`
		},
		"CheckUpdate": func(v map[string]any) string {
			checked = append(checked, fmt.Sprint("update ", v["input"].(map[string]any)["id"]))
			return `{"data":{"checkUpdate":[{"message":"too long","path":["input","ttlSeconds"],"code":"TTL_EXCEEDED"}]}}`
		},
	}
	manifest := strings.Replace(manifestText, "granularity: 10s", "granularity: 20s", 1)
	more := `
  - {name: good, metric: m, scope: {everyHost: true}}
  - {name: bad, metric: n, scope: {everyHost: true}}`
	dryRun := func(manifest string) (int, string, string) {
		return runCLI(t, manifest, "apply", "-f", "-", "--dry-run", "--server", server.serve(t), "--data-dir", t.TempDir(), "--timeout", "5s")
	}
	code, out, errs := dryRun(strings.TrimRight(manifest, " \n") + more)
	require.Equal(t, exitFailed, code)
	require.Equal(t, []string{"update i-1", "create good", "create bad"}, checked)
	require.Equal(t, "iapi: update web-cpu: ttl: too long (TTL_EXCEEDED)\niapi: create bad: metric: there is no such metric (UNKNOWN_METRIC)\niapi: 2 would be refused\n", errs)
	require.Contains(t, out, "2 to create, 1 to update, 0 to replace, 0 as they should be: nothing was changed\n")

	code, _, errs = dryRun(manifestText)
	require.Zero(t, code, errs)
	require.Len(t, checked, 3, "what is as it should be is not checked")
}

func TestWhatIsNoNumberIsRefusedInAManifest(t *testing.T) {
	manifest := func(where, in string) string {
		return "instrumentations: [{name: a, metric: m, where: " + where + ", scope: {vmTag: {key: k, in: " + in + "}}}]"
	}
	for _, text := range []string{"NaN", "nan", ".nan", ".NaN", ".inf", "-.inf", "+.Inf", "Infinity", "-Infinity", "inf", "!!float .nan", "!!float '.inf'"} {
		for _, where := range []string{`{gt: [latency, ` + text + `]}`, `{and: [{eq: [execname, &x ` + text + `]}, {eq: [execname, *x]}]}`} {
			_, err := parseManifest([]byte(manifest(where, "[x]")))
			require.ErrorContains(t, err, "instrumentations[0] (a): where: line 1: ", where)
			require.ErrorContains(t, err, "is no number to compare with; a text stands in quotes")
		}
	}
	for _, text := range []string{`"NaN"`, `'.inf'`, "5", "-1", "1e9", "Nancy", "inform", ".", "!!str NaN"} {
		_, err := parseManifest([]byte(manifest(`{eq: [execname, `+text+`]}`, "[NaN]")))
		require.NoError(t, err, text)
	}
	_, err := parseManifest([]byte(manifest(`{eq: [execname, x]}`, "[.nan]")))
	require.ErrorContains(t, err, "instrumentations[0] (a): scope: ")
	_, err = parseManifest([]byte("instrumentations: [{name: a, metric: m, scope: {everyHost: true}, where: &a [*a]}]"))
	require.ErrorContains(t, err, "where: ")
}

func TestApplyGoesOnAfterARefusal(t *testing.T) {
	code, out, errs := applyTo(t, answer{
		"List": func(map[string]any) string { return listed() },
		"Create": func(v map[string]any) string {
			if name := v["input"].(map[string]any)["name"].(string); name != "b" {
				return made("i-"+name, name)
			}
			return notMade("UNKNOWN_METRIC", "metric")
		},
	}, `instrumentations:
  - {name: a, metric: m, scope: {everyHost: true}}
  - {name: b, metric: m, scope: {everyHost: true}}
  - {name: c, metric: m, scope: {everyHost: true}}`)
	require.Equal(t, exitFailed, code)
	require.Contains(t, out, "created a\ncreated c\n")
	require.Equal(t, "iapi: create b: metric: no (UNKNOWN_METRIC)\niapi: 2 created, 1 refused\n", errs)
}

func TestWhatTheRateLimitRefusesIsAskedAgain(t *testing.T) {
	after, lists, creates := 0.01, 0, 0
	limited := func() string {
		return fmt.Sprintf(`{"errors":[{"message":"Too much.","extensions":{"code":"RATE_LIMITED","retryAfterSeconds":%g}}]}`, after)
	}
	server := answer{
		"List": func(map[string]any) string {
			if lists++; lists == 1 {
				return limited()
			}
			return listed()
		},
		"Create": func(map[string]any) string {
			if creates++; creates == 1 {
				after = 1.1
				return limited()
			}
			return made("i-1", "web-cpu")
		},
	}
	code, out, errs := applyTo(t, server, manifestText)
	require.Zero(t, code, errs)
	require.Contains(t, out, "1 created")
	require.Equal(t, "The API's rate limit is reached; waiting 1.1s.\n", errs)

	lists, after = 0, 3600
	code, _, errs = applyTo(t, server, manifestText)
	require.Equal(t, exitUnreachable, code, "--timeout bounds the waiting")
	require.Contains(t, errs, "Too much.")
}
