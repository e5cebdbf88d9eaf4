package graph

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"iapi/graph/ws"
)

// measures is what the door tells Prometheus.
type measures struct{ operations *prometheus.HistogramVec }

func newMeasures(reg *prometheus.Registry, feed Delivery, sockets *ws.Server) (*measures, error) {
	m := &measures{operations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "iapi_graphql_seconds", Help: "How long operations over HTTP took, by kind and by the code of the first error.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
	}, []string{"kind", "code"})}
	gauge := func(name, help string, fn func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, fn)
	}
	counter := func(name, help string, fn func() int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(fn()) })
	}
	for _, c := range []prometheus.Collector{
		m.operations,
		gauge("iapi_websockets", "Open websockets.", func() float64 { return float64(sockets.Connections()) }),
		gauge("iapi_agents_connected", "Hosts whose agent has a subscription here.", func() float64 { return float64(feed.Stats().Connected) }),
		counter("iapi_assignments_delivered_total", "Documents handed to agents' connections.", func() int64 { return feed.Stats().Delivered }),
		counter("iapi_assignments_resumed_total", "Subscriptions answered with a bookmark.", func() int64 { return feed.Stats().Resumed }),
		counter("iapi_sessions_superseded_total", "Agents' sessions that another one has ended.", func() int64 { return feed.Stats().Superseded }),
		counter("iapi_delivery_failures_total", "Failed reads and writes of the feed.", func() int64 { return feed.Stats().Failures }),
	} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register a metric: %w", err)
		}
	}
	return m, nil
}

func (m *measures) operation(kind, code string, took time.Duration) {
	m.operations.WithLabelValues(kind, code).Observe(took.Seconds())
}
