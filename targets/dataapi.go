package targets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"iapi/dataapi/event"
	"iapi/measure"
)

// renderer makes events of points, for all transports of the Data API.
type renderer struct{ opts Options }

func (r renderer) prepare(p measure.Point) (item, error) {
	from, err := r.opts.originOf(p)
	if err != nil {
		return item{}, err
	}
	if err := event.CheckStream(p.Instrumentation); err != nil {
		return item{}, err
	}
	count, err := event.Float(p.Value)
	if err != nil {
		return item{}, err
	}
	e := event.Event{
		Stream: p.Instrumentation, Timestamp: p.Start, Interval: p.Interval, Count: count,
		Instrumentation: p.Instrumentation, Metric: p.Metric, Host: from.host,
		VM: p.VM, Gauge: p.Gauge, Other: p.Other, Partial: p.Partial,
	}
	for _, f := range r.opts.fieldsOf(p) {
		if e.Fields == nil {
			e.Fields = make(map[string]string, len(p.Fields))
		}
		e.Fields[f.Name] = f.Value
	}
	if d := p.Distribution; d != nil {
		e.Dist = map[string][]measure.Bucket{d.Field: d.Buckets}
	}
	return itemOf(e)
}

// gap is an event that counts the points that were lost in a span of time.
func (r renderer) gap(g lostPoints) (item, bool) {
	e := event.Event{
		Stream: g.stream, Instrumentation: g.stream, Gap: true, Count: event.Int(g.n),
		Timestamp: time.Unix(g.from, 0).UTC(), Interval: time.Duration(g.to-g.from) * time.Second,
	}
	if !g.tenant {
		e.Host = r.opts.Hostname
	}
	if event.CheckStream(g.stream) != nil {
		return item{}, false
	}
	it, err := itemOf(e)
	return it, err == nil
}

// usualLine has room for most events.
const usualLine = 384

func itemOf(e event.Event) (item, error) {
	line := e.Append(make([]byte, 0, usualLine))
	if len(line) > event.MaxLine {
		return item{}, errTooLong
	}
	return item{stream: e.Stream, lines: [][]byte{line}}, nil
}

func openDataAPI(t measure.Target, o Options) (wire, error) {
	r := renderer{o}
	switch t.Transport {
	case measure.HTTP, "":
		base, err := webURL(t.Address, "http", "https", "ws", "wss")
		if err != nil {
			return nil, err
		}
		header, err := headersOf(t, base)
		if err != nil {
			return nil, err
		}
		d := &dataHTTP{renderer: r, base: base, header: header}
		if o.Shared != nil {
			if d.post, err = o.Shared.join(base, header, o); err != nil {
				return nil, err
			}
		}
		return d, nil
	case measure.WebSocket:
		base, err := webURL(t.Address, "http", "https", "ws", "wss")
		if err != nil {
			return nil, err
		}
		header, err := headersOf(t, base)
		if err != nil {
			return nil, err
		}
		return &dataSocket{renderer: r, base: base, header: header, conns: map[string]*socket{}}, nil
	case measure.UDP:
		address := t.Address
		if u, err := url.Parse(address); err == nil && u.Scheme == "udp" {
			address = u.Host
		}
		if err := checkHostPort(address); err != nil {
			return nil, err
		}
		return &dataUDP{renderer: r, out: datagrams{address: address, opts: o}}, nil
	}
	return nil, fmt.Errorf("transport: %q is not one of HTTP, WEBSOCKET, UDP", t.Transport)
}

// webURL reads an address; ws and wss become http and https.
func webURL(address string, schemes ...string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, errors.New("address: must be an absolute URL")
	}
	for _, scheme := range schemes {
		if u.Scheme == scheme {
			switch scheme {
			case "ws", "grpc":
				u.Scheme = "http"
			case "wss", "grpcs":
				u.Scheme = "https"
			}
			return u, nil
		}
	}
	return nil, fmt.Errorf("address: the scheme must be one of %v", schemes)
}

