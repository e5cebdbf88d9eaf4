package worker

import (
	"context"
	"slices"
	"time"

	"github.com/hibiken/asynq"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// metrics are what a worker tells about its work.
type metrics struct {
	tasks                           *prometheus.HistogramVec
	batches                         prometheus.Histogram
	errors                          *prometheus.CounterVec
	lookups, reconciled, overBudget prometheus.Counter
	deltaVMs, deltaHosts            prometheus.Counter
	deltaSucceeded                  prometheus.Gauge
	sweepSeconds                    prometheus.Histogram
	sweepVMs                        prometheus.Gauge
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "iapi", Subsystem: "worker", Name: name, Help: help})
	}
	gauge := func(subsystem, name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "iapi", Subsystem: subsystem, Name: name, Help: help})
	}
	return &metrics{
		tasks: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "iapi", Subsystem: "worker", Name: "task_seconds", Help: "How long tasks took.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 10),
		}, []string{"task", "result"}),
		batches: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "iapi", Subsystem: "worker", Name: "reconcile_seconds", Help: "How long a batch of hosts took from claim to commit.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "iapi", Subsystem: "worker", Name: "errors_total", Help: "What failed and is tried again.",
		}, []string{"doing"}),
		lookups:        counter("vm_lookups_total", "VMs asked about in VMAPI because of a hint."),
		reconciled:     counter("hosts_reconciled_total", "Hosts reconciled."),
		deltaVMs:       counter("delta_vms_total", "VMs whose records VMAPI named as changed."),
		deltaHosts:     counter("delta_hosts_total", "Hosts whose facts that has changed."),
		deltaSucceeded: gauge("worker", "delta_last_success_timestamp_seconds", "When VMAPI was last asked for changed records and answered."),
		overBudget:     counter("over_budget_total", "Instrumentations left out of a document for want of room."),
		sweepSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "iapi", Subsystem: "sweep", Name: "seconds", Help: "How long sweeps took.",
			Buckets: prometheus.ExponentialBuckets(0.1, 2, 14),
		}),
		sweepVMs: gauge("sweep", "vms", "VMs that this process's sweep has read so far."),
	}
}

func (m *metrics) register(r prometheus.Registerer, s Store, client redis.UniversalClient) error {
	for _, c := range []prometheus.Collector{
		m.tasks, m.batches, m.errors, m.lookups, m.reconciled, m.overBudget,
		m.deltaVMs, m.deltaHosts, m.deltaSucceeded, m.sweepSeconds, m.sweepVMs, backlogCollector{s, asynq.NewInspectorFromRedisClient(client)},
	} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// backlogCollector reads what waits when it is asked for. Where the store cannot be read it gives nothing.
type backlogCollector struct {
	store     Store
	inspector *asynq.Inspector
}

var (
	dirtyDesc  = prometheus.NewDesc("iapi_backlog", "What waits to be done, by kind.", []string{"kind"}, nil)
	oldestDesc = prometheus.NewDesc("iapi_backlog_oldest_seconds", "How long the oldest has waited, by kind.", []string{"kind"}, nil)
	sweptDesc  = prometheus.NewDesc("iapi_sweep_last_success_timestamp_seconds", "When a sweep of any worker last compared everything; 0: never.", nil, nil)
	countDesc  = prometheus.NewDesc("iapi_sweep_last_vms", "VMs that the last such sweep has read.", nil, nil)
	differDesc = prometheus.NewDesc("iapi_sweep_last_differing_hosts", "Hosts whose facts differed from the inventory in it.", nil, nil)
	staleDesc  = prometheus.NewDesc("iapi_sweep_stale_instrumentations", "Instrumentations that are placed by older knowledge, since the inventory could not be asked, as counted by it.", nil, nil)
	guardDesc  = prometheus.NewDesc("iapi_sweep_guarded", "VMs or hosts that a guard keeps from being removed, or VMs from losing placements, until an operator confirms it.", []string{"guard"}, nil)
	waitedDesc = prometheus.NewDesc("iapi_queue_oldest_seconds", "How long the oldest task has waited to be taken, by queue.", []string{"queue"}, nil)
	queueDesc  = prometheus.NewDesc("iapi_queue_tasks", "Tasks by queue and state.", []string{"queue", "state"}, nil)
)

func (c backlogCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- dirtyDesc
	ch <- oldestDesc
	for _, d := range []*prometheus.Desc{queueDesc, waitedDesc, sweptDesc, countDesc, differDesc, staleDesc, guardDesc} {
		ch <- d
	}
}

func (c backlogCollector) Collect(ch chan<- prometheus.Metric) {
	used, err := c.inspector.Queues()
	for _, queue := range []string{queueUrgent, queueTasks, queueSweep} {
		if err != nil {
			break
		}
		info := &asynq.QueueInfo{} // nothing was ever put into it
		if slices.Contains(used, queue) {
			if info, err = c.inspector.GetQueueInfo(queue); err != nil {
				break
			}
		}
		ch <- prometheus.MustNewConstMetric(waitedDesc, prometheus.GaugeValue, info.Latency.Seconds(), queue)
		for state, n := range map[string]int{
			"pending": info.Pending, "active": info.Active, "scheduled": info.Scheduled, "retry": info.Retry, "archived": info.Archived,
		} {
			ch <- prometheus.MustNewConstMetric(queueDesc, prometheus.GaugeValue, float64(n), queue, state)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if e, err := c.store.LastSweep(ctx); err == nil {
		var at float64
		if !e.At.IsZero() {
			at = float64(e.At.UnixMilli()) / 1000
		}
		for d, v := range map[*prometheus.Desc]float64{
			sweptDesc: at, countDesc: float64(e.VMs), differDesc: float64(e.Differing), staleDesc: float64(e.Stale),
		} {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
		}
	}
	if guards, err := c.store.Guards(ctx); err == nil {
		held := map[string]int{GuardVMs: 0, GuardHosts: 0}
		for _, g := range guards {
			held[g.ID] = g.WouldRemove
		}
		for guard, n := range held {
			ch <- prometheus.MustNewConstMetric(guardDesc, prometheus.GaugeValue, float64(n), guard)
		}
	}
	b, err := c.store.Backlog(ctx)
	if err != nil {
		return
	}
	for _, k := range []struct {
		kind   string
		n      int
		oldest time.Duration
	}{
		{"hosts", b.DirtyHosts, b.OldestHost}, {"vms", b.DirtyVMs, b.OldestVM},
		{"unevaluated", b.Unevaluated, b.OldestUnevaluated}, {"judge", b.Judge, b.OldestJudged},
	} {
		ch <- prometheus.MustNewConstMetric(dirtyDesc, prometheus.GaugeValue, float64(k.n), k.kind)
		ch <- prometheus.MustNewConstMetric(oldestDesc, prometheus.GaugeValue, k.oldest.Seconds(), k.kind)
	}
}
