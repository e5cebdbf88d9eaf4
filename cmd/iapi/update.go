package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

type updateCmd struct {
	clientFlags
	placeFlags
	sendFlags   `set:"target=They take the place of those that it has."`
	ID          string   `arg:"" help:"The instrumentation's id."`
	Name        string   `help:"A new name." xor:"name"`
	NoName      bool     `help:"Take its name away." xor:"name"`
	Tag         []string `sep:"none" help:"Label it so, beside the tags that it has; the same key: instead. Again: also so." placeholder:"KEY=VALUE"`
	Untag       []string `sep:"none" help:"Take this tag away. Again: others too." placeholder:"KEY"`
	Granularity seconds  `help:"A new length of an interval, a time of whole seconds." placeholder:"TIME"`
	TTL         seconds  `name:"ttl" help:"How long it lives from now on, for example 1h." placeholder:"TIME" xor:"ttl"`
	NoTTL       bool     `name:"no-ttl" help:"Let it live until it is deleted; not for what traces." xor:"ttl"`
	Revision    count    `help:"Refuse if another revision stands by now." placeholder:"NUMBER"`
}

// Help is what "iapi update --help" adds.
func (updateCmd) Help() string {
	return `What is not given stays. The flags of a scope say the whole new scope. Metric, predicate and breakdown cannot change:
clone it, or use "iapi apply".

  iapi update i-06h07ecrugrq8e2nechg --ttl 2h
  iapi update i-06h07ecrugrq8e2nechg --name web --tag team=core --untag draft
  iapi update i-06h07ecrugrq8e2nechg --vm-tag role=web --vm-tag role=db
  iapi update i-06h07ecrugrq8e2nechg --target statsd://127.0.0.1:8125/web --revision 3`
}

func (c updateCmd) Run(ctx context.Context, s streams) error {
	input, err := c.input(ctx)
	if err != nil {
		return err
	}
	return c.mutate(ctx, s, updateDocument, input)
}

// input makes an UpdateInstrumentationInput. Tags are replaced as a whole by the API, so the present ones are read first,
// and the revision that they were read with must still stand.
func (c updateCmd) input(ctx context.Context) (map[string]any, error) {
	input := map[string]any{}
	scope, err := c.placeFlags.input()
	if err != nil {
		return nil, err
	}
	if scope != nil {
		input["scope"] = scope
	}
	targets, err := targetInputs(c.Target, c.Header)
	if err != nil {
		return nil, err
	}
	if targets != nil {
		input["targets"] = targets
	}
	switch {
	case c.Name != "":
		input["name"] = c.Name
	case c.NoName:
		input["name"] = nil
	}
	if c.Granularity != 0 {
		input["granularitySeconds"] = c.Granularity.count()
	}
	switch {
	case c.TTL != 0:
		input["ttlSeconds"] = c.TTL.count()
	case c.NoTTL:
		input["ttlSeconds"] = nil
	}
	if c.Revision != 0 {
		input["expectedRevision"] = c.Revision
	}
	if len(c.Tag)+len(c.Untag) > 0 {
		if err := c.tags(ctx, input); err != nil {
			return nil, err
		}
	}
	if len(input) == 0 || (len(input) == 1 && c.Revision != 0) {
		return nil, usageError("say what to change: --name, --tag, --untag, --granularity, --ttl, --target or a scope")
	}
	input["id"] = c.ID
	return input, nil
}

func (c updateCmd) tags(ctx context.Context, input map[string]any) error {
	given, err := tagInputs("tag", c.Tag)
	if err != nil {
		return err
	}
	present, err := c.client().get(ctx, c.ID)
	if err != nil {
		return err
	}
	tags := make(map[string]string)
	for _, t := range present.Tags {
		tags[t.Key] = t.Value
	}
	for _, key := range c.Untag {
		if _, has := tags[key]; !has {
			return usageError("--untag %s: it has no such tag", key)
		}
		delete(tags, key)
	}
	for _, t := range given {
		tags[t["key"]] = t["value"]
	}
	all := []map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		all = append(all, map[string]string{"key": key, "value": tags[key]})
	}
	input["tags"] = all
	if c.Revision == 0 {
		input["expectedRevision"] = present.Revision
	}
	return nil
}

