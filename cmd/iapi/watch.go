package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"iapi/dataapi"
	"iapi/measure"
)

type watchCmd struct {
	clientFlags
	ID    string `arg:"" help:"The instrumentation's id."`
	Top   bound  `default:"20" help:"Show at most this many values of each interval, the greatest first; 0 for all."`
	Since pause  `default:"0s" help:"Begin with what has arrived in the last so much time, as far as the Data API keeps it."`
	For   period `help:"Stop by itself after this time." placeholder:"TIME"`
}

// Help is what "iapi watch --help" adds.
func (watchCmd) Help() string {
	return `Ctrl-C stops it. It reads the instrumentation's Data API target. With -o json there is one value on each line.

  iapi watch i-06h07ecrugrq8e2nechg
  iapi watch i-06h07ecrugrq8e2nechg --top 5 --since 1m
  iapi watch i-06h07ecrugrq8e2nechg --for 10s -o json`
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
		fmt.Fprintf(s.err, "%s is %s (%s); waiting for values.\n", i.ID, i.State, i.Coverage.sentence())
	}
	if c.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(c.For))
		defer cancel()
	}
	out := &watchTable{w: s.out, instrumentation: i, top: int(c.Top)}
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
		ended <- api.Watch(reading, i.ID, time.Now().Add(-time.Duration(c.Since)), func(e dataapi.Event) error {
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
