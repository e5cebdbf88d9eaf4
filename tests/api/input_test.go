package api

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/identity"
	"iapi/store"
	"iapi/store/storetest"
)

const createDocument = `mutation($input: CreateInstrumentationInput!) { createInstrumentation(input: $input) { instrumentation { id } userErrors { code message path } } }`

func merged(base map[string]any, with map[string]any) map[string]any {
	out := map[string]any{}
	for _, m := range []map[string]any{base, with} {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

// TestBadInputGetsAClearAnswerAndChangesNothing sends what clients get wrong and what attackers send. Each has one answer, and
// afterwards the records are what they were.
func TestBadInputGetsAClearAnswerAndChangesNothing(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, st *store.Store) {
		s, _ := front(t, st, nil)
		alice, bob := uuid.New(), uuid.New()
		tenant, other := s.tenant(t, alice), s.tenant(t, bob)
		wish := map[string]any{"metric": "cpu.usage", "scope": map[string]any{"all": true}}
		id := s.create(t, tenant, merged(wish, map[string]any{"idempotencyKey": "k"}))
		theirs := s.create(t, other, wish)
		state := func() string {
			data := s.must(t, "operator", `{ instrumentations { totalCount nodes { id name revision state updatedAt scope { json } tags { key } } } }`, nil)
			text, err := json.Marshal(data)
			require.NoError(t, err)
			return string(text)
		}
		before := state()
		refused := func(name string, a answer, code string, status int) {
			t.Helper()
			require.Equal(t, code, a.code(), "%s: %s", name, a.raw)
			require.Equal(t, status, a.status, name)
			require.NotEmpty(t, a.Errors[0].Message, name)
			require.Less(t, len(a.raw), 4096, "%s: what was sent is not echoed", name)
		}

		// Requests.
		refused("5,001 tokens", s.ask(t, tenant, "{"+strings.Repeat(" __typename", 5001)+"}", nil), "TOO_LARGE", 400)
		// No field of the schema leads back to where it came from, but fragments and input values can be nested at will.
		deep, closing := strings.Repeat(`{not: `, 60), strings.Repeat(`}`, 60)
		refused("60 levels of a scope", s.ask(t, tenant, `{ previewScope(scope: `+deep+`{all: true}`+closing+`) { vmCount } }`, nil), "BAD_REQUEST", 200)
		refused("60 levels of fields", s.ask(t, tenant, "{ "+strings.Repeat(`node(id: "x") { `, 60)+"id"+strings.Repeat(" }", 60)+" }", nil), "BAD_REQUEST", 400)
		refused("a fragment within itself", s.ask(t, tenant, `{ ...f } fragment f on Query { ...f }`, nil), "BAD_REQUEST", 400)
		refused("10 MiB", s.post(t, tenant, slices.Concat([]byte(`{"query":"{ __typename }","variables":{"x":"`), []byte(strings.Repeat("x", 10<<20)), []byte(`"}}`))), "TOO_LARGE", http.StatusRequestEntityTooLarge)
		refused("no JSON", s.post(t, tenant, []byte(`{"query": }`)), "BAD_REQUEST", 400)
		refused("NaN", s.post(t, tenant, []byte(`{"query":"query($n: Int) { instrumentations(first: $n) { totalCount } }","variables":{"n": NaN}}`)), "BAD_REQUEST", 400)
		refused("too much at once", s.ask(t, tenant, `{ instrumentations(first: 500) { nodes { vms(first: 500) { nodes { uuid } } } } }`, nil), "COMPLEXITY_LIMIT_EXCEEDED", 400)
		for name, variables := range map[string]map[string]any{
			"a bad cursor": {"after": "bad"}, "a cursor of another list": {"after": "MXZ4"}, "a long cursor": {"after": strings.Repeat("A", 1<<16)},
			"a negative page": {"first": -1}, "no page": {"first": 0}, "too large a page": {"first": 501},
		} {
			refused(name, s.ask(t, tenant, `query($first: Int, $after: String) { instrumentations(first: $first, after: $after) { nodes { id } } }`, variables), "BAD_REQUEST", 200)
		}
		for list, key := range map[string]string{ // each of its own kind, with a key that none has
			`instrumentations { nodes { vms(after: "%s") { pageInfo { hasNextPage } } } }`:   "1vx",
			`instrumentations { nodes { hosts(after: "%s") { pageInfo { hasNextPage } } } }`: "1hx",
			`hosts(after: "%s") { pageInfo { hasNextPage } }`:                                "1hx",
			`auditLog(after: "%s") { pageInfo { hasNextPage } }`:                             "1a-1",
		} {
			query := "{ " + fmt.Sprintf(list, base64.RawURLEncoding.EncodeToString([]byte(key))) + " }"
			refused(query, s.ask(t, "operator", query, nil), "BAD_REQUEST", 200)
		}
		for name, n := range map[string]any{"a fraction": 1.5, "more than 32 bits": 1 << 40, "a text": "1"} {
			require.Equal(t, "BAD_REQUEST", s.ask(t, tenant, `query($first: Int) { instrumentations(first: $first) { nodes { id } } }`, map[string]any{"first": n}).code(), name)
		}

		// Wishes: a user error with code and path each, and all of them at once.
		comparison := map[string]any{"field": "cpumode", "value": "user"}
		long := strings.Repeat("k", 64<<10)
		var chain any = map[string]any{"all": true}
		for range 60 {
			chain = map[string]any{"not": chain}
		}
		for name, c := range map[string]struct {
			with map[string]any
			code string
			path string
		}{
			"two members":           {map[string]any{"scope": map[string]any{"all": true, "vmAlias": "x"}}, "INVALID_SCOPE", "input.scope"},
			"no member":             {map[string]any{"scope": map[string]any{}}, "INVALID_SCOPE", "input.scope"},
			"a null member":         {map[string]any{"scope": map[string]any{"all": nil}}, "INVALID_SCOPE", "input.scope.all"},
			"an empty list":         {map[string]any{"scope": map[string]any{"vms": []any{}}}, "INVALID_SCOPE", "input.scope.vms"},
			"60 levels":             {map[string]any{"scope": chain}, "INVALID_SCOPE", "input.scope"},
			"all but false":         {map[string]any{"scope": map[string]any{"all": false}}, "INVALID_SCOPE", "input.scope.all"},
			"hosts":                 {map[string]any{"scope": map[string]any{"hosts": []any{uuid.NewString()}}}, "SCOPE_FORBIDDEN", "input.scope.hosts"},
			"two predicates":        {map[string]any{"predicate": map[string]any{"eq": comparison, "ne": comparison}}, "INVALID_PREDICATE", "input.predicate"},
			"an unknown field":      {map[string]any{"predicate": map[string]any{"eq": map[string]any{"field": "nope", "value": "x"}}}, "UNKNOWN_FIELD", "input.predicate"},
			"a number for a name":   {map[string]any{"predicate": map[string]any{"eq": map[string]any{"field": "cpumode", "value": 1}}}, "TYPE_MISMATCH", "input.predicate"},
			"a fraction":            {map[string]any{"predicate": map[string]any{"eq": map[string]any{"field": "cpumode", "value": 1.5}}}, "TYPE_MISMATCH", "input.predicate"},
			"a target of two kinds": {map[string]any{"targets": []any{map[string]any{"statsd": map[string]any{"address": "a.example.com:1"}, "graphite": map[string]any{"address": "a.example.com:1"}}}}, "INVALID_TARGET", "input.targets.0"},
			"a target of the host":  {map[string]any{"targets": []any{map[string]any{"statsd": map[string]any{"address": "169.254.169.254:80"}}}}, "INVALID_TARGET", "input.targets.0"},
			"an unknown metric":     {map[string]any{"metric": "no.such"}, "UNKNOWN_METRIC", "input.metric"},
			"a tag key of 64 KiB":   {map[string]any{"tags": []any{map[string]any{"key": long, "value": "v"}}}, "LIMIT_EXCEEDED", "input.tags.0.key"},
			"a scope's of 64 KiB":   {map[string]any{"scope": map[string]any{"vmTag": map[string]any{"key": long}}}, "LIMIT_EXCEEDED", "input.scope.vmTag.key"},
			"a name of 64 KiB":      {map[string]any{"name": long}, "LIMIT_EXCEEDED", "input.name"},
			"a negative interval":   {map[string]any{"granularitySeconds": -1}, "LIMIT_EXCEEDED", "input.granularitySeconds"},
			"a negative life":       {map[string]any{"ttlSeconds": -1}, "TTL_EXCEEDED", "input.ttlSeconds"},
			"no life":               {map[string]any{"ttlSeconds": 0}, "TTL_EXCEEDED", "input.ttlSeconds"},
			"a forged preview":      {map[string]any{"previewToken": "AAAA"}, "PREVIEW_STALE", "input.previewToken"},
			"a key used otherwise":  {map[string]any{"idempotencyKey": "k", "name": "another"}, "IDEMPOTENCY_CONFLICT", "input.idempotencyKey"},
		} {
			a := s.ask(t, tenant, createDocument, map[string]any{"input": merged(wish, c.with)})
			if a.code() != "" { // a value that is not even of its scalar type
				require.Equal(t, "BAD_REQUEST", a.code(), name)
				continue
			}
			found := false
			for _, e := range at(t, a.Data, "createInstrumentation", "userErrors").([]any) {
				var path []string
				for _, p := range at(t, e, "path").([]any) {
					path = append(path, p.(string))
				}
				found = found || at(t, e, "code") == c.code && strings.HasPrefix(strings.Join(path, "."), c.path)
			}
			require.True(t, found, "%s: %s", name, a.raw)
			require.Nil(t, at(t, a.Data, "createInstrumentation", "instrumentation"), name)
			require.Less(t, len(a.raw), 4096, "%s: what was sent is not echoed", name)
		}
		three := s.ask(t, tenant, createDocument, map[string]any{"input": map[string]any{"metric": "no.such", "scope": map[string]any{}, "ttlSeconds": 1, "tags": []any{map[string]any{"key": "", "value": ""}}}})
		require.Len(t, at(t, three.Data, "createInstrumentation", "userErrors"), 3, "one for each mistake: %s", three.raw)

		// What does not exist, and what is another's, are the same.
		for name, unknown := range map[string]string{"unknown": "i-00000000000000000000", "malformed": "nonsense", "another's": theirs, "long": strings.Repeat("i", 1<<16)} {
			require.Nil(t, s.must(t, tenant, `query($id: ID!) { instrumentation(id: $id) { id } }`, map[string]any{"id": unknown})["instrumentation"], name)
			for field, kind := range map[string]string{
				"updateInstrumentation": "UpdateInstrumentationInput", "pauseInstrumentation": "InstrumentationIdInput", "resumeInstrumentation": "InstrumentationIdInput",
				"refreshInstrumentation": "InstrumentationIdInput", "deleteInstrumentation": "InstrumentationIdInput", "cloneInstrumentation": "CloneInstrumentationInput",
			} {
				p := s.mutate(t, tenant, field, kind, "__typename", map[string]any{"id": unknown})
				require.Equal(t, "NOT_FOUND", at(t, p, "userErrors", 0, "code"), "%s %s", field, name)
			}
			require.Equal(t, "NOT_FOUND", s.ask(t, tenant, `query($id: ID!, $vm: UUID!) { explainPlacement(instrumentation: $id, vm: $vm) { placed } }`, map[string]any{"id": unknown, "vm": uuid.NewString()}).code())
		}
		require.Equal(t, "FORBIDDEN", s.ask(t, tenant, createDocument, map[string]any{"input": merged(wish, map[string]any{"owner": bob.String()})}).code())
		require.Equal(t, "REVISION_CONFLICT", at(t, s.mutate(t, tenant, "updateInstrumentation", "UpdateInstrumentationInput", "__typename", map[string]any{"id": id, "expectedRevision": 7, "name": "x"}), "userErrors", 0, "code"))
		require.Equal(t, "COUNT_MISMATCH", at(t, s.mutate(t, tenant, "deleteInstrumentations", "DeleteInstrumentationsInput", "deletedCount", map[string]any{"filter": map[string]any{}, "expectedCount": -1}), "userErrors", 0, "code"))
		for _, query := range []string{`{ hosts { totalCount } }`, `{ guards { id } }`, `{ auditLog { nodes { id } } }`, `mutation { refreshAll { accepted } }`, `mutation { stopTracing(input: {everywhere: true, reason: "x"}) { accepted } }`, `mutation { revokeAgent(host: "` + uuid.NewString() + `") { accepted } }`, `mutation { createJoinToken(input: {host: "` + uuid.NewString() + `"}) { token } }`} {
			require.Equal(t, "FORBIDDEN", s.ask(t, tenant, query, nil).code(), query)
			require.Equal(t, "UNAUTHENTICATED", s.ask(t, "", query, nil).code(), query)
		}

		// Credentials.
		expired := s.token(t, identity.Tenant, "alice", alice, -time.Minute)
		for name, token := range map[string]string{"expired": expired, "forged": tenant[:len(tenant)-4] + "AAAA", "an agent's that is none": "iapia_" + strings.Repeat("a", 52), "nonsense": "x"} {
			refused(name, s.ask(t, token, `{ limits { instrumentations } }`, nil), "UNAUTHENTICATED", http.StatusUnauthorized)
		}
		require.Equal(t, before, state(), "nothing has changed")
		require.NotContains(t, s.log.String(), "panicked")
		require.NotContains(t, s.log.String(), fmt.Sprint(long[:100]))
	})
}
