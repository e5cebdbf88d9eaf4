package targets

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"

	"iapi/measure"
)

// accumulator makes OTLP data of points: a snapshot is a gauge, an activity a monotonic sum, a distribution an
// exponential histogram named <metric>.<field>. Sums and histograms are cumulative from the first point of their series;
// a series that pauses for longer than idleAfter begins anew, with a new start time, and so does every series in a new
// life of the agent.
type accumulator struct {
	opts   Options
	series map[string]*series
}

type series struct {
	start, last time.Time
	sum         float64
	buckets     map[measure.Bucket]int64 // by bounds, Count zero in the key
}

const (
	idleAfter = 5 * time.Minute // or ten intervals
	maxSeries = 20_000
)

func newAccumulator(o Options) *accumulator {
	return &accumulator{opts: o, series: map[string]*series{}}
}

func (a *accumulator) prepare(p measure.Point) (item, error) {
	from, err := a.opts.originOf(p)
	if err != nil {
		return item{}, err
	}
	attributes := a.attributes(p, from)
	end := p.Start.Add(p.Interval)
	var it item
	add := func(m *metricspb.Metric) { it.otlp = append(it.otlp, datum{p.Owner != uuid.Nil, m}) }
	name := strings.ToValidUTF8(p.Metric, "\uFFFD")
	if p.Gauge {
		add(gauge(name, "", p.Value, end, attributes))
		if d := p.Distribution; d != nil {
			unit, factor := unitOf(d.Unit)
			for _, q := range quantiles(d) {
				add(gauge(name+"."+d.Field+"."+q.name, unit, float64(q.value)*factor, end, attributes))
			}
		}
		return it, nil
	}

	s := &series{start: p.Start}
	temporality := metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_DELTA
	if !a.opts.OTLPDelta {
		s = a.seriesOf(p)
		temporality = metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE
	}
	s.sum += p.Value
	s.last = end
	if d := p.Distribution; d != nil {
		s.add(d)
		unit, factor := unitOf(d.Unit)
		point := exponential(s.buckets, factor)
		point.Attributes = attributes
		point.StartTimeUnixNano, point.TimeUnixNano = uint64(s.start.UnixNano()), uint64(end.UnixNano())
		add(&metricspb.Metric{Name: name + "." + d.Field, Unit: unit, Data: &metricspb.Metric_ExponentialHistogram{
			ExponentialHistogram: &metricspb.ExponentialHistogram{
				AggregationTemporality: temporality, DataPoints: []*metricspb.ExponentialHistogramDataPoint{point},
			},
		}})
		return it, nil
	}
	point := numberPoint(s.sum, end, attributes)
	point.StartTimeUnixNano = uint64(s.start.UnixNano())
	add(&metricspb.Metric{Name: name, Data: &metricspb.Metric_Sum{Sum: &metricspb.Sum{
		AggregationTemporality: temporality, IsMonotonic: true, DataPoints: []*metricspb.NumberDataPoint{point},
	}}})
	return it, nil
}

func (a *accumulator) attributes(p measure.Point, from origin) []*commonpb.KeyValue {
	all := []*commonpb.KeyValue{attribute("iapi.instrumentation", p.Instrumentation)}
	if from.vm != "" {
		all = append(all, attribute("iapi.instance", from.vm))
	}
	if from.host != "" {
		all = append(all, attribute("host.name", from.host))
	}
	if p.Other {
		return append(all, &commonpb.KeyValue{
			Key: "otel.metric.overflow", Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_BoolValue{BoolValue: true}},
		})
	}
	for _, f := range a.opts.fieldsOf(p) {
		name := strings.ToValidUTF8(f.Name, "\uFFFD")
		if strings.HasPrefix(name, "iapi.") || strings.HasPrefix(name, "otel.") || name == "host.name" {
			name = "field." + name // those are ours
		}
		all = append(all, attribute(name, f.Value))
	}
	return all
}

// seriesOf finds or begins a point's series.
func (a *accumulator) seriesOf(p measure.Point) *series {
	var key strings.Builder
	part := func(s string) {
		key.WriteString(s)
		key.WriteByte(0)
	}
	part(p.Instrumentation)
	part(p.Metric)
	part(string(p.Owner[:]) + string(p.VM[:]))
	for _, f := range p.Fields {
		part(f.Name)
		part(f.Value)
	}
	if p.Other {
		part("\x01other")
	}
	if p.Distribution != nil {
		part("\x01dist")
		part(p.Distribution.Field)
	}
	idle := max(idleAfter, 10*p.Interval)
	s, ok := a.series[key.String()]
	if ok && p.Start.Sub(s.last) <= idle && !p.Start.Before(s.start) {
		return s
	}
	if !ok && len(a.series) >= maxSeries {
		a.evict()
	}
	s = &series{start: p.Start}
	a.series[key.String()] = s
	return s
}

// evict forgets the tenth of the series that was idle for longest; should one come back, it begins anew.
func (a *accumulator) evict() {
	type aged struct {
		key  string
		last time.Time
	}
	all := make([]aged, 0, len(a.series))
	for key, s := range a.series {
		all = append(all, aged{key, s.last})
	}
	slices.SortFunc(all, func(x, y aged) int { return cmp.Or(x.last.Compare(y.last), cmp.Compare(x.key, y.key)) })
	for _, x := range all[:len(all)/10+1] {
		delete(a.series, x.key)
	}
}

func (s *series) add(d *measure.Distribution) {
	if s.buckets == nil {
		s.buckets = make(map[measure.Bucket]int64, len(d.Buckets))
	}
	for _, b := range d.Buckets {
		s.buckets[measure.Bucket{Low: b.Low, High: b.High}] += b.Count
	}
}

// unitOf is a unit in UCUM, and what to multiply values with: OpenTelemetry measures time in seconds.
func unitOf(unit string) (string, float64) {
	switch unit {
	case "ns":
		return "s", 1e-9
	case "us", "µs":
		return "s", 1e-6
	case "ms":
		return "s", 1e-3
	case "bytes", "byte":
		return "By", 1
	case "percent":
		return "%", 1
	}
	return unit, 1
}

func gauge(name, unit string, v float64, at time.Time, attributes []*commonpb.KeyValue) *metricspb.Metric {
	return &metricspb.Metric{Name: name, Unit: unit, Data: &metricspb.Metric_Gauge{Gauge: &metricspb.Gauge{
		DataPoints: []*metricspb.NumberDataPoint{numberPoint(v, at, attributes)},
	}}}
}

// numberPoint is an integer where nothing is lost by it.
func numberPoint(v float64, at time.Time, attributes []*commonpb.KeyValue) *metricspb.NumberDataPoint {
	p := &metricspb.NumberDataPoint{TimeUnixNano: uint64(at.UnixNano()), Attributes: attributes}
	if v == math.Trunc(v) && math.Abs(v) <= 1<<53 {
		p.Value = &metricspb.NumberDataPoint_AsInt{AsInt: int64(v)}
	} else {
		p.Value = &metricspb.NumberDataPoint_AsDouble{AsDouble: v}
	}
	return p
}
