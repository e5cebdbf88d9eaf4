// Package vmapi asks VMAPI, Triton's inventory of virtual machines, and listens to its changefeed.
//
// VMAPI authorises nothing, drops rows when asked for tags, and ends its process on some malformed requests. So this
// client asks only what VMAPI answers reliably, and Query is the only way to say what: identifiers and one flag, from
// which no harmful request can be made. Tags are for the caller to evaluate.
package vmapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"iapi/inventory"
	"iapi/inventory/internal/rest"
)

// Options say which VMAPI to ask and how much. Only URL must be given.
type Options struct {
	URL        string        // http://vmapi.…
	HTTPClient *http.Client  // nil: one without proxies and redirects
	Timeout    time.Duration // of one attempt, with its body; 0: 30 s
	Parallel   int           // requests at once; 0: 4
	UserAgent  string        // "": iapi; must not begin with curl
	Logger     *slog.Logger  // nil: silent
}

// Client asks one VMAPI. It is safe for concurrent use.
//
// The tag maps of the VMs it returns are shared between VMs with equal tags and must not be changed.
type Client struct {
	rest     *rest.Client
	decoders sync.Pool

	skippedVMs, skippedFields atomic.Int64
}

// New makes a client. It sends nothing.
func New(o Options) (*Client, error) {
	r, err := rest.New(rest.Options{
		Service: "VMAPI", URL: o.URL, HTTPClient: o.HTTPClient, Timeout: o.Timeout, Parallel: o.Parallel,
		UserAgent: o.UserAgent, Logger: o.Logger,
	})
	if err != nil {
		return nil, err
	}
	return &Client{rest: r, decoders: sync.Pool{New: func() any { return newDecoder() }}}, nil
}

// Stats counts what a client has done since it was made.
type Stats struct {
	Requests, Retries, Failures int64 // attempts, repeated ones, calls that failed
	Skipped                     int64 // rows left out: no usable uuid, or not what was asked for
	SkippedFields               int64 // fields left empty for their odd type
}

// Stats returns the counts.
func (c *Client) Stats() Stats {
	s := c.rest.Stats()
	return Stats{
		Requests: s.Requests, Retries: s.Retries, Failures: s.Failures,
		Skipped: c.skippedVMs.Load(), SkippedFields: c.skippedFields.Load(),
	}
}

// VM returns one VM, a destroyed one too. The error is inventory.ErrNotFound when VMAPI has no such VM,
// inventory.ErrUnavailable when it could not say, and permanent otherwise.
func (c *Client) VM(ctx context.Context, id uuid.UUID) (inventory.VM, error) {
	if id == uuid.Nil { // GET /vms/ with fields ends VMAPI's process
		return inventory.VM{}, errors.New("asking VMAPI for a VM: no uuid given")
	}
	var vm inventory.VM
	err := c.rest.Get(ctx, "/vms/"+id.String(), url.Values{"fields": {wanted}}, func(body []byte) error {
		return c.decode(func(d *decoder) error {
			var ok bool
			var err error
			if vm, ok, err = d.object(body); err != nil {
				return err
			}
			if !ok || vm.UUID != id {
				return fmt.Errorf("the answer is not VM %s", id)
			}
			return nil
		})
	})
	if err != nil {
		return inventory.VM{}, err
	}
	return vm, nil
}

// Ping reports whether VMAPI and what it depends on answer.
func (c *Client) Ping(ctx context.Context) error {
	return c.rest.Get(ctx, "/ping", nil, func([]byte) error { return nil })
}

// decode lends a decoder and counts what it had to skip.
func (c *Client) decode(with func(*decoder) error) error {
	d := c.decoders.Get().(*decoder)
	err := with(d)
	c.skippedVMs.Add(d.skippedVMs)
	c.skippedFields.Add(d.skippedFields)
	d.data, d.skippedVMs, d.skippedFields = nil, 0, 0
	clear(d.likely)
	c.decoders.Put(d)
	return err
}
