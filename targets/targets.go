// Package targets sends data points to where their instrumentation wants them: the Data API (HTTP, websocket, UDP),
// statsd, graphite and OTLP (HTTP, gRPC).
//
// A Queue belongs to one target. It never blocks who measures: points wait in a bounded ring in memory; when the target
// is down they go to a spool on disk, if the kind of target can take late data (all but statsd); and what does not fit
// is dropped, the oldest first, and counted with the reason. At all times
//
//	Enqueued = Sent + Queued + Dropped.
//
// Delivery is at least once. The Data API drops repeats by their key, graphite overwrites the same value, and OTLP is
// cumulative; a lost answer can count twice with statsd and with OTLP deltas.
//
// Points that belong to an owner carry neither the name nor the uuid of the host in any rendering; their source is the
// zone. The operators' points (Owner Nil) carry the host.
package targets

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/google/uuid"

	"iapi/measure"
)

// Dialect is how statsd is spoken; they differ in where the fields go.
type Dialect string

// The dialects of statsd.
const (
	Plain     Dialect = "plain"     // name.vm.value:1|c
	DogStatsD Dialect = "dogstatsd" // name:1|c|#vm:…,execname:…
	GraphiteD Dialect = "graphite"  // name;vm=…;execname=…:1|c
	Influx    Dialect = "influx"    // name,vm=…,execname=…:1|c
)

// Clock tells the time and waits; tests put their own in its place.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

// Options say who sends and within which bounds. The zero value of each has a default; without Dir nothing is spooled.
type Options struct {
	// Dir is below which spools are kept, one directory for each Name and target. "": no spool.
	Dir string
	// Name tells apart queues to the same target, as the id of the instrumentation.
	Name string

	HostID   uuid.UUID // of the host that measures
	Hostname string    // as operators know it; default: HostID's text
	Version  string    // of the agent

	Logger *slog.Logger // default: discards
	Clock  Clock        // default: the system's
	// HTTPClient is used for HTTP and websockets. Default: one that dials with Dial. Redirects are never followed, for
	// headers hold secrets.
	HTTPClient *http.Client
	// Dial connects to the target; a site can refuse addresses here. Default: net.Dialer with a timeout of 5 s.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Shared has queues to the same Data API over HTTP send in one request. Default: each sends for itself.
	Shared *Shared

	StatsdDialect Dialect // default: Plain
	GraphiteTags  bool    // fields as tags (name;k=v) rather than as parts of the path
	OTLPDelta     bool    // send deltas; default: cumulative

	RingPoints int           // points in memory; default 10,000
	RingBytes  int           // their estimated size; default 8 MiB
	BatchSize  int           // points of one batch; default 500
	SpoolAfter time.Duration // a target is down for so long before points go to disk; default 5 s
	SpoolBytes int64         // on disk; default 256 MiB
	SpoolAge   time.Duration // older data are dropped; default 24 h
	SpoolFree  float64       // the part of the disk that stays free; default 0.1

	segmentBytes int64
	free         func(dir string) (float64, error)
	jitter       func(time.Duration) time.Duration
}

// Stats is how a queue fares. Enqueued includes what an earlier life left in the spool.
type Stats struct {
	Connected   bool // the last attempt went through; of datagrams: none has failed for a while
	Enqueued    int64
	Queued      int64 // in memory, on its way, and in the spool
	Spooled     int64 // the part of Queued that is on disk and not being sent
	Sent        int64
	Dropped     int64
	DroppedFor  map[string]int64 // Dropped by reason: one of the Reason constants
	LastSuccess time.Time
	LastError   string // of the last failed attempt, "" while Connected; never holds a header's value
	SpoolError  string // why the spool cannot be used, "" while it can
	LastRefusal string // what the target said of the last point that it would not take
}

// The reasons why points are dropped.
const (
	ReasonFull    = "full"    // the ring or the spool was full
	ReasonOld     = "too old" // longer in the spool than SpoolAge, or too late for statsd
	ReasonRefused = "refused" // the target would not take the point
	ReasonInvalid = "invalid" // has no rendering: not a number, a tenant's point without a zone, or too long
	ReasonClosed  = "closed"  // left when the queue was closed, and no spool
	ReasonDamaged = "damaged" // the spool could not be read back
)

const (
	maxSendTime    = 10 * time.Second // for one attempt
	firstBackoff   = time.Second
	maxBackoff     = time.Minute
	maxRetryAfter  = 10 * time.Minute
	misconfigWait  = 5 * time.Minute // after an answer that somebody has to do something about
	refusalsInARow = 16              // before refusals are slowed down like failures
	maxBatchBytes  = 512 << 10       // estimated
	statsdLate     = 10 * time.Second
	fsyncEvery     = time.Second
)

// Open starts the queue to a target. It does not wait for the target; the error is about a target that can never work,
// and names the member that is wrong.
func Open(t measure.Target, o Options) (*Queue, error) {
	o = o.withDefaults()
	q := newQueue(t, o)
	wire, err := openWire(t, o)
	if err != nil {
		return nil, fmt.Errorf("open the %s target: %s", t.Kind, q.secrets.scrub(err.Error()))
	}
	q.wire = wire
	go q.run()
	return q, nil
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = systemClock{}
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	}
	if o.Hostname == "" && o.HostID != uuid.Nil {
		o.Hostname = o.HostID.String()
	}
	o.StatsdDialect = cmp.Or(o.StatsdDialect, Plain)
	o.RingPoints = cmp.Or(o.RingPoints, 10_000)
	o.RingBytes = cmp.Or(o.RingBytes, 8<<20)
	o.BatchSize = cmp.Or(o.BatchSize, 500)
	o.SpoolAfter = cmp.Or(o.SpoolAfter, 5*time.Second)
	o.SpoolBytes = cmp.Or(o.SpoolBytes, 256<<20)
	o.SpoolAge = cmp.Or(o.SpoolAge, 24*time.Hour)
	o.SpoolFree = cmp.Or(o.SpoolFree, 0.1)
	o.segmentBytes = cmp.Or(o.segmentBytes, min(4<<20, o.SpoolBytes/4))
	if o.free == nil {
		o.free = freeFraction
	}
	if o.jitter == nil {
		o.jitter = fullJitter
	}
	o.HTTPClient = httpClient(o)
	return o
}

// httpClient follows no redirects.
func httpClient(o Options) *http.Client {
	var c http.Client
	if o.HTTPClient != nil {
		c = *o.HTTPClient
	} else {
		c.Transport = &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: o.Dial, TLSHandshakeTimeout: 5 * time.Second,
			MaxIdleConnsPerHost: 2, IdleConnTimeout: 90 * time.Second, ForceAttemptHTTP2: true,
		}
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

func newQueueID() string {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil { // cannot happen: crypto/rand ends the process rather than fail
		return uuid.NewString()
	}
	return hex.EncodeToString(b[:])
}
