package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

type applyCmd struct {
	clientFlags
	File   string `short:"f" required:"" help:"The file; - for standard input." placeholder:"FILE"`
	DryRun bool   `help:"Only show the difference."`
	Yes    bool   `short:"y" help:"Do not ask before instrumentations are replaced."`
}

// Help is what "iapi apply --help" adds.
func (applyCmd) Help() string {
	return `The file lists instrumentations by owner and name, which together say which one is meant:

  instrumentations:
    - name: web-cpu
      owner: 930896af-bf8c-48d4-885c-6573a94b1853   # without: the operators' own
      metric: cpu.usage
      by: [cpumode]
      where: {"eq": ["cpumode", "user"]}
      scope: {vmTag: {key: role, in: [web]}}
      targets: [statsd://127.0.0.1:8125/web]
      tags: {team: core}
      granularity: 10s
      ttl: 24h

Applying it again changes nothing. What cannot change in place (metric, where, by) is deleted and created anew, after asking.
What the file does not name is left alone. A ttl counts from when an instrumentation is created or changed.`
}

// manifest is the file.
type manifest struct {
	Instrumentations []wish `yaml:"instrumentations"`
}

type wish struct {
	Name        string            `yaml:"name"`
	Owner       string            `yaml:"owner"`
	Metric      string            `yaml:"metric"`
	By          []string          `yaml:"by"`
	Where       yaml.Node         `yaml:"where"`
	Scope       map[string]any    `yaml:"scope"`
	Targets     []string          `yaml:"targets"`
	Tags        map[string]string `yaml:"tags"`
	Granularity string            `yaml:"granularity"`
	TTL         string            `yaml:"ttl"`
}

// step is what apply does about one wish.
type step struct {
	Name   string   `json:"name"`
	Owner  string   `json:"owner,omitempty"`
	Action string   `json:"action"` // create, update, replace or none
	ID     string   `json:"id,omitempty"`
	Diff   []string `json:"diff,omitempty"`

	create, update map[string]any
}

func (c applyCmd) Run(ctx context.Context, s streams) error {
	wishes, err := c.read(s.in)
	if err != nil {
		return err
	}
	cl := c.client()
	steps, err := plan(ctx, cl, wishes)
	if err != nil {
		return err
	}
	if c.Output == "table" {
		for _, st := range steps {
			fmt.Fprintf(s.out, "%s %s\n", map[string]string{"create": "+", "update": "~", "replace": "±", "none": "="}[st.Action], st.Name)
			for _, line := range st.Diff {
				fmt.Fprintln(s.out, "   ", printable(line))
			}
		}
	}
	if !c.DryRun {
		if err := c.confirm(s, steps); err != nil {
			return err
		}
		for i := range steps {
			if err := steps[i].do(ctx, cl); err != nil {
				return fmt.Errorf("%s %s: %w", steps[i].Action, steps[i].Name, err)
			}
		}
	}
	return c.print(s.out, steps, func(w io.Writer) {
		count := make(map[string]int)
		for _, st := range steps {
			count[st.Action]++
		}
		verb := "done"
		if c.DryRun {
			verb = "nothing was changed"
		}
		fmt.Fprintf(w, "%d to create, %d to update, %d to replace, %d as they should be: %s\n",
			count["create"], count["update"], count["replace"], count["none"], verb)
	})
}

func (c applyCmd) confirm(s streams, steps []step) error {
	replaced := slices.ContainsFunc(steps, func(st step) bool { return st.Action == "replace" })
	if !replaced || c.Yes {
		return nil
	}
	if c.File == "-" {
		return usageError("some instrumentations must be replaced; give --yes to agree")
	}
	fmt.Fprint(s.err, "Delete and create anew what is marked ±? [y/N] ")
	var answer string
	if _, err := fmt.Fscanln(s.in, &answer); err != nil || !strings.EqualFold(answer, "y") {
		return &exitError{code: exitFailed, err: errors.New("nothing was changed")}
	}
	return nil
}

func (c applyCmd) read(in io.Reader) ([]wish, error) {
	var raw []byte
	var err error
	if c.File == "-" {
		raw, err = io.ReadAll(io.LimitReader(in, 4<<20))
	} else {
		raw, err = os.ReadFile(c.File)
	}
	if err != nil {
		return nil, fmt.Errorf("read the file: %w", err)
	}
	return parseManifest(raw)
}

