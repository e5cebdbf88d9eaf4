package main

import (
	"context"
	"fmt"
	"io"
)

// sendFlags say where the data goes.
type sendFlags struct {
	Target []string `sep:"none" help:"Where the data goes: dataapi+http://…, dataapi+ws://…, dataapi+udp://…, statsd://host:port/prefix, graphite://host:port/prefix, otlp+http://…, otlp+grpc://…. Again: there too. ${target}" placeholder:"URL"`
	Header []string `sep:"none" help:"Header to send along to these targets; no answer ever shows its value. @FILE reads the value from a file. Again: others too." placeholder:"NAME=VALUE"`
}

// measureFlags say what to filter by, how to break it down, how finely and for how long. "iapi create" and "iapi clone" take
// them; what is not given is the API's default, or what is cloned.
type measureFlags struct {
	By             []string `help:"Break down by this field. Again: by both." placeholder:"FIELD"`
	Where          string   `help:"Only what this predicate lets through, for example '{\"eq\":[\"execname\",\"mysqld\"]}'; @FILE reads it from a file." placeholder:"JSON"`
	Tag            []string `sep:"none" help:"Label it. Again: also so." placeholder:"KEY=VALUE"`
	Granularity    seconds  `help:"One value for each interval of this length, a time of whole seconds. ${granularity}" placeholder:"TIME"`
	TTL            seconds  `name:"ttl" help:"How long it lives, for example 1h. ${ttl}" placeholder:"TIME"`
	Name           string   `help:"Its name."`
	IdempotencyKey string   `help:"For 24 hours the same key gives the same instrumentation." placeholder:"KEY"`
}

// fill puts what is given into a CreateInstrumentationInput or a CloneInstrumentationInput.
func (f measureFlags) fill(input map[string]any, send sendFlags) error {
	if f.Granularity != 0 {
		input["granularitySeconds"] = f.Granularity.count()
	}
	if f.TTL != 0 {
		input["ttlSeconds"] = f.TTL.count()
	}
	if len(f.By) > 0 {
		input["decompositions"] = f.By
	}
	if f.Where != "" {
		p, err := predicateInput(f.Where)
		if err != nil {
			return err
		}
		if p != nil {
			input["predicate"] = p
		}
	}
	targets, err := targetInputs(send.Target, send.Header)
	if err != nil {
		return err
	}
	if targets != nil {
		input["targets"] = targets
	}
	tags, err := tagInputs("tag", f.Tag)
	if err != nil {
		return err
	}
	if tags != nil {
		input["tags"] = tags
	}
	for key, value := range map[string]string{"name": f.Name, "idempotencyKey": f.IdempotencyKey} {
		if value != "" {
			input[key] = value
		}
	}
	return nil
}

type createCmd struct {
	clientFlags
	scopeFlags
	measureFlags `kong:"set='granularity=Without: 1s.',set='ttl=Without: as the metric says; what does not trace lives until it is deleted.'"`
	sendFlags    `set:"target=Without: the server's default."`
	Metric       string  `arg:"" help:"What to measure, for example cpu.usage; \"iapi metrics\" lists them."`
	PreviewToken *string `help:"Token of a preview: refused if a place would be measured that the preview did not show." placeholder:"TOKEN"`
}

// Help is what "iapi create --help" adds.
func (createCmd) Help() string {
	return `Prints the id. What is measured is in place some moments later; "iapi get ID" tells.

The same flag of a scope again means or (--vm-tag and --host-tag of different keys: and), different flags mean and.

  iapi create cpu.usage --by cpumode --every-host
  iapi create unix.processes --by execname --every-host --where '{"ne":["execname","kthreadd"]}' --granularity 2s
  iapi create cpu.usage --by cpumode --vm-tag role=web --vm-tag env=prod --name web --tag team=core
  iapi create nic.bytes --by nic --all --owner 930896af-bf8c-48d4-885c-6573a94b1853 --ttl 24h
  iapi create memory.rss --every-host --target statsd://127.0.0.1:8125/hosts
  iapi create cpu.usage --scope '{"and":[{"vmTag":{"key":"role"}},{"not":{"vmAlias":"test"}}]}'`
}

// mutated is the payload of a mutation that makes or changes an instrumentation.
type mutated struct {
	Instrumentation instrumentationView `json:"instrumentation"`
}

func (c createCmd) Run(ctx context.Context, s streams) error {
	input, err := c.input()
	if err != nil {
		return err
	}
	return c.mutate(ctx, s, createDocument, input)
}

// mutate runs a mutation of one instrumentation, and prints its id, or it.
func (f clientFlags) mutate(ctx context.Context, s streams, document string, input map[string]any) error {
	var made mutated
	if err := f.client().one(ctx, document, map[string]any{"input": input}, &made); err != nil {
		return err
	}
	return f.print(s.out, made.Instrumentation, func(w io.Writer) { fmt.Fprintln(w, made.Instrumentation.ID) })
}

// input makes a CreateInstrumentationInput.
func (c createCmd) input() (map[string]any, error) {
	scope, err := c.scopeFlags.input()
	if err != nil {
		return nil, err
	}
	input := map[string]any{"metric": c.Metric, "scope": scope}
	if c.Owner != "" {
		input["owner"] = c.Owner
	}
	if c.PreviewToken != nil { // an empty one is none that was given
		input["previewToken"] = *c.PreviewToken
	}
	return input, c.fill(input, c.sendFlags)
}
