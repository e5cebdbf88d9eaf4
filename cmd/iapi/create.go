package main

import (
	"context"
	"fmt"
	"io"
	"time"
)

type createCmd struct {
	clientFlags
	scopeFlags
	Metric         string        `arg:"" help:"What to measure, for example cpu.usage; \"iapi metrics\" lists them."`
	By             []string      `help:"Break down by this field. Again: by both." placeholder:"FIELD"`
	Where          string        `help:"Only what this predicate lets through, for example '{\"eq\":[\"execname\",\"mysqld\"]}'." placeholder:"JSON"`
	Target         []string      `sep:"none" help:"Where the data goes: dataapi+http://…, dataapi+ws://…, dataapi+udp://…, statsd://host:port/prefix, graphite://host:port/prefix, otlp+http://…, otlp+grpc://…. Without: the server's default." placeholder:"URL"`
	Tag            []string      `sep:"none" help:"Label it." placeholder:"KEY=VALUE"`
	Granularity    time.Duration `default:"1s" help:"One value for each interval of this length, in whole seconds."`
	TTL            time.Duration `name:"ttl" help:"How long it lives, for example 1h. Without: as the metric says."`
	Name           string        `help:"Its name."`
	PreviewToken   string        `help:"Token of a preview: refused if a place would be measured that the preview did not show." placeholder:"TOKEN"`
	IdempotencyKey string        `help:"For 24 hours the same key gives the same instrumentation." placeholder:"KEY"`
}

func (c createCmd) Run(ctx context.Context, s streams) error {
	input, err := c.input()
	if err != nil {
		return err
	}
	var data struct {
		Result struct {
			Instrumentation *instrumentationView `json:"instrumentation"`
			UserErrors      []userError          `json:"userErrors"`
		} `json:"createInstrumentation"`
	}
	if err := c.client().do(ctx, createDocument, map[string]any{"input": input}, &data); err != nil {
		return err
	}
	if err := refusal(data.Result.UserErrors); err != nil {
		return err
	}
	return c.print(s.out, data.Result.Instrumentation, func(w io.Writer) { fmt.Fprintln(w, data.Result.Instrumentation.ID) })
}

// wholeSeconds refuses what the API cannot express.
func wholeSeconds(flag string, d time.Duration) (int, error) {
	if d <= 0 || d%time.Second != 0 {
		return 0, usageError("--%s %s: want a positive number of whole seconds, for example 1s or 5m", flag, d)
	}
	return int(d / time.Second), nil
}

func (c createCmd) input() (map[string]any, error) {
	scope, err := c.scopeFlags.input()
	if err != nil {
		return nil, err
	}
	granularity, err := wholeSeconds("granularity", c.Granularity)
	if err != nil {
		return nil, err
	}
	input := map[string]any{"metric": c.Metric, "scope": scope, "granularitySeconds": granularity}
	if c.TTL != 0 {
		if input["ttlSeconds"], err = wholeSeconds("ttl", c.TTL); err != nil {
			return nil, err
		}
	}
	if len(c.By) > 0 {
		input["decompositions"] = c.By
	}
	if c.Where != "" {
		p, err := predicateInput(c.Where)
		if err != nil {
			return nil, err
		}
		if p != nil {
			input["predicate"] = p
		}
	}
	var targets []map[string]any
	for _, text := range c.Target {
		t, err := targetInput(text)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	if targets != nil {
		input["targets"] = targets
	}
	tags, err := tagInputs("tag", c.Tag)
	if err != nil {
		return nil, err
	}
	if tags != nil {
		input["tags"] = tags
	}
	for key, value := range map[string]string{
		"owner": c.Owner, "name": c.Name, "previewToken": c.PreviewToken, "idempotencyKey": c.IdempotencyKey,
	} {
		if value != "" {
			input[key] = value
		}
	}
	return input, nil
}
