package vmapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"iapi/inventory"
)

// ListenOptions say how to listen. The zero value is right for a real VMAPI.
type ListenOptions struct {
	Service    string        // the name to register under; "": iapi
	MinBackoff time.Duration // the first pause before connecting again; 0: 2 s
	MaxBackoff time.Duration // the longest; 0: 10 s
	PingEvery  time.Duration // 0: 10 s
	PingWait   time.Duration // how long an answer to a ping may take before the connection counts as dead; 0: 5 s
	Queue      int           // VMs that may wait for the handler, above which the connection is begun anew; 0: 65,536
}

// Handler is told what the changefeed says. Its methods are called one after the other, never at once.
type Handler interface {
	// Connected is called for each connection, once VMAPI has registered it. Nothing that changed before is told, so
	// the handler reads the whole list here, while messages queue. ctx ends with the connection. An error ends the
	// connection, and another is made after a pause.
	Connected(ctx context.Context) error
	// Changed says that a VM should be looked at again. seen is the VM as the message had it, nil when it had none or
	// when several messages, whose order is not known, came together: then ask. destroyed says that a message called it
	// destroyed, which is final. ctx ends with the connection.
	Changed(ctx context.Context, vm uuid.UUID, seen *inventory.VM, destroyed bool)
}

func (o ListenOptions) withDefaults() ListenOptions {
	if o.Service == "" {
		o.Service = "iapi"
	}
	if o.MinBackoff <= 0 {
		o.MinBackoff = 2 * time.Second
	}
	if o.MaxBackoff <= 0 {
		o.MaxBackoff = 10 * time.Second
	}
	o.MaxBackoff = max(o.MaxBackoff, o.MinBackoff)
	if o.PingEvery <= 0 {
		o.PingEvery = 10 * time.Second
	}
	if o.PingWait <= 0 {
		o.PingWait = 5 * time.Second
	}
	if o.Queue <= 0 {
		o.Queue = 1 << 16
	}
	return o
}

const maxMessage = 16 << 20 // bytes; a message carries a whole VM with its metadata

// Listen listens to the changefeed until ctx ends, and then returns its error. A connection that is lost, silent to
// pings, or too fast for the handler is made anew, with a fresh instance id, after a pause that doubles up to
// MaxBackoff and begins again once a handler has returned from Connected without error.
func (c *Client) Listen(ctx context.Context, o ListenOptions, h Handler) error {
	o = o.withDefaults()
	pause := o.MinBackoff
	for {
		settled, err := c.listenOnce(ctx, o, h)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if settled {
			pause = o.MinBackoff
		}
		wait := pause/2 + rand.N(pause/2+1)
		pause = min(2*pause, o.MaxBackoff)
		c.rest.Logger().WarnContext(ctx, "the changefeed ended", "error", err, "again_in", wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// listenOnce serves one connection to its end; settled reports that the handler has read its list.
func (c *Client) listenOnce(ctx context.Context, o ListenOptions, h Handler) (settled bool, err error) {
	conn, err := c.register(ctx, o)
	if err != nil {
		return false, err
	}
	defer conn.CloseNow()
	q := newQueue(o.Queue)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.receive(ctx, conn, q) })
	g.Go(func() error { return keepAlive(ctx, conn, o) })
	g.Go(func() error {
		if err := h.Connected(ctx); err != nil {
			return fmt.Errorf("after connecting: %w", err)
		}
		settled = true
		for {
			id, ch, err := q.take(ctx)
			if err != nil {
				return err
			}
			h.Changed(ctx, id, ch.seen, ch.destroyed)
		}
	})
	err = g.Wait()
	return settled, err
}

// register connects and registers, and returns when VMAPI has confirmed it.
func (c *Client) register(ctx context.Context, o ListenOptions) (_ *websocket.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.rest.Timeout())
	defer cancel()
	conn, _, err := websocket.Dial(ctx, c.rest.URL("/changefeeds", nil), &websocket.DialOptions{
		HTTPClient: c.rest.HTTPClient(),
		HTTPHeader: http.Header{"User-Agent": {c.rest.UserAgent()}, "X-Request-Id": {uuid.NewString()}},
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to the changefeed: %w: %w", inventory.ErrUnavailable, err)
	}
	defer func() {
		if err != nil {
			conn.CloseNow()
		}
	}()
	conn.SetReadLimit(maxMessage)
	var r registration
	r.Instance, r.Service = uuid.NewString(), o.Service // VMAPI silences an earlier connection of the same instance
	r.ChangeKind.Resource = "vm"
	r.ChangeKind.SubResources = []string{"alias", "destroyed", "owner_uuid", "server_uuid", "state", "tags"}
	frame, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if err := conn.Write(ctx, websocket.MessageText, frame); err != nil {
		return nil, fmt.Errorf("registering at the changefeed: %w", err)
	}
	_, reply, err := conn.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("registering at the changefeed: %w", err)
	}
	var resources map[string]json.RawMessage
	if err := json.Unmarshal(reply, &resources); err != nil {
		return nil, fmt.Errorf("registering at the changefeed: the reply is not a JSON object: %w", err)
	}
	return conn, nil
}

