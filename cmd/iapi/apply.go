package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.yaml.in/yaml/v3"
)

type applyCmd struct {
	clientFlags
	File   string `short:"f" required:"" help:"The file; - for standard input." placeholder:"FILE"`
	DryRun bool   `help:"Only show the difference, and what the API would refuse."`
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
What the file does not name is left alone. A ttl counts from when an instrumentation is created or changed. Applies of the
same caller at the same time make one of each name.

  iapi apply -f instrumentations.yaml --dry-run
  iapi apply -f instrumentations.yaml
  iapi apply -f - --yes < instrumentations.yaml`
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
	Result string   `json:"result,omitempty"` // as the summary counts it; empty: only planned
	Error  string   `json:"error,omitempty"`  // why it was not done

	wish           wish
	create, update map[string]any
}

func (c applyCmd) Run(ctx context.Context, s streams) error {
	wishes, err := c.read(s.in)
	if err != nil {
		return err
	}
	cl := c.client()
	cl.notes = s.err
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
	if c.DryRun {
		return c.rehearse(ctx, s, cl, steps)
	}
	if err := c.confirm(s, steps); err != nil {
		return err
	}
	return c.perform(ctx, s, cl, steps)
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
		return nil, usageError("--file: %w", err)
	}
	return parseManifest(raw)
}

// unknownField is how the decoder tells that there is no such field, with the name of a Go type.
var unknownField = regexp.MustCompile(`field (\S+) not found in type \S+`)

// parseManifest reads a manifest strictly: unknown keys, doubles and missing names are mistakes, each named.
func parseManifest(raw []byte) ([]wish, error) {
	var m manifest
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&m); err != nil {
		return nil, usageError("the file: %s", unknownField.ReplaceAllString(err.Error(), "there is no field $1"))
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
		case w.Owner != "" && uuid.Validate(w.Owner) != nil:
			return nil, usageError("instrumentations[%d] (%s): owner: %q is not a uuid", i, w.Name, w.Owner)
		default:
			seen[key] = true
		}
		if err := w.jsonable(); err != nil {
			return nil, usageError("instrumentations[%d] (%s): %w", i, w.Name, err)
		}
	}
	return m.Instrumentations, nil
}

// jsonable refuses what JSON, in which it is sent, cannot say.
func (w *wish) jsonable() error {
	if _, err := json.Marshal(w.Scope); err != nil {
		return fmt.Errorf("scope: %w", err)
	}
	if w.Where.IsZero() {
		return nil
	}
	var where any
	if err := w.Where.Decode(&where); err != nil {
		return fmt.Errorf("where: %w", err)
	}
	if err := finite(&w.Where); err != nil {
		return fmt.Errorf("where: %w", err)
	}
	if _, err := json.Marshal(where); err != nil {
		return fmt.Errorf("where: %w", err)
	}
	return nil
}

// notFinite are the ways to write what is no number: YAML's own and everybody else's, which YAML takes for a text.
var notFinite = regexp.MustCompile(`(?i)^[-+]?\.?(nan|inf|infinity)$`)

// finite refuses what looks like a number and is none, as the JSON form does. A text stands in quotes.
func finite(n *yaml.Node) error {
	if n.Kind == yaml.AliasNode {
		return finite(n.Alias)
	}
	if n.Kind == yaml.ScalarNode && notFinite.MatchString(n.Value) && (n.Style == 0 || n.ShortTag() == "!!float") {
		return fmt.Errorf("line %d: %s is no number to compare with; a text stands in quotes", n.Line, n.Value)
	}
	for _, child := range n.Content {
		if err := finite(child); err != nil {
			return err
		}
	}
	return nil
}

// plan compares each wish with what stands.
func plan(ctx context.Context, cl *client, wishes []wish) ([]step, error) {
	names := make(map[string][]string) // of each owner
	for _, w := range wishes {
		names[w.Owner] = append(names[w.Owner], w.Name)
	}
	owners := make(map[string]map[string][]instrumentationView)
	steps := make([]step, 0, len(wishes))
	for _, w := range wishes {
		create, err := w.createInput()
		if err != nil {
			return nil, err
		}
		if owners[w.Owner] == nil {
			if owners[w.Owner], err = standingOf(ctx, cl, w.Owner, names[w.Owner]); err != nil {
				return nil, err
			}
		}
		st := step{Name: w.Name, Owner: w.Owner, Action: "create", wish: w, create: create}
		switch found := owners[w.Owner][w.Name]; len(found) {
		case 0:
			st.Diff = w.lines()
		case 1:
			st.ID = found[0].ID
			st.compare(w, found[0])
		default:
			return nil, &exitError{code: exitFailed, err: fmt.Errorf("there are two instrumentations named %q (%s and %s); rename or delete one",
				w.Name, found[0].ID, found[1].ID)}
		}
		steps = append(steps, st)
	}
	return steps, nil
}

// lines are what a wish says, one line for each field.
func (w wish) lines() []string {
	lines := []string{"+ metric: " + w.Metric}
	add := func(field, value string) {
		if value != "" {
			lines = append(lines, "+ "+field+": "+value)
		}
	}
	if !w.Where.IsZero() {
		add("where", w.where())
	}
	add("by", strings.Join(w.By, ", "))
	add("scope", canonicalJSON(w.Scope))
	add("granularity", w.Granularity)
	if len(w.Tags) > 0 {
		add("tags", canonicalJSON(w.Tags))
	}
	add("targets", strings.Join(w.Targets, " "))
	add("ttl", w.TTL)
	return lines
}

// where is the predicate, as canonical JSON.
func (w wish) where() string {
	var value any
	if w.Where.IsZero() || w.Where.Decode(&value) != nil {
		return "{}"
	}
	return canonicalJSON(value)
}

// createInput makes a CreateInstrumentationInput.
func (w wish) createInput() (map[string]any, error) {
	c := createCmd{
		Metric: w.Metric, measureFlags: measureFlags{By: w.By, Name: w.Name}, sendFlags: sendFlags{Target: w.Targets},
		scopeFlags: scopeFlags{Owner: uuidText(w.Owner), placeFlags: placeFlags{Scope: canonicalJSON(w.Scope)}},
	}
	var err error
	if c.Granularity, err = w.time("granularity", cmp.Or(w.Granularity, "1s")); err != nil {
		return nil, err
	}
	if w.TTL != "" {
		if c.TTL, err = w.time("ttl", w.TTL); err != nil {
			return nil, err
		}
	}
	if !w.Where.IsZero() {
		c.Where = w.where()
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

func (w wish) time(field, text string) (seconds, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, usageError("%s: %s: %q is not a time: want a number and a unit, for example 10s, 5m or 24h", w.Name, field, text)
	}
	if err := wholeSeconds(d); err != nil {
		return 0, usageError("%s: %s: %w", w.Name, field, err)
	}
	return seconds(d), nil
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
	differ(&replace, "metric", i.Metric.Name, w.Metric)
	differ(&replace, "where", predicate, w.where())
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