type cloneCmd struct {
	clientFlags
	placeFlags
	measureFlags `kong:"set='granularity=',set='ttl=Without: as long as the one that is cloned had.'"`
	sendFlags    `set:"target=They take the place of those that are cloned."`
	ID           string `arg:"" help:"The id of the instrumentation to clone; it may have expired."`
}

// Help is what "iapi clone --help" adds.
func (cloneCmd) Help() string {
	return `What is not given is taken over. The owner is the same.

  iapi clone i-06h07ecrugrq8e2nechg
  iapi clone i-06h07ecrugrq8e2nechg --by cpumode --name by-mode
  iapi clone i-06h07ecrugrq8e2nechg --where '{"eq":["cpumode","user"]}' --ttl 1h`
}

func (c cloneCmd) Run(ctx context.Context, s streams) error {
	scope, err := c.placeFlags.input()
	if err != nil {
		return err
	}
	input := map[string]any{"id": c.ID}
	if scope != nil {
		input["scope"] = scope
	}
	if err := c.fill(input, c.sendFlags); err != nil {
		return err
	}
	return c.mutate(ctx, s, cloneDocument, input)
}

// each does something to each of several instrumentations, and prints their ids, or all that was answered. One that fails
// does not keep the others from being done; what failed is told in the end, with the exit code of the first.
func (f clientFlags) each(s streams, ids []string, do func(id string) (any, error)) error {
	var failed []string
	code := 0
	var answers []any
	for _, id := range ids {
		answer, err := do(id)
		switch {
		case err == nil:
			answers = append(answers, answer)
			if f.Output == "table" {
				fmt.Fprintln(s.out, id)
			}
			continue
		case len(ids) == 1:
			return err
		case code == 0:
			code = exitCode(err)
		}
		failed = append(failed, id+": "+err.Error())
		if exitCode(err) == exitUnreachable {
			break // so will be the others
		}
	}
	var err error
	switch {
	case f.Output == "table":
	case len(ids) == 1:
		err = f.print(s.out, answers[0], nil)
	default:
		err = f.print(s.out, append([]any{}, answers...), nil)
	}
	if err == nil && code != 0 {
		err = &exitError{code: code, err: errors.New(strings.Join(failed, "\n      "))}
	}
	return err
}

// mutateEach runs a mutation that takes an id and answers with an instrumentation.
func (f clientFlags) mutateEach(ctx context.Context, s streams, document string, ids []string) error {
	cl := f.client()
	return f.each(s, ids, func(id string) (any, error) {
		var made mutated
		err := cl.one(ctx, document, map[string]any{"input": map[string]any{"id": id}}, &made)
		return made.Instrumentation, err
	})
}

type pauseCmd struct {
	clientFlags
	ID []string `arg:"" help:"Ids of instrumentations."`
}

// Help is what "iapi pause --help" adds.
func (pauseCmd) Help() string {
	return `Its time to live goes on. It still counts for the owner's limits.

  iapi pause i-06h07ecrugrq8e2nechg`
}

func (c pauseCmd) Run(ctx context.Context, s streams) error {
	return c.mutateEach(ctx, s, pauseDocument, c.ID)
}

type resumeCmd struct {
	clientFlags
	ID []string `arg:"" help:"Ids of instrumentations."`
}

// Help is what "iapi resume --help" adds.
func (resumeCmd) Help() string { return `  iapi resume i-06h07ecrugrq8e2nechg` }

func (c resumeCmd) Run(ctx context.Context, s streams) error {
	return c.mutateEach(ctx, s, resumeDocument, c.ID)
}
