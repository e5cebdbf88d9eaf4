package cloud

import (
	"context"
	"fmt"

	"github.com/google/uuid"
)

// Instrumentation is what tests look at of one.
type Instrumentation struct {
	ID       string
	Revision int
	State    string
	Coverage Coverage
}

// Coverage counts sources.
type Coverage struct{ Expected, Running, Pending, Failed, Offline int }

// fields are those of an Instrumentation.
const fields = `{ id revision state coverage { expected running pending failed offline } }`

type userErrors []struct{ Message string }

func (e userErrors) err() error {
	if len(e) == 0 {
		return nil
	}
	return fmt.Errorf("refused: %s", e[0].Message)
}

type payload struct {
	Instrumentation Instrumentation
	UserErrors      userErrors
}

// Operators is the owner of what belongs to nobody else.
var Operators = uuid.Nil

// Scopes, as variables.
func EveryHost() map[string]any             { return map[string]any{"everyHost": true} }
func OnHosts(h ...uuid.UUID) map[string]any { return map[string]any{"hosts": h} }
func Tagged(key, value string) map[string]any {
	return map[string]any{"vmTag": map[string]any{"key": key, "in": []string{value}}}
}

// Create creates an instrumentation.
func (a *API) Create(ctx context.Context, owner uuid.UUID, scope map[string]any) (Instrumentation, error) {
	input := map[string]any{"metric": "cpu.usage", "decompositions": []string{"cpumode"}, "scope": scope}
	if owner != uuid.Nil {
		input["owner"] = owner
	}
	var data struct{ R payload }
	err := a.Do(ctx, `mutation($input: CreateInstrumentationInput!) { r: createInstrumentation(input: $input) {
		instrumentation `+fields+` userErrors { message } } }`, map[string]any{"input": input}, &data)
	if err == nil {
		err = data.R.UserErrors.err()
	}
	if err != nil {
		return Instrumentation{}, fmt.Errorf("create an instrumentation: %w", err)
	}
	return data.R.Instrumentation, nil
}

// Update changes the granularity, in seconds, which gives the instrumentation its next revision.
func (a *API) Update(ctx context.Context, id string, granularity int) (Instrumentation, error) {
	var data struct{ R payload }
	err := a.Do(ctx, `mutation($input: UpdateInstrumentationInput!) { r: updateInstrumentation(input: $input) {
		instrumentation `+fields+` userErrors { message } } }`,
		map[string]any{"input": map[string]any{"id": id, "granularitySeconds": granularity}}, &data)
	if err == nil {
		err = data.R.UserErrors.err()
	}
	if err != nil {
		return Instrumentation{}, fmt.Errorf("update an instrumentation: %w", err)
	}
	return data.R.Instrumentation, nil
}

// Delete deletes an instrumentation.
func (a *API) Delete(ctx context.Context, id string) error {
	var data struct {
		R struct{ UserErrors userErrors }
	}
	err := a.Do(ctx, `mutation($id: ID!) { r: deleteInstrumentation(input: {id: $id}) { userErrors { message } } }`,
		map[string]any{"id": id}, &data)
	if err == nil {
		err = data.R.UserErrors.err()
	}
	if err != nil {
		return fmt.Errorf("delete an instrumentation: %w", err)
	}
	return nil
}

// Get reads an instrumentation; nil where there is none.
func (a *API) Get(ctx context.Context, id string) (*Instrumentation, error) {
	var data struct{ Instrumentation *Instrumentation }
	if err := a.Do(ctx, `query($id: ID!) { instrumentation(id: $id) `+fields+` }`, map[string]any{"id": id}, &data); err != nil {
		return nil, fmt.Errorf("read an instrumentation: %w", err)
	}
	return data.Instrumentation, nil
}

// Notify hints that a VM has changed, as a workflow does.
func (a *API) Notify(ctx context.Context, vm uuid.UUID) error {
	err := a.Do(ctx, `mutation($vm: UUID!) { notifyVmChanged(input: {vm: $vm, kind: TAGS_UPDATED}) { accepted } }`, map[string]any{"vm": vm}, nil)
	if err != nil {
		return fmt.Errorf("notify that a VM has changed: %w", err)
	}
	return nil
}

// Revoke revokes the credential of a host's agent.
func (a *API) Revoke(ctx context.Context, host uuid.UUID) error {
	err := a.Do(ctx, `mutation($host: UUID!) { revokeAgent(host: $host) { accepted } }`, map[string]any{"host": host}, nil)
	if err != nil {
		return fmt.Errorf("revoke an agent: %w", err)
	}
	return nil
}

// Offline is how many hosts have an agent that is offline, or none.
func (a *API) Offline(ctx context.Context) (int, error) {
	var data struct{ Hosts struct{ TotalCount int } }
	if err := a.Do(ctx, `{ hosts(first: 1, online: false) { totalCount } }`, nil, &data); err != nil {
		return 0, fmt.Errorf("count the hosts that are offline: %w", err)
	}
	return data.Hosts.TotalCount, nil
}
