package targets

import (
	"context"
	"errors"
	"fmt"

	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"

	"iapi/measure"
)

// wire speaks one protocol. Only the queue's goroutine uses it.
type wire interface {
	// prepare makes a point ready once; a retry sends the same item again. An error says that the point has no rendering.
	prepare(p measure.Point) (item, error)
	// gap makes ready the news that points were lost; false: the protocol has no words for it.
	gap(g lostPoints) (item, bool)
	// send sends items in order. The error is a *failure where the wire knows what it means; any other is worth a retry.
	send(ctx context.Context, key string, items []item) (result, error)
	close()
}

// item is one point as its wire has made it ready.
type item struct {
	point  measure.Point
	news   *lostPoints // what it tells of, if it is no point itself
	stream string      // items of different streams are never sent together
	lines  [][]byte
	otlp   []datum
}

type datum struct {
	tenant bool
	metric *metricspb.Metric // holds one data point
}

// result is what became of the items that were sent.
type result struct {
	done    int    // so many, from the first, are dealt with; meant for when there is an error
	refused int    // of those dealt with, the target will not keep so many
	note    string // what it said about them
}

// lostPoints tells of the points of one stream that were dropped.
type lostPoints struct {
	stream   string
	tenant   bool // of a tenant
	n        int64
	from, to int64 // seconds since 1970, UTC
}

func openWire(t measure.Target, o Options) (wire, error) {
	switch t.Kind {
	case measure.DataAPI:
		return openDataAPI(t, o)
	case measure.Statsd:
		return openStatsd(t, o)
	case measure.Graphite:
		return openGraphite(t, o)
	case measure.OTLP:
		return openOTLP(t, o)
	}
	return nil, fmt.Errorf("kind: %q is not one of dataapi, statsd, graphite, otlp", t.Kind)
}

// takesLate reports whether the kind's data carry their own time, so that they can be spooled.
func takesLate(k measure.TargetKind) bool { return k != measure.Statsd }

// sendsDatagrams reports whether nothing tells that what was sent has arrived.
func sendsDatagrams(t measure.Target) bool {
	return t.Kind == measure.Statsd || t.Kind == measure.DataAPI && t.Transport == measure.UDP
}

// inOrder reports whether points of a series must arrive in the order of their times.
func inOrder(k measure.TargetKind) bool { return k == measure.OTLP }

var errTooLong = errors.New("the rendered point is too long for its protocol")
