package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// instrumentationView is what the client shows of one; its JSON has the schema's names.
type instrumentationView struct {
	ID     string  `json:"id"`
	Name   *string `json:"name"`
	Owner  *string `json:"owner"`
	Metric struct {
		Name string `json:"name"`
		Unit string `json:"unit"`
	} `json:"metric"`
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

type coverageView struct {
	Expected int `json:"expected"`
	Running  int `json:"running"`
	Pending  int `json:"pending"`
	Failed   int `json:"failed"`
	Offline  int `json:"offline"`
}

// String tells the coverage in as few words as it takes.
func (c coverageView) String() string {
	text := fmt.Sprintf("%d/%d", c.Running, c.Expected)
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
