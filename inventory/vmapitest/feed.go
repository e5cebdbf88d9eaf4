package vmapitest

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// feed is the changefeed. A publisher looks at the changes every FeedLatency and sends them to whoever is registered
// then; what nobody hears is gone.
type feed struct {
	latency time.Duration
	faults  *faults
	log     *slog.Logger
	ctx     context.Context // ends with the server
	end     context.CancelFunc
	running sync.WaitGroup
	started time.Time

	mu        sync.Mutex
	waiting   []item
	armed     bool
	listeners map[string]*listener // by instance: one registration each
	sockets   map[*listener]struct{}
}

// item is a change that waits for the publisher.
type item struct {
	record    *record
	subs      []string
	published int64 // epoch ms
}

// listener is one connection. What it is sent waits in frames.
type listener struct {
	subs   []string
	frames chan []byte
	hangUp context.CancelFunc
}

const (
	maxWaiting   = 1 << 20 // changes between two looks
	maxFrames    = 1 << 16 // that wait for one listener, which is cut when it falls further behind
	maxHandshake = 64 << 10
	writeWait    = 10 * time.Second
)

var feedSubs = []string{
	"alias", "customer_metadata", "destroyed", "internal_metadata", "nics", "owner_uuid", "server_uuid", "state", "tags",
}

type feedResource struct {
	Resource       string   `json:"resource"`
	SubResources   []string `json:"subResources"`
	BootstrapRoute string   `json:"bootstrapRoute,omitempty"`
}

var feedResources = map[string]feedResource{"vm": {Resource: "vm", SubResources: feedSubs, BootstrapRoute: "/vms"}}

func newFeed(o Options, f *faults) *feed {
	ctx, end := context.WithCancel(context.Background())
	return &feed{
		latency: o.FeedLatency, faults: f, log: o.Logger, ctx: ctx, end: end, started: time.Now(),
		listeners: make(map[string]*listener), sockets: make(map[*listener]struct{}),
	}
}

func (f *feed) close() {
	f.mu.Lock()
	f.end()
	f.mu.Unlock()
	f.running.Wait()
}

// add has a change published at the publisher's next look.
func (f *feed) add(r *record, subs []string, at int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(subs) == 0 || f.ctx.Err() != nil {
		return
	}
	if len(f.waiting) < maxWaiting {
		f.waiting = append(f.waiting, item{r, subs, at})
	}
	if f.armed {
		return
	}
	f.armed = true
	untilNext := f.latency - time.Since(f.started)%f.latency
	f.running.Go(func() {
		select {
		case <-f.ctx.Done():
		case <-time.After(untilNext):
			f.publish()
		}
	})
}

// publish sends what waits: to each listener once for every entry of a message's subResources that it registered for.
func (f *feed) publish() {
	f.mu.Lock()
	defer f.mu.Unlock()
	items := f.waiting
	f.waiting, f.armed = nil, false
	for _, it := range items {
		if len(f.listeners) == 0 || f.faults.feedSilent() || f.faults.strikes("/changefeeds", FaultFeedLoss) != "" {
			continue
		}
		frame := it.frame()
		for instance, l := range f.listeners {
			for _, sub := range it.subs {
				if !slices.Contains(l.subs, sub) {
					continue
				}
				select {
				case l.frames <- frame:
				default:
					delete(f.listeners, instance)
					l.hangUp()
				}
			}
		}
	}
}

func (it item) frame() []byte {
	var b bytes.Buffer
	b.WriteString(`{"changeKind":{"resource":"vm","subResources":["`)
	b.WriteString(strings.Join(it.subs, `","`))
	b.WriteString(`"]},"changedResourceId":`)
	b.Write(appendUUID(nil, it.record.id))
	b.WriteString(`,"resourceObject":`)
	b.Write(appendSparse(nil, row{it.record, it.record.state}))
	b.WriteString(`,"published":"` + strconv.FormatInt(it.published, 10) + `"}`)
	return b.Bytes()
}

func (f *feed) registered() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.listeners)
}

