// Package cnapi asks CNAPI, Triton's inventory of compute nodes. Hosts have no tags there, only traits, which CNAPI
// cannot filter by; there are few hosts, so this client lists all that are set up, and callers keep them.
package cnapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"iapi/inventory"
	"iapi/inventory/internal/rest"
)

const (
	pageLimit = 1000 // CNAPI's maximum
	wanted    = "uuid,hostname,status,traits"
	restarts  = 3 // of a list whose pages shifted while it was read
)

// Options say which CNAPI to ask and how much. Only URL must be given.
type Options struct {
	URL        string        // http://cnapi.…
	HTTPClient *http.Client  // nil: one without proxies and redirects
	Timeout    time.Duration // of one attempt, with its body; 0: 30 s
	Parallel   int           // requests at once; 0: 4
	UserAgent  string        // "": iapi; must not begin with curl
	Logger     *slog.Logger  // nil: silent
}

// Client asks one CNAPI. It is safe for concurrent use.
type Client struct {
	rest    *rest.Client
	limit   int
	skipped atomic.Int64
}

// New makes a client. It sends nothing.
func New(o Options) (*Client, error) {
	r, err := rest.New(rest.Options{
		Service: "CNAPI", URL: o.URL, HTTPClient: o.HTTPClient, Timeout: o.Timeout, Parallel: o.Parallel,
		UserAgent: o.UserAgent, Logger: o.Logger,
	})
	if err != nil {
		return nil, err
	}
	return &Client{rest: r, limit: pageLimit}, nil
}

// Stats counts what a client has done since it was made.
type Stats struct {
	Requests, Retries, Failures int64 // attempts, repeated ones, calls that failed
	Skipped                     int64 // rows left out for want of a usable uuid
}

// Stats returns the counts.
func (c *Client) Stats() Stats {
	s := c.rest.Stats()
	return Stats{Requests: s.Requests, Retries: s.Retries, Failures: s.Failures, Skipped: c.skipped.Load()}
}

var errShifted = fmt.Errorf("%w: the list of hosts shifted while it was read", inventory.ErrUnavailable)

// Hosts returns every host that is set up, by ascending uuid. The error is inventory.ErrUnavailable when the whole list
// could not be had, the context's, or permanent; there is never a part of a list.
func (c *Client) Hosts(ctx context.Context) ([]inventory.Host, error) {
	for range restarts {
		hosts, err := c.list(ctx)
		if errors.Is(err, errShifted) {
			continue
		}
		if err != nil {
			if errors.Is(err, inventory.ErrNotFound) { // the route, not a host
				return nil, fmt.Errorf("listing hosts: %v", err)
			}
			return nil, fmt.Errorf("listing hosts: %w", err)
		}
		return hosts, nil
	}
	return nil, fmt.Errorf("listing hosts: %w", errShifted)
}

// list reads pages until one is short. CNAPI pages by offset only, so a host that leaves meanwhile would push another
// one out of sight: each page therefore begins with the last row of the one before it, and the list shifted if it does
// not.
func (c *Client) list(ctx context.Context) ([]inventory.Host, error) {
	var hosts []inventory.Host
	var lastRow string
	for offset := 0; ; offset += c.limit - 1 {
		var rows []json.RawMessage
		query := url.Values{
			"setup": {"true"}, "fields": {wanted}, "limit": {strconv.Itoa(c.limit)}, "offset": {strconv.Itoa(offset)},
		}
		err := c.rest.Get(ctx, "/servers", query, func(body []byte) error {
			rows = nil
			if err := json.Unmarshal(body, &rows); err != nil {
				return err
			}
			if rows == nil {
				return errors.New("the answer is null")
			}
			if len(rows) > c.limit {
				return fmt.Errorf("the page has %d rows", len(rows))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		size := len(rows)
		if offset > 0 {
			if size == 0 || rowID(rows[0]) != lastRow {
				return nil, errShifted
			}
			rows = rows[1:]
		}
		for _, row := range rows {
			host, err := decode(row)
			if err != nil {
				c.skipped.Add(1)
				continue
			}
			if n := len(hosts); n > 0 && bytes.Compare(hosts[n-1].UUID[:], host.UUID[:]) >= 0 {
				return nil, errShifted
			}
			hosts = append(hosts, host)
		}
		if size < c.limit {
			return hosts, nil
		}
		lastRow = rowID(rows[len(rows)-1])
	}
}

// Host returns one host. The error is inventory.ErrNotFound when CNAPI has no such host, inventory.ErrUnavailable when
// it could not say, and permanent otherwise.
func (c *Client) Host(ctx context.Context, id uuid.UUID) (inventory.Host, error) {
	if id == uuid.Nil {
		return inventory.Host{}, errors.New("asking CNAPI for a host: no uuid given")
	}
	var host inventory.Host
	err := c.rest.Get(ctx, "/servers/"+id.String(), nil, func(body []byte) (err error) {
		if host, err = decode(body); err != nil {
			return err
		}
		if host.UUID != id {
			return fmt.Errorf("the answer is not host %s", id)
		}
		return nil
	})
	if err != nil {
		return inventory.Host{}, err
	}
	return host, nil
}

// rowID is what tells a row of the list from another, usable or not.
func rowID(row json.RawMessage) string {
	var r struct {
		UUID json.RawMessage `json:"uuid"`
	}
	if json.Unmarshal(row, &r) != nil {
		return string(row)
	}
	return string(r.UUID)
}

// decode reads a host tolerantly: only the uuid must be usable, any other field of an odd type stays empty.
func decode(row []byte) (inventory.Host, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(row, &fields); err != nil {
		return inventory.Host{}, fmt.Errorf("decoding a host: %w", err)
	}
	id, err := uuid.Parse(text(fields["uuid"]))
	if err != nil || id == uuid.Nil {
		return inventory.Host{}, fmt.Errorf("decoding a host: uuid %s is unusable", fields["uuid"])
	}
	return inventory.Host{
		UUID: id, Name: text(fields["hostname"]), Status: text(fields["status"]), Traits: traits(fields["traits"]),
	}, nil
}

func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// traits normalises values, which may be any JSON: strings as themselves, anything else by its compact text; null is
// as good as absent.
func traits(raw json.RawMessage) map[string]string {
	var values map[string]json.RawMessage
	if json.Unmarshal(raw, &values) != nil {
		return nil
	}
	var out map[string]string
	for key, value := range values {
		v := string(value)
		switch {
		case v == "null":
			continue
		case v[0] == '"':
			v = text(value)
		default:
			var compact bytes.Buffer
			if json.Compact(&compact, value) == nil {
				v = compact.String()
			}
		}
		if out == nil {
			out = make(map[string]string, len(values))
		}
		out[key] = v
	}
	return out
}
