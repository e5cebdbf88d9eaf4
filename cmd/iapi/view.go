package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// instrumentationView is what the client shows of one; its JSON has the schema's names.
type instrumentationView struct {
	ID        string    `json:"id"`
	Name      *string   `json:"name"`
	Owner     *string   `json:"owner"`
	Metric    metricRef `json:"metric"`
	Predicate *struct {
		JSON json.RawMessage `json:"json"`
		Text string          `json:"text"`
	} `json:"predicate"`
	Decompositions []struct {
		Name string `json:"name"`
	} `json:"decompositions"`
	Scope struct {
		JSON json.RawMessage `json:"json"`
		Text string          `json:"text"`
	} `json:"scope"`
	Targets []targetView `json:"targets"`
	Tags    []struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	} `json:"tags"`
	GranularitySeconds int           `json:"granularitySeconds"`
	State              string        `json:"state"`
	Revision           int           `json:"revision"`
	CreatedAt          time.Time     `json:"createdAt"`
	UpdatedAt          time.Time     `json:"updatedAt"`
	ExpiresAt          *time.Time    `json:"expiresAt"`
	Coverage           coverageView  `json:"coverage"`
	Problems           []problemView `json:"problems,omitempty"`
}

// metricRef is the metric of an instrumentation. Its unit is empty where the quantity is a plain number.
type metricRef struct {
	Name string `json:"name"`
	Unit string `json:"unit"`
}

func (m metricRef) String() string {
	if m.Unit == "" {
		return m.Name
	}
	return m.Name + " (" + m.Unit + ")"
}

type coverageView struct {
	Expected int `json:"expected"`
	Running  int `json:"running"`
	Pending  int `json:"pending"`
	Failed   int `json:"failed"`
	Offline  int `json:"offline"`
}

// String tells the coverage in as few words as it takes: 3/5, 2 failed.
func (c coverageView) String() string {
	return fmt.Sprintf("%d/%d", c.Running, c.Expected) + c.others()
}

// sentence tells the same where nothing around it says what is counted: 3/5 running, 2 failed.
func (c coverageView) sentence() string {
	return fmt.Sprintf("%d/%d running", c.Running, c.Expected) + c.others()
}

func (c coverageView) others() string {
	text := ""
	for _, part := range []struct {
		n    int
		name string
	}{{c.Pending, "pending"}, {c.Failed, "failed"}, {c.Offline, "offline"}} {
		if part.n > 0 {
			text += fmt.Sprintf(", %d %s", part.n, part.name)
		}
	}
	return text
}

type problemView struct {
	Status    string  `json:"status"`
	Message   string  `json:"message"`
	Sources   int     `json:"sources"`
	ExampleVM *string `json:"exampleVm"`
}

type targetView struct {
	Kind      string  `json:"__typename"`
	URL       string  `json:"url,omitempty"`
	Transport string  `json:"transport,omitempty"`
	StreamURL *string `json:"streamUrl,omitempty"`
	Address   string  `json:"address,omitempty"`
	Prefix    string  `json:"prefix,omitempty"`
	Endpoint  string  `json:"endpoint,omitempty"`
}

func (t targetView) String() string {
	switch t.Kind {
	case "DataApiTarget":
		return "Data API " + t.URL + " (" + strings.ToLower(t.Transport) + ")"
	case "StatsdTarget":
		return strings.TrimSuffix("statsd "+t.Address+" "+t.Prefix, " ")
	case "GraphiteTarget":
		return strings.TrimSuffix("graphite "+t.Address+" "+t.Prefix, " ")
	default:
		return "OTLP " + t.Endpoint
	}
}

func (i instrumentationView) by() string {
	names := make([]string, 0, len(i.Decompositions))
	for _, d := range i.Decompositions {
		names = append(names, d.Name)
	}
	return strings.Join(names, ", ")
}

func (i instrumentationView) name() string {
	if i.Name == nil {
		return ""
	}
	return *i.Name
}

// limitsView is what an owner may have, and has.
type limitsView struct {
	Instrumentations            int `json:"instrumentations"`
	InstrumentationsUsed        int `json:"instrumentationsUsed"`
	TracingInstrumentations     int `json:"tracingInstrumentations"`
	TracingInstrumentationsUsed int `json:"tracingInstrumentationsUsed"`
	NameBytes                   int `json:"nameBytes"`
	Tags                        int `json:"tags"`
	TagKeyBytes                 int `json:"tagKeyBytes"`
	TagValueBytes               int `json:"tagValueBytes"`
	Targets                     int `json:"targets"`
	ScopeDepth                  int `json:"scopeDepth"`
	ScopeTerms                  int `json:"scopeTerms"`
	ScopeUUIDs                  int `json:"scopeUuids"`
	ScopeValues                 int `json:"scopeValues"`
	ScopeTextBytes              int `json:"scopeTextBytes"`
	PredicateDepth              int `json:"predicateDepth"`
	PredicateComparisons        int `json:"predicateComparisons"`
	DiscreteDecompositions      int `json:"discreteDecompositions"`
	GranularitySeconds          int `json:"granularitySeconds"`
	DefaultTracingTTLSeconds    int `json:"defaultTracingTtlSeconds"`
	MaxTracingTTLSeconds        int `json:"maxTracingTtlSeconds"`
	MaxTTLSeconds               int `json:"maxTtlSeconds"`
	JoinTokenTTLSeconds         int `json:"joinTokenTtlSeconds"`
}

// lines are the rows of a table: what, how much of it is used, and the limit.
func (l limitsView) lines() [][]string {
	time := func(n int) string { return shortDuration(time.Duration(n) * time.Second) }
	return [][]string{
		{"instrumentations", strconv.Itoa(l.InstrumentationsUsed), strconv.Itoa(l.Instrumentations)},
		{"of these, tracing", strconv.Itoa(l.TracingInstrumentationsUsed), strconv.Itoa(l.TracingInstrumentations)},
		{"bytes of a name", "", strconv.Itoa(l.NameBytes)},
		{"tags of one", "", strconv.Itoa(l.Tags)},
		{"bytes of a tag's key", "", strconv.Itoa(l.TagKeyBytes)},
		{"bytes of a tag's value", "", strconv.Itoa(l.TagValueBytes)},
		{"targets of one", "", strconv.Itoa(l.Targets)},
		{"levels of a scope", "", strconv.Itoa(l.ScopeDepth)},
		{"terms of a scope", "", strconv.Itoa(l.ScopeTerms)},
		{"uuids in a scope", "", strconv.Itoa(l.ScopeUUIDs)},
		{"values in a scope's list", "", strconv.Itoa(l.ScopeValues)},
		{"bytes of a scope's texts", "", strconv.Itoa(l.ScopeTextBytes)},
		{"levels of a predicate", "", strconv.Itoa(l.PredicateDepth)},
		{"comparisons of a predicate", "", strconv.Itoa(l.PredicateComparisons)},
		{"discrete fields to break down by", "", strconv.Itoa(l.DiscreteDecompositions)},
		{"the longest granularity", "", time(l.GranularitySeconds)},
		{"time to live of tracing, if none is asked for", "", time(l.DefaultTracingTTLSeconds)},
		{"the longest of tracing", "", time(l.MaxTracingTTLSeconds)},
		{"the longest time to live", "", time(l.MaxTTLSeconds)},
		{"the longest life of a join token", "", time(l.JoinTokenTTLSeconds)},
	}
}