// headersOf are the headers of a target; a user in its URL becomes one, and leaves the URL.
func headersOf(t measure.Target, u *url.URL) (http.Header, error) {
	h := http.Header{}
	if u.User != nil {
		r := http.Request{Header: h}
		password, _ := u.User.Password()
		r.SetBasicAuth(u.User.Username(), password)
		u.User = nil
	}
	for name, value := range t.Headers {
		if !validHeaderName(name) {
			return nil, errors.New("headers: a name is not a header's")
		}
		for _, c := range []byte(value) {
			if c < 0x20 && c != '\t' || c == 0x7f {
				return nil, fmt.Errorf("headers: the value of %s has a control character", name)
			}
		}
		switch http.CanonicalHeaderKey(name) {
		case "Content-Type", "Content-Length", "Content-Encoding", "Idempotency-Key", "Host", "Connection", "Transfer-Encoding", "Upgrade":
			return nil, fmt.Errorf("headers: %s is not for a target to set", name)
		}
		h.Set(name, value)
	}
	h.Set("User-Agent", "iapi-agent")
	return h, nil
}

func validHeaderName(name string) bool {
	for _, c := range []byte(name) {
		if !pathByte(c) && !bytes.ContainsRune([]byte("!#$%&'*+.^`|~"), rune(c)) {
			return false
		}
	}
	return name != ""
}

// dataHTTP posts batches as NDJSON, with those of others if it can; the key makes a repeat harmless.
type dataHTTP struct {
	renderer
	base   *url.URL
	header http.Header
	post   *post // nil: it shares no requests
}

func (d *dataHTTP) send(ctx context.Context, key string, items []item) (result, error) {
	if d.post != nil {
		switch err := d.post.send(ctx, key, items); {
		case err == nil:
			return result{done: len(items)}, nil
		case !errors.Is(err, errApart):
			return result{}, err
		}
	}
	return d.alone(ctx, key, items)
}

// alone sends a batch in a request of its own.
func (d *dataHTTP) alone(ctx context.Context, key string, items []item) (result, error) {
	size := 0
	for _, it := range items {
		size += len(it.lines[0]) + 1
	}
	body := make([]byte, 0, size)
	for _, it := range items {
		body = append(append(body, it.lines[0]...), '\n')
	}
	target := d.base.JoinPath(items[0].stream, "data")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader(body))
	if err != nil {
		return result{}, fmt.Errorf("make the request: %w", err)
	}
	req.Header = d.header.Clone()
	req.Header.Set("Content-Type", "application/x-ndjson")
	req.Header.Set("Idempotency-Key", key)
	if _, err := roundTrip(d.opts, req); err != nil {
		return result{}, err
	}
	return result{done: len(items)}, nil
}

// roundTrip does a request and reads the answer, of which only the first part may be of interest.
func roundTrip(o Options, req *http.Request) ([]byte, error) {
	resp, err := o.HTTPClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("post: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return body, nil // the batch is taken, whatever becomes of the rest of the answer
	}
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return nil, httpFailure(resp.StatusCode, resp.Header, string(body), o.Clock.Now())
}

func (d *dataHTTP) close() {
	if d.post != nil {
		d.post.leave()
	}
	d.opts.HTTPClient.CloseIdleConnections()
}

// dataUDP sends one event in each datagram. Nobody answers, so it is for a socket on the same machine.
type dataUDP struct {
	renderer
	out datagrams
}

func (d *dataUDP) prepare(p measure.Point) (item, error) {
	it, err := d.renderer.prepare(p)
	if err == nil && len(it.lines[0]) > maxDatagram {
		err = errTooLong
	}
	return it, err
}

func (d *dataUDP) send(ctx context.Context, _ string, items []item) (result, error) {
	for i, it := range items {
		if err := d.out.write(ctx, it.lines[0]); err != nil {
			return result{done: i}, err
		}
	}
	return result{done: len(items)}, nil
}

func (d *dataUDP) close() { d.out.close() }