type registration struct {
	Instance   string `json:"instance"`
	Service    string `json:"service"`
	ChangeKind struct {
		Resource     string   `json:"resource"`
		SubResources []string `json:"subResources"`
	} `json:"changeKind"`
}

var errOverflow = errors.New("more VMs changed than the queue may hold")

// receive puts every message into the queue until the connection ends.
func (c *Client) receive(ctx context.Context, conn *websocket.Conn, q *queue) error {
	seed := maphash.MakeSeed()
	for {
		_, frame, err := conn.Read(ctx)
		if err != nil {
			return fmt.Errorf("reading the changefeed: %w", err)
		}
		id, ch, ok := c.message(frame)
		if !ok {
			c.skippedVMs.Add(1)
			continue
		}
		if !q.put(id, ch, maphash.Bytes(seed, frame)) {
			return errOverflow
		}
	}
}

// message decodes one message; ok is false when it names no VM.
func (c *Client) message(frame []byte) (id uuid.UUID, ch change, ok bool) {
	var m struct {
		ChangeKind struct {
			SubResources []json.RawMessage `json:"subResources"`
		} `json:"changeKind"`
		ID     json.RawMessage `json:"changedResourceId"`
		Object json.RawMessage `json:"resourceObject"`
	}
	if json.Unmarshal(frame, &m) != nil {
		return uuid.Nil, change{}, false
	}
	var text string
	if json.Unmarshal(m.ID, &text) != nil || !parseUUID([]byte(text), &id) || id == uuid.Nil {
		return uuid.Nil, change{}, false
	}
	var object struct {
		Destroyed json.RawMessage `json:"destroyed"`
	}
	if len(m.Object) > 0 {
		var vm inventory.VM
		err := c.decode(func(d *decoder) (err error) {
			vm, ok, err = d.object(m.Object)
			return err
		})
		if err == nil && ok && vm.UUID == id {
			ch.seen = &vm
			ch.destroyed = vm.State == "destroyed" ||
				(json.Unmarshal(m.Object, &object) == nil && len(object.Destroyed) > 0 && string(object.Destroyed) != "null")
			return id, ch, true
		}
	}
	for _, sub := range m.ChangeKind.SubResources {
		ch.destroyed = ch.destroyed || string(sub) == `"destroyed"`
	}
	return id, ch, true
}

// keepAlive pings, for VMAPI never does, and fails when an answer takes too long.
func keepAlive(ctx context.Context, conn *websocket.Conn, o ListenOptions) error {
	ticker := time.NewTicker(o.PingEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		wait, cancel := context.WithTimeout(ctx, o.PingWait)
		err := conn.Ping(wait)
		cancel()
		if err != nil {
			return fmt.Errorf("pinging the changefeed: %w", err)
		}
	}
}
