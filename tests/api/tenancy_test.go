package api

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/inventory/vmapitest"
	"iapi/store"
	"iapi/store/storetest"
)

var anyUUID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// randomScope makes a scope that a tenant may write. It names machines of everybody.
func randomScope(r *rand.Rand, vms []vmapitest.VM, depth int) map[string]any {
	some := func(n int) (out []any) {
		for range 1 + r.IntN(n) {
			out = append(out, vms[r.IntN(len(vms))].UUID.String())
		}
		return out
	}
	inner := func() map[string]any { return randomScope(r, vms, depth-1) }
	switch k := r.IntN(7); {
	case k == 0:
		return map[string]any{"all": true}
	case k == 1:
		return map[string]any{"vms": some(8)}
	case k == 2:
		return map[string]any{"vmAlias": vms[r.IntN(len(vms))].Alias}
	case k == 3 || depth == 0:
		return map[string]any{"vmTag": map[string]any{"key": "role", "in": []any{[]string{"web", "db", "cache"}[r.IntN(3)]}}}
	case k == 4:
		return map[string]any{"not": inner()}
	case k == 5:
		return map[string]any{"and": []any{inner(), inner()}}
	}
	return map[string]any{"or": []any{inner(), inner()}}
}

// TestTenantsNeverSeeAnothersMachine lets 50 tenants make instrumentations of random scopes that name each other's machines,
// places them by the worker from the inventory, and reads everything that a tenant can read. No answer has a machine of
// another, a host's id or a host's name; and no document has a machine whose owner is not its instrumentation's.
func TestTenantsNeverSeeAnothersMachine(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, st *store.Store) {
		s := serve(t, st, nil)
		const tenants, hosts = 50, 8
		r := rand.New(rand.NewPCG(7, 7))
		owners := make([]uuid.UUID, tenants)
		on := make([]vmapitest.Host, hosts)
		for i := range on {
			on[i] = vmapitest.Host{UUID: uuid.New(), Hostname: fmt.Sprintf("secret-cn-%d", i)}
		}
		require.NoError(t, s.cloud.PutHost(on...))
		mine := make(map[uuid.UUID][]uuid.UUID)
		var vms []vmapitest.VM
		for i := range owners {
			owners[i] = uuid.New()
			for k := range 1 + r.IntN(6) {
				// Aliases and tags are the same for all, so that only the owner tells them apart.
				vm := placedVM(owners[i], on[r.IntN(hosts)].UUID, fmt.Sprint("vm", k), map[string]any{"role": []string{"web", "db", "cache"}[r.IntN(3)]})
				vms, mine[owners[i]] = append(vms, vm), append(mine[owners[i]], vm.UUID)
			}
		}
		require.NoError(t, s.cloud.Put(vms...))
		foreign := func(of uuid.UUID, text string) string {
			for _, id := range anyUUID.FindAllString(text, -1) {
				u := uuid.MustParse(id)
				if slices.ContainsFunc(on, func(h vmapitest.Host) bool { return h.UUID == u }) {
					return "host " + id
				}
				if slices.ContainsFunc(vms, func(v vmapitest.VM) bool { return v.UUID == u }) && !slices.Contains(mine[of], u) {
					return "machine " + id
				}
			}
			if strings.Contains(text, "secret-cn") {
				return "a host's name"
			}
			return ""
		}
		require.NotEmpty(t, foreign(owners[0], mine[owners[1]][0].String()), "the check itself works")
		require.NotEmpty(t, foreign(owners[0], "on secret-cn-3"))

		tokens, ids := make([]string, tenants), make([][]string, tenants)
		for i, owner := range owners {
			tokens[i] = s.tenant(t, owner)
			for range 2 {
				scope := randomScope(r, vms, 3)
				preview := s.ask(t, tokens[i], `query($s: ScopeInput!) { previewScope(scope: $s, metric: "cpu.usage") { vmCount hostCount vms(first: 500) { nodes { id uuid alias host owner } } hosts { totalCount } problems { message exampleVm } } }`, map[string]any{"s": scope})
				require.Empty(t, preview.Errors, preview.raw)
				require.Empty(t, foreign(owner, preview.raw), "%v: %s", scope, preview.raw)
				ids[i] = append(ids[i], s.create(t, tokens[i], map[string]any{"metric": "cpu.usage", "scope": scope}))
			}
		}
		require.Eventually(t, func() bool {
			b, err := st.Backlog(t.Context())
			return err == nil && b.Unevaluated == 0 && b.DirtyHosts == 0 && b.DirtyVMs == 0
		}, 5*patience, 50*time.Millisecond, "the workers do not come to rest")
		placed := 0
		for i, owner := range owners {
			for _, id := range ids[i] {
				got := s.ask(t, tokens[i], `query($id: ID!) { instrumentation(id: $id) { state coverage { expected } problems { message sources exampleVm }
				  vms(first: 500) { edges { message node { id uuid alias host owner tags { key value } } } totalCount } hosts { totalCount } } }`, map[string]any{"id": id})
				require.Empty(t, got.Errors, got.raw)
				require.Empty(t, foreign(owner, got.raw), got.raw)
				placed += int(at(t, got.Data, "instrumentation", "coverage", "expected").(float64))
			}
			// The scopes name machines of others, which their author wrote himself; nothing else of a list may.
			list := s.ask(t, tokens[i], `{ instrumentations(first: 500) { totalCount nodes { id owner coverage { expected } } } }`, nil)
			require.Equal(t, 2.0, at(t, list.Data, "instrumentations", "totalCount"))
			require.Empty(t, foreign(owner, list.raw))
			// Another's things look like what does not exist.
			other := (i + 1) % tenants
			stolen := mine[owners[other]][0]
			for query, path := range map[string][]any{
				`query($id: ID!) { found: instrumentation(id: $id) { id } }`:                                          {"found"},
				`query($id: ID!) { found: node(id: $id) { id } }`:                                                     {"found"},
				`query($vm: UUID!) { instrumentations(filter: {vm: $vm}) { pageInfo { startCursor } } }`:              {"instrumentations", "pageInfo", "startCursor"},
				`mutation($id: ID!) { x: deleteInstrumentation(input: {id: $id}) { deletedId userErrors { code } } }`: {"x", "deletedId"},
			} {
				variables := map[string]any{"id": ids[other][0]}
				if strings.Contains(query, "$vm") {
					variables = map[string]any{"vm": stolen.String()}
				}
				data := s.must(t, tokens[i], query, variables)
				require.Nil(t, at(t, data, path...), query)
			}
			why := `query($id: ID!, $vm: UUID!) { explainPlacement(instrumentation: $id, vm: $vm) { causes { code message } } }`
			theirs := s.must(t, tokens[i], why, map[string]any{"id": ids[i][0], "vm": stolen.String()})
			nothing := s.must(t, tokens[i], why, map[string]any{"id": ids[i][0], "vm": uuid.NewString()})
			require.Equal(t, nothing, theirs, "another's machine is answered like one that does not exist")
		}
		require.Greater(t, placed, tenants, "the scopes match something")
		owned := make(map[string]string)
		for _, vm := range vms {
			owned[vm.UUID.String()] = vm.Owner.String()
		}
		for _, h := range on {
			doc := s.must(t, "operator", `query($h: UUID!) { assignment(host: $h) { instrumentations { owner vms { uuid owner } } } }`, map[string]any{"h": h.UUID.String()})
			for _, item := range at(t, doc, "assignment", "instrumentations").([]any) {
				for _, vm := range at(t, item, "vms").([]any) {
					require.Equal(t, at(t, item, "owner"), owned[at(t, vm, "uuid").(string)])
				}
			}
		}
	})
}
