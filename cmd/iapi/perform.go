package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// standingOf lists what an owner has under some names. No owner means what it means for a create: the operators' own, and
// for callers who are bound to an account, who may not see those, that account.
func standingOf(ctx context.Context, cl *client, owner string, names []string) (map[string][]instrumentationView, error) {
	filter := map[string]any{"owner": nil}
	if owner != "" {
		filter["owner"] = owner
	}
	if len(names) == 1 {
		filter["text"] = names[0]
	}
	list := func() ([]instrumentationView, error) {
		all, _, err := pages[instrumentationView](ctx, cl, listDocument, map[string]any{"filter": filter}, 0)
		return all, err
	}
	all, err := list()
	if refused := (*apiError)(nil); owner == "" && errors.As(err, &refused) && refused.code == "FORBIDDEN" {
		delete(filter, "owner")
		all, err = list()
	}
	if err != nil {
		return nil, err
	}
	found := make(map[string][]instrumentationView)
	for _, i := range all {
		name := i.name()
		same := func(other instrumentationView) bool { return other.ID == i.ID } // it moved from page to page
		if i.live() && slices.Contains(names, name) && !slices.ContainsFunc(found[name], same) {
			found[name] = append(found[name], i)
		}
	}
	return found, nil
}

func (i instrumentationView) live() bool { return i.State != "DELETING" && i.State != "EXPIRED" }

// perform does every step, also after one that is refused, and says what came of each.
func (c applyCmd) perform(ctx context.Context, s streams, cl *client, steps []step) error {
	done := map[string]string{"create": "created", "update": "updated", "replace": "replaced", "none": "unchanged"}
	count := make(map[string]int)
	code := 0
	for i := range steps {
		st := &steps[i]
		switch {
		case code == exitUnreachable || ctx.Err() != nil:
			st.Result, code = "not tried", max(code, exitFailed)
		default:
			st.Result = done[st.Action]
			if err := st.do(ctx, cl); err != nil {
				st.Result, st.Error, code = "refused", err.Error(), exitFailed
				if ctx.Err() != nil || exitCode(err) == exitUnreachable { // so will the others
					st.Result, code = "failed", exitCode(err)
				}
			}
		}
		count[st.Result]++
		switch {
		case st.Error != "":
			fmt.Fprintf(s.err, "iapi: %s %s: %s\n", st.Action, st.Name, st.Error)
		case c.Output == "table" && st.Action != "none":
			fmt.Fprintln(s.out, st.Result, st.Name)
		}
	}
	var parts []string
	for _, result := range []string{"created", "updated", "replaced", "unchanged", "refused", "failed", "not tried"} {
		if count[result] > 0 {
			parts = append(parts, strconv.Itoa(count[result])+" "+result)
		}
	}
	summary := strings.Join(parts, ", ")
	if code != 0 {
		if c.Output != "table" {
			if err := c.print(s.out, steps, nil); err != nil {
				return err
			}
		}
		return &exitError{code: code, err: errors.New(summary)}
	}
	return c.print(s.out, steps, func(w io.Writer) { fmt.Fprintln(w, summary) })
}

func (st *step) do(ctx context.Context, cl *client) error {
	switch st.Action {
	case "update":
		return cl.one(ctx, updateDocument, map[string]any{"input": st.update}, nil)
	case "create", "replace":
		made, err := st.make(ctx, cl)
		if err != nil {
			return err
		}
		old := st.ID
		st.ID = made
		if old == "" || old == made {
			return nil
		}
		// The old one goes only when the new one stands, so that a refusal loses nothing.
		err = cl.one(ctx, deleteDocument, map[string]any{"input": map[string]any{"id": old}}, nil)
		if refused := (*refusedError)(nil); errors.As(err, &refused) && refused.has("NOT_FOUND", "id") {
			return nil // an apply at the same time deleted it
		}
		return err
	}
	return nil
}

// make creates the instrumentation with a key that every apply of the same has, so that those at the same time make one.
// Where what the key made is gone since, or is not it any more, a fresh key makes it again.
func (st *step) make(ctx context.Context, cl *client) (string, error) {
	var made mutated
	create := func(key string) error {
		st.create["idempotencyKey"] = key
		return cl.one(ctx, createDocument, map[string]any{"input": st.create}, &made)
	}
	err := create(st.key())
	var refused *refusedError
	gone := errors.As(err, &refused) && refused.has("NOT_FOUND", "idempotencyKey")
	other := err == nil && (!made.Instrumentation.live() || made.Instrumentation.name() != st.Name)
	if gone || other {
		err = create("apply-" + uuid.NewString())
	}
	return made.Instrumentation.ID, err
}

func (st *step) key() string {
	delete(st.create, "idempotencyKey")
	sum := sha256.Sum256([]byte(canonicalJSON([]any{st.Owner, st.Name, st.create, st.ID, st.revision})))
	return "apply-" + hex.EncodeToString(sum[:])
}