// parseManifest reads a manifest strictly: unknown keys, doubles and missing names are mistakes, each named.
func parseManifest(raw []byte) ([]wish, error) {
	var m manifest
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&m); err != nil {
		return nil, usageError("the file: %w", err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, usageError("the file: only one document is read")
	}
	seen := make(map[string]bool)
	for i, w := range m.Instrumentations {
		switch key := w.Owner + "\x00" + w.Name; {
		case w.Name == "":
			return nil, usageError("instrumentations[%d]: name is missing; owner and name say which one is meant", i)
		case seen[key]:
			return nil, usageError("instrumentations[%d]: %q stands twice", i, w.Name)
		case w.Metric == "":
			return nil, usageError("instrumentations[%d] (%s): metric is missing", i, w.Name)
		case len(w.Scope) == 0:
			return nil, usageError("instrumentations[%d] (%s): scope is missing", i, w.Name)
		default:
			seen[key] = true
		}
	}
	return m.Instrumentations, nil
}

// plan compares each wish with what stands.
func plan(ctx context.Context, cl *client, wishes []wish) ([]step, error) {
	standing := make(map[string]map[string]instrumentationView) // by owner and name
	steps := make([]step, 0, len(wishes))
	for _, w := range wishes {
		owned, ok := standing[w.Owner]
		if !ok {
			filter := map[string]any{}
			if w.Owner != "" {
				filter["owner"] = w.Owner
			}
			all, err := listAll(ctx, cl, filter, 0)
			if err != nil {
				return nil, err
			}
			owned = make(map[string]instrumentationView)
			for _, i := range all {
				if i.State == "DELETING" || i.State == "EXPIRED" || i.name() == "" || (w.Owner == "") != (i.Owner == nil) {
					continue
				}
				if _, double := owned[i.name()]; double {
					return nil, &exitError{code: exitFailed, err: fmt.Errorf("there are two instrumentations named %q; rename or delete one", i.name())}
				}
				owned[i.name()] = i
			}
			standing[w.Owner] = owned
		}
		create, err := w.createInput()
		if err != nil {
			return nil, err
		}
		st := step{Name: w.Name, Owner: w.Owner, Action: "create", create: create}
		if i, ok := owned[w.Name]; ok {
			st.ID = i.ID
			st.compare(w, i)
		} else {
			st.Diff = []string{"+ metric: " + w.Metric, "+ scope: " + canonicalJSON(w.Scope)}
		}
		steps = append(steps, st)
	}
	return steps, nil
}

// createInput makes a CreateInstrumentationInput.
func (w wish) createInput() (map[string]any, error) {
	c := createCmd{
		Metric: w.Metric, By: w.By, Target: w.Targets, Name: w.Name, Granularity: time.Second,
		scopeFlags: scopeFlags{Owner: w.Owner, Scope: canonicalJSON(w.Scope)},
	}
	var err error
	if w.Granularity != "" {
		if c.Granularity, err = time.ParseDuration(w.Granularity); err != nil {
			return nil, usageError("%s: granularity: %w", w.Name, err)
		}
	}
	if w.TTL != "" {
		if c.TTL, err = time.ParseDuration(w.TTL); err != nil {
			return nil, usageError("%s: ttl: %w", w.Name, err)
		}
	}
	if !w.Where.IsZero() {
		var where any
		if err := w.Where.Decode(&where); err != nil {
			return nil, usageError("%s: where: %w", w.Name, err)
		}
		c.Where = canonicalJSON(where)
	}
	for _, key := range sortedKeys(w.Tags) {
		c.Tag = append(c.Tag, key+"="+w.Tags[key])
	}
	input, err := c.input()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.Name, err)
	}
	return input, nil
}