// cut closes every connection.
func (f *feed) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.listeners)
	for l := range f.sockets {
		l.hangUp()
	}
}

// CutFeeds closes every connection to the changefeed.
func (s *Server) CutFeeds() { s.feed.cut() }

// probe answers GET /changefeeds.
func (f *feed) probe(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, r, http.StatusOK, feedResources)
}

// upgrade serves a listener until it or the server ends.
func (f *feed) upgrade(w http.ResponseWriter, r *http.Request) {
	ctx, hangUp := context.WithCancel(f.ctx)
	defer hangUp()
	l := &listener{frames: make(chan []byte, maxFrames), hangUp: hangUp}
	f.mu.Lock()
	if f.ctx.Err() != nil {
		f.mu.Unlock()
		return
	}
	f.running.Add(1)
	f.sockets[l] = struct{}{}
	f.mu.Unlock()
	defer f.running.Done()
	defer func() {
		f.mu.Lock()
		delete(f.sockets, l)
		f.mu.Unlock()
	}()
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true,
		OnPingReceived: func(context.Context, []byte) bool {
			return f.faults.strikes("/changefeeds", FaultFeedFrozen) == ""
		},
	})
	if err != nil {
		f.log.Debug("refused a listener", "error", err)
		return
	}
	defer conn.CloseNow()
	conn.SetReadLimit(maxHandshake)
	version2 := strings.HasPrefix(strings.TrimLeft(r.Header.Get("Accept-Version"), "~^="), "2")
	instance, refusal := f.register(ctx, conn, l, version2)
	if instance == "" {
		if refusal != "" {
			conn.Close(websocket.StatusNormalClosure, refusal)
		}
		return
	}
	defer f.leave(instance, l)
	f.running.Go(func() {
		defer hangUp()
		for ctx.Err() == nil { // what comes after the registration is ignored; reading answers the pings
			if _, _, err := conn.Read(ctx); err != nil {
				return
			}
		}
	})
	for {
		select {
		case <-ctx.Done():
			return
		case frame := <-l.frames:
			wait, cancel := context.WithTimeout(ctx, writeWait)
			err := conn.Write(wait, websocket.MessageText, frame)
			cancel()
			if err != nil {
				return
			}
		}
	}
}

// register reads the first frame and replies. Without an instance the connection is over, with a reason if there is one.
func (f *feed) register(ctx context.Context, conn *websocket.Conn, l *listener, version2 bool) (instance, refusal string) {
	_, frame, err := conn.Read(ctx)
	if err != nil {
		return "", ""
	}
	var given struct {
		Instance   string         `json:"instance"`
		Service    string         `json:"service"`
		ChangeKind *feedResource  `json:"changeKind"`
		Resources  []feedResource `json:"resources"`
	}
	var reply any = feedResources
	malformed := "failed to parse v1 registration payload"
	err = json.Unmarshal(frame, &given)
	if version2 {
		reply = map[string][]string{"bootstrapRoutes": {"/vms"}}
		malformed = "failed to parse v2 registration payload"
	} else if given.ChangeKind != nil {
		given.Resources = []feedResource{*given.ChangeKind}
	}
	if err != nil || given.Instance == "" || given.Service == "" || len(given.Resources) == 0 {
		return "", malformed
	}
	for _, resource := range given.Resources {
		if resource.Resource != "vm" {
			return "", "unknown resource: " + resource.Resource
		}
		l.subs = append(l.subs, resource.SubResources...)
	}
	text, err := json.Marshal(reply)
	if err != nil {
		return "", ""
	}
	f.mu.Lock()
	f.listeners[given.Instance] = l // an earlier one of the same instance stays open, and silent
	f.mu.Unlock()
	wait, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	if err := conn.Write(wait, websocket.MessageText, text); err != nil {
		f.leave(given.Instance, l)
		return "", ""
	}
	return given.Instance, ""
}

func (f *feed) leave(instance string, l *listener) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listeners[instance] == l {
		delete(f.listeners, instance)
	}
}
