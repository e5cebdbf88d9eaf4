package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"iapi/dataapi"
	"iapi/measure"
)

type watchCmd struct {
	clientFlags
	ID    string        `arg:"" help:"The instrumentation's id."`
	Top   int           `default:"20" help:"Show at most this many values of each interval, the greatest first; 0 for all."`
	Since time.Duration `help:"Begin with what has arrived in the last so much time, as far as the Data API keeps it."`
	For   time.Duration `help:"Stop by itself after this time." placeholder:"TIME"`
}

func (c watchCmd) Run(ctx context.Context, s streams) error {
	i, err := c.client().get(ctx, c.ID)
	if err != nil {
		return err
	}
	address, err := streamServer(i)
	if err != nil {
		return err
	}
	if i.State != "ENABLED" && c.Output == "table" {
		fmt.Fprintf(s.err, "%s is %s (%s running); waiting for values.\n", i.ID, i.State, i.Coverage)
	}
	if c.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.For)
		defer cancel()
	}
	out := &watchTable{w: s.out, instrumentation: i, top: c.Top, header: true}
	events := make(chan dataapi.Event, 256)
	ended := make(chan error, 1)
	reading, stop := context.WithCancel(ctx)
	defer stop()
	api := dataapi.Client{
		URL:    address,
		HTTP:   &http.Client{Transport: credential{c.clientFlags}},
		Missed: func(n uint64) { fmt.Fprintf(s.err, "iapi: %d values came faster than they could be shown\n", n) },
		Broken: func(err error) { fmt.Fprintln(s.err, "iapi: connecting to the Data API again:", err) },
	}
	go func() {
		defer close(events)
		ended <- api.Watch(reading, i.ID, time.Now().Add(-c.Since), func(e dataapi.Event) error {
			select {
			case events <- e:
				return nil
			case <-reading.Done():
				return reading.Err()
			}
		})
	}()
	err = c.show(s.out, out, events)
	stop()
	if werr := <-ended; err == nil {
		err = werr
	}
	if c.For > 0 && errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// credential sends the token to the API's own server, where "iapi dev" has its Data API, and to nobody else.
type credential struct{ flags clientFlags }

// RoundTrip implements http.RoundTripper.
func (c credential) RoundTrip(r *http.Request) (*http.Response, error) {
	if server, err := url.Parse(c.flags.Server); err == nil && server.Host == r.URL.Host {
		token, err := c.flags.token()
		if err != nil {
			return nil, err
		}
		if token != "" {
			r = r.Clone(r.Context())
			r.Header.Set("Authorization", "Bearer "+token)
		}
	}
	return http.DefaultTransport.RoundTrip(r)
}

// show writes events as they come; a table's rows wait a moment for the others of their interval.
func (c watchCmd) show(w io.Writer, t *watchTable, events <-chan dataapi.Event) error {
	const settle = 250 * time.Millisecond
	timer := time.NewTimer(settle)
	defer timer.Stop()
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return t.flush()
			}
			switch c.Output {
			case "json":
				raw, err := json.Marshal(e)
				if err != nil {
					return fmt.Errorf("encode an event: %w", err)
				}
				if _, err := fmt.Fprintf(w, "%s\n", raw); err != nil {
					return err
				}
			case "yaml":
				fmt.Fprintln(w, "---")
				if err := printYAML(w, e); err != nil {
					return err
				}
			default:
				if err := t.add(e); err != nil {
					return err
				}
				timer.Reset(settle)
			}
		case <-timer.C:
			if err := t.flush(); err != nil {
				return err
			}
		}
	}
}

// streamServer is the Data API that an instrumentation's data goes to.
func streamServer(i instrumentationView) (string, error) {
	var other []string
	for _, t := range i.Targets {
		if t.Kind == "DataApiTarget" && t.Transport != string(measure.UDP) {
			return t.URL, nil
		}
		other = append(other, t.String())
	}
	return "", &exitError{code: exitFailed, err: fmt.Errorf("%s sends its data to %s; watch needs a Data API target (http or websocket)",
		i.ID, strings.Join(other, " and "))}
}

// watchTable shows events as rows, an interval at a time.
type watchTable struct {
	w               io.Writer
	instrumentation instrumentationView
	top             int
	header          bool
	at              time.Time
	rows            []dataapi.Event
}

func (t *watchTable) add(e dataapi.Event) error {
	if len(t.rows) > 0 && !e.Timestamp.Equal(t.at) {
		if err := t.flush(); err != nil {
			return err
		}
	}
	t.at = e.Timestamp
	t.rows = append(t.rows, e)
	return nil
}

func (t *watchTable) flush() error {
	if len(t.rows) == 0 {
		return nil
	}
	rows := t.rows
	t.rows = nil
	value := func(e dataapi.Event) float64 {
		v, err := e.Count.Float64()
		if err != nil {
			return 0
		}
		return v
	}
	slices.SortStableFunc(rows, func(a, b dataapi.Event) int { return cmp.Compare(value(b), value(a)) })
	more := 0
	if t.top > 0 && len(rows) > t.top {
		more = len(rows) - t.top
		rows = rows[:t.top]
	}
	const source = 36
	if t.header {
		t.header = false
		line := fmt.Sprintf("%-10s%-*s", "TIME", source+2, "SOURCE")
		for _, d := range t.instrumentation.Decompositions {
			line += fmt.Sprintf("%-18s", d.Name)
		}
		if _, err := fmt.Fprintln(t.w, line+strings.ToUpper(t.instrumentation.Metric.Unit)); err != nil {
			return err
		}
	}
	for _, e := range rows {
		line := fmt.Sprintf("%-10s%-*s", e.Timestamp.Local().Format(time.TimeOnly), source+2, sourceOf(e))
		for _, d := range t.instrumentation.Decompositions {
			text := e.Fields[d.Name]
			if buckets, ok := e.Dist[d.Name]; ok {
				text = quantiles(buckets)
			} else if e.Other {
				text = "(other)"
			}
			line += fmt.Sprintf("%-17s ", printable(text))
		}
		number := strconv.FormatFloat(value(e), 'f', -1, 64)
		if v := value(e); v != float64(int64(v)) {
			number = strconv.FormatFloat(v, 'f', 2, 64)
		}
		switch {
		case e.Gap:
			number += " lost"
		case e.Partial:
			number += " (in part)"
		}
		if _, err := fmt.Fprintln(t.w, line+number); err != nil {
			return err
		}
	}
	if more > 0 {
		if _, err := fmt.Fprintf(t.w, "%10s… and %d more; --top 0 shows all\n", "", more); err != nil {
			return err
		}
	}
	return nil
}

// sourceOf names who was measured: a zone, or a whole host.
func sourceOf(e dataapi.Event) string {
	if e.VM != uuid.Nil {
		return e.VM.String()
	}
	return orDash(e.Host)
}

// quantiles sums up a distribution in one cell.
func quantiles(buckets []measure.Bucket) string {
	var total int64
	for _, b := range buckets {
		total += b.Count
	}
	at := func(q float64) int64 {
		want, seen := int64(q*float64(total-1))+1, int64(0)
		for _, b := range buckets {
			if seen += b.Count; seen >= want {
				return b.High
			}
		}
		return 0
	}
	return fmt.Sprintf("p50≤%d p99≤%d", at(0.5), at(0.99))
}