// compare decides between none, update and replace, and says what differs.
func (st *step) compare(w wish, i instrumentationView) {
	var replace, update []string
	differ := func(to *[]string, field, was, is string) {
		if was != is {
			*to = append(*to, "- "+field+": "+orDash(was), "+ "+field+": "+orDash(is))
		}
	}
	predicate := "{}"
	if i.Predicate != nil {
		predicate = normalJSON(i.Predicate.JSON)
	}
	where := "{}"
	if !w.Where.IsZero() {
		var value any
		if err := w.Where.Decode(&value); err == nil {
			where = canonicalJSON(value)
		}
	}
	differ(&replace, "metric", i.Metric.Name, w.Metric)
	differ(&replace, "where", predicate, where)
	differ(&replace, "by", i.by(), strings.Join(w.By, ", "))

	st.update = map[string]any{"id": i.ID, "expectedRevision": i.Revision}
	if was, is := normalJSON(i.Scope.JSON), canonicalJSON(w.Scope); was != is {
		differ(&update, "scope", was, is)
		st.update["scope"] = st.create["scope"]
	}
	if granularity, ok := st.create["granularitySeconds"].(int); ok && granularity != i.GranularitySeconds {
		differ(&update, "granularity", strconv.Itoa(i.GranularitySeconds)+"s", strconv.Itoa(granularity)+"s")
		st.update["granularitySeconds"] = granularity
	}
	tags := make(map[string]string)
	for _, t := range i.Tags {
		tags[t.Key] = t.Value
	}
	if (len(tags) > 0 || len(w.Tags) > 0) && !reflect.DeepEqual(tags, w.Tags) {
		differ(&update, "tags", canonicalJSON(tags), canonicalJSON(w.Tags))
		input, ok := st.create["tags"]
		if !ok {
			input = []map[string]string{}
		}
		st.update["tags"] = input
	}
	if len(w.Targets) > 0 {
		was := make([]string, 0, len(i.Targets))
		for _, t := range i.Targets {
			was = append(was, canonicalJSON(t.input()))
		}
		is := []string{}
		inputs, _ := st.create["targets"].([]map[string]any)
		for _, t := range inputs {
			is = append(is, canonicalJSON(t))
		}
		if !slices.Equal(was, is) {
			differ(&update, "targets", strings.Join(was, " "), strings.Join(is, " "))
			st.update["targets"] = inputs
		}
	}
	switch {
	case len(replace) > 0:
		st.Action, st.Diff = "replace", append(replace, update...)
	case len(update) > 0:
		st.Action, st.Diff = "update", update
		if ttl, ok := st.create["ttlSeconds"]; ok {
			st.update["ttlSeconds"] = ttl
		}
	default:
		st.Action = "none"
	}
}

// input is the TargetInput that makes such a target.
func (t targetView) input() map[string]any {
	switch t.Kind {
	case "DataApiTarget":
		return map[string]any{"dataApi": map[string]any{"url": t.URL, "transport": t.Transport}}
	case "StatsdTarget":
		return map[string]any{"statsd": map[string]any{"address": t.Address, "prefix": t.Prefix}}
	case "GraphiteTarget":
		return map[string]any{"graphite": map[string]any{"address": t.Address, "prefix": t.Prefix}}
	default:
		return map[string]any{"otlp": map[string]any{"endpoint": t.Endpoint}}
	}
}

func (st *step) do(ctx context.Context, cl *client) error {
	type result struct {
		Instrumentation *instrumentationView `json:"instrumentation"`
		UserErrors      []userError          `json:"userErrors"`
	}
	switch st.Action {
	case "update":
		var data struct {
			Result result `json:"updateInstrumentation"`
		}
		if err := cl.do(ctx, updateDocument, map[string]any{"input": st.update}, &data); err != nil {
			return err
		}
		return refusal(data.Result.UserErrors)
	case "replace":
		if err := (deleteCmd{clientFlags: cl.flags, ID: []string{st.ID}}).Run(ctx, streams{out: io.Discard}); err != nil {
			return err
		}
		fallthrough
	case "create":
		var data struct {
			Result result `json:"createInstrumentation"`
		}
		if err := cl.do(ctx, createDocument, map[string]any{"input": st.create}, &data); err != nil {
			return err
		}
		if err := refusal(data.Result.UserErrors); err != nil {
			return err
		}
		st.ID = data.Result.Instrumentation.ID
	}
	return nil
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// canonicalJSON has sorted keys and no spaces, so that equal values are equal texts.
func canonicalJSON(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Sprintf("%v", v)
	}
	return strings.TrimSpace(b.String())
}

func normalJSON(raw json.RawMessage) string {
	var v any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return string(raw)
	}
	return canonicalJSON(v)
}
