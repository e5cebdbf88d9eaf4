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

// make creates the instrumentation with a key that stands for its owner, its name and what it replaces, so that applies of
// one caller at the same time make one. Where what a key made is gone, or is not it any more, all of them go on to the same
// next key, which again makes one. Applies of different callers, for whom the API remembers keys apart, and creates that
// are none of apply's, can still make another of the name: the API has no rule against it, and the next plan names both.
func (st *step) make(ctx context.Context, cl *client) (string, error) {
	const most = 1000 // times that what a key made is gone, within the 24 hours that the API remembers it
	for n := range most {
		var made mutated
		st.create["idempotencyKey"] = st.key(n)
		err := cl.one(ctx, createDocument, map[string]any{"input": st.create}, &made)
		var refused *refusedError
		switch {
		case err == nil && made.Instrumentation.live() && made.Instrumentation.name() == st.Name:
			return made.Instrumentation.ID, nil
		case err == nil: // it was deleted, has expired or has another name
		case !errors.As(err, &refused):
			return "", err
		case refused.has("NOT_FOUND", "idempotencyKey"): // it was deleted
		case refused.has("IDEMPOTENCY_CONFLICT", "idempotencyKey"): // it was something else
			if other, err := st.made(ctx, cl); other != "" || err != nil {
				return other, err
			}
		default:
			return "", err
		}
	}
	return "", fmt.Errorf("it was made and deleted %d times within a day", most)
}

// made finds what another apply has made of the name since the plan, "" for nothing. What is something else is an error.
func (st *step) made(ctx context.Context, cl *client) (string, error) {
	standing, err := standingOf(ctx, cl, st.Owner, []string{st.Name})
	if err != nil {
		return "", err
	}
	for _, other := range standing[st.Name] {
		if other.ID == st.ID {
			continue
		}
		against := step{create: st.create}
		if against.compare(st.wish, other); against.Action != "none" {
			return "", fmt.Errorf("another apply has made %s of this name meanwhile, which is something else; apply again to see the difference", other.ID)
		}
		return other.ID, nil
	}
	return "", nil
}

// key is the nth that a create of the step may have.
func (st *step) key(n int) string {
	sum := sha256.Sum256([]byte(canonicalJSON([]any{st.Owner, st.Name, st.ID, n})))
	return "apply-" + hex.EncodeToString(sum[:])
}

// rehearse has the API check every step, and changes nothing.
func (c applyCmd) rehearse(ctx context.Context, s streams, cl *client, steps []step) error {
	count := make(map[string]int)
	refused := 0
	for i := range steps {
		st := &steps[i]
		count[st.Action]++
		err := st.check(ctx, cl)
		var why *refusedError
		switch {
		case err == nil:
		case errors.As(err, &why):
			refused++
			st.Error = err.Error()
			fmt.Fprintf(s.err, "iapi: %s %s: %s\n", st.Action, st.Name, st.Error)
		default:
			return err
		}
	}
	err := c.print(s.out, steps, func(w io.Writer) {
		fmt.Fprintf(w, "%d to create, %d to update, %d to replace, %d as they should be: nothing was changed\n",
			count["create"], count["update"], count["replace"], count["none"])
	})
	if err == nil && refused > 0 {
		err = &exitError{code: exitFailed, err: fmt.Errorf("%d would be refused", refused)}
	}
	return err
}

// check asks the API for the mistakes in a step.
func (st *step) check(ctx context.Context, cl *client) error {
	document, input := checkCreateDocument, st.create
	switch st.Action {
	case "none":
		return nil
	case "update":
		document, input = checkUpdateDocument, st.update
	}
	var mistakes []userError
	if err := cl.one(ctx, document, map[string]any{"input": input}, &mistakes); err != nil {
		return err
	}
	return refusal(mistakes)
}
