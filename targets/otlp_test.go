package targets

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	colpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"iapi/measure"
)

// collector is an OTLP receiver for both transports that keeps every data point, and is strict about their times.
type collector struct {
	colpb.UnimplementedMetricsServiceServer
	t       *testing.T
	mu      sync.Mutex
	answers []error // to the next requests
	partial *colpb.ExportMetricsPartialSuccess
	metrics []*metricspb.Metric
	res     []map[string]string
	header  string
}

func (c *collector) take(req *colpb.ExportMetricsServiceRequest) (*colpb.ExportMetricsServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.answers) > 0 {
		err := c.answers[0]
		if c.answers = c.answers[1:]; err != nil {
			return nil, err
		}
	}
	for _, rm := range req.ResourceMetrics {
		c.res = append(c.res, attributesOf(rm.Resource.Attributes))
		for _, sm := range rm.ScopeMetrics {
			c.metrics = append(c.metrics, sm.Metrics...)
		}
	}
	resp := &colpb.ExportMetricsServiceResponse{PartialSuccess: c.partial}
	c.partial = nil
	return resp, nil
}

func (c *collector) Export(ctx context.Context, req *colpb.ExportMetricsServiceRequest) (*colpb.ExportMetricsServiceResponse, error) {
	if md, ok := metadata.FromIncomingContext(ctx); ok && len(md.Get("x-key")) > 0 {
		c.mu.Lock()
		c.header = md.Get("x-key")[0]
		c.mu.Unlock()
	}
	return c.take(req)
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	zip, err := gzip.NewReader(r.Body)
	if err != nil || r.URL.Path != "/v1/metrics" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "not OTLP", http.StatusNotFound)
		return
	}
	body, err := io.ReadAll(zip)
	var req colpb.ExportMetricsServiceRequest
	if err != nil || proto.Unmarshal(body, &req) != nil {
		http.Error(w, "not protobuf", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	c.header = r.Header.Get("X-Key")
	c.mu.Unlock()
	resp, err := c.take(&req)
	if err != nil {
		http.Error(w, err.Error(), map[codes.Code]int{codes.InvalidArgument: 400, codes.Unavailable: 503}[status.Code(err)])
		return
	}
	raw, err := proto.Marshal(resp)
	if err == nil {
		_, err = w.Write(raw)
	}
	if err != nil {
		c.t.Error(err)
	}
}

func attributesOf(all []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, kv := range all {
		if v, ok := kv.Value.Value.(*commonpb.AnyValue_BoolValue); ok && v.BoolValue {
			m[kv.Key] = "true"
			continue
		}
		m[kv.Key] = kv.Value.GetStringValue()
	}
	return m
}

// collectors runs a test against both transports.
func collectors(t *testing.T, test func(t *testing.T, c *collector, target measure.Target)) {
	headers := map[string]string{"X-Key": "v"}
	t.Run("http", func(t *testing.T) {
		c := &collector{t: t}
		web := httptest.NewServer(c)
		defer web.Close()
		test(t, c, measure.Target{Kind: measure.OTLP, Address: web.URL, Headers: headers})
	})
	t.Run("grpc", func(t *testing.T) {
		c := &collector{t: t}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		server := grpc.NewServer()
		colpb.RegisterMetricsServiceServer(server, c)
		ended := make(chan error, 1)
		go func() { ended <- server.Serve(l) }()
		defer func() {
			server.Stop()
			require.NoError(t, <-ended)
		}()
		test(t, c, measure.Target{Kind: measure.OTLP, Address: "grpc://" + l.Addr().String(), Headers: headers})
	})
}

// sums are the values of a sum, in the order in which they came.
func (c *collector) sums() (all []*metricspb.NumberDataPoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.metrics {
		all = append(all, m.GetSum().GetDataPoints()...)
	}
	return all
}

func TestSumsAreCumulativeAlsoThroughRetriesSplitsAndTheSpool(t *testing.T) {
	collectors(t, func(t *testing.T, c *collector, target measure.Target) {
		away := status.Error(codes.Unavailable, "away")
		c.answers = []error{away, nil, status.Error(codes.InvalidArgument, "too much at once"), nil, away, away, away, away, away, away, nil}
		o := quick()
		o.Dir, o.SpoolAfter, o.BatchSize = t.TempDir(), time.Millisecond, 5
		q, err := Open(target, o)
		require.NoError(t, err)
		awaitSpool(t, o)
		for i := range 12 {
			batch := points(i*5, i*5+5)
			for j := range batch {
				batch[j].Fields, batch[j].Value = nil, 1
			}
			q.Enqueue(batch)
		}
		s := awaitStats(t, q, "all are sent", func(s Stats) bool { return s.Sent == 60 })
		require.Zero(t, s.Dropped)
		closeQueue(t, q)
		got := c.sums()
		require.Len(t, got, 60)
		for i, p := range got {
			require.EqualValues(t, i+1, p.GetAsInt(), "each point is added once, in order")
			require.EqualValues(t, begin.UnixNano(), p.StartTimeUnixNano)
			require.EqualValues(t, begin.Add(time.Duration(i+1)*time.Second).UnixNano(), p.TimeUnixNano)
		}
		require.Equal(t, map[string]string{"iapi.instrumentation": "inst-1", "iapi.instance": vmID.String()}, attributesOf(got[0].Attributes))
		require.Equal(t, "v", c.header)
		sum := c.metrics[0].GetSum()
		require.True(t, sum.IsMonotonic)
		require.Equal(t, metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE, sum.AggregationTemporality)
	})
}

func TestResourcesTellTheHostToOperatorsAlone(t *testing.T) {
	collectors(t, func(t *testing.T, c *collector, target measure.Target) {
		q, err := Open(target, quick())
		require.NoError(t, err)
		mine, theirs := point(0), point(0)
		mine.Owner, mine.Gauge, mine.Value = uuid.Nil, true, 2.5
		mine.Other = true
		q.Enqueue([]measure.Point{mine, theirs})
		awaitStats(t, q, "both are sent", func(s Stats) bool { return s.Sent == 2 })
		closeQueue(t, q)
		c.mu.Lock()
		defer c.mu.Unlock()
		require.Equal(t, []map[string]string{
			{"service.name": "iapi-agent", "service.version": "1.2.3", "os.type": osType(), "host.name": hostName, "host.id": hostID.String()},
			{"service.name": "iapi-agent", "service.version": "1.2.3", "os.type": osType()},
		}, c.res)
		g := c.metrics[0].GetGauge().DataPoints[0]
		require.EqualValues(t, 2.5, g.GetAsDouble())
		require.EqualValues(t, begin.Add(time.Second).UnixNano(), g.TimeUnixNano)
		require.Equal(t, map[string]string{
			"iapi.instrumentation": "inst-1", "iapi.instance": vmID.String(), "host.name": hostName, "otel.metric.overflow": "true",
		}, attributesOf(g.Attributes))
	})
}

func TestAPartialSuccessIsCountedAndNeverRepeated(t *testing.T) {
	collectors(t, func(t *testing.T, c *collector, target measure.Target) {
		c.partial = &colpb.ExportMetricsPartialSuccess{RejectedDataPoints: 2, ErrorMessage: "out of order"}
		q, err := Open(target, quick())
		require.NoError(t, err)
		q.Enqueue(points(0, 5))
		s := awaitStats(t, q, "they are settled", func(s Stats) bool { return s.Queued == 0 && s.Connected })
		require.EqualValues(t, 3, s.Sent)
		require.Equal(t, map[string]int64{ReasonRefused: 2}, s.DroppedFor)
		require.Equal(t, "out of order", s.LastRefusal)
		closeQueue(t, q)
		require.Len(t, c.sums(), 5)
	})
}

func TestWhatFollowsFromAGRPCStatus(t *testing.T) {
	patience, err := status.New(codes.ResourceExhausted, "slow").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(7 * time.Second)})
	require.NoError(t, err)
	for _, c := range []struct {
		err   error
		kind  failureKind
		after time.Duration
	}{
		{status.Error(codes.Unavailable, ""), retryLater, 0},
		{status.Error(codes.DeadlineExceeded, ""), retryLater, 0},
		{status.Error(codes.InvalidArgument, ""), refused, 0},
		{status.Error(codes.ResourceExhausted, "message too large"), refused, 0},
		{patience.Err(), retryLater, 7 * time.Second},
		{status.Error(codes.Unauthenticated, ""), misconfigured, 0},
		{errors.New("other"), retryLater, 0},
	} {
		f := grpcFailure(c.err)
		require.Equal(t, c.kind, f.kind, c.err)
		require.Equal(t, c.after, f.after)
	}
}

func TestASeriesThatPausesOrGoesBackBeginsAnew(t *testing.T) {
	a := newAccumulator(quick().withDefaults())
	value := func(i int) (float64, time.Time) {
		it, err := a.prepare(measure.Point{Owner: tenantID, VM: vmID, Start: begin.Add(time.Duration(i) * time.Second), Interval: time.Second, Value: 1})
		require.NoError(t, err)
		p := it.otlp[0].metric.GetSum().DataPoints[0]
		return float64(p.GetAsInt()), time.Unix(0, int64(p.StartTimeUnixNano)).UTC()
	}
	for _, c := range []struct{ at, value, start int }{{0, 1, 0}, {1, 2, 0}, {200, 3, 0}, {600, 1, 600}, {601, 2, 600}, {50, 1, 50}} {
		v, start := value(c.at)
		require.EqualValues(t, c.value, v, c)
		require.Equal(t, begin.Add(time.Duration(c.start)*time.Second), start, c)
	}
}

func TestSeriesAreBounded(t *testing.T) {
	a := newAccumulator(quick().withDefaults())
	for i := range maxSeries + 10 {
		p := point(i)
		p.VM = uuid.New()
		_, err := a.prepare(p)
		require.NoError(t, err)
		require.LessOrEqual(t, len(a.series), maxSeries)
	}
}

func TestDeltasAreSentAsTheyAre(t *testing.T) {
	o := quick().withDefaults()
	o.OTLPDelta = true
	a := newAccumulator(o)
	for i := range 3 {
		it, err := a.prepare(point(i))
		require.NoError(t, err)
		sum := it.otlp[0].metric.GetSum()
		require.Equal(t, metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_DELTA, sum.AggregationTemporality)
		require.EqualValues(t, i, sum.DataPoints[0].GetAsInt())
		require.EqualValues(t, point(i).Start.UnixNano(), sum.DataPoints[0].StartTimeUnixNano)
	}
	require.Empty(t, a.series)
}

func TestDistributionsBecomeCumulativeExponentialHistograms(t *testing.T) {
	a := newAccumulator(quick().withDefaults())
	p := point(0)
	p.Distribution = &measure.Distribution{Field: "latency", Unit: "ns", Buckets: []measure.Bucket{
		{Low: 0, High: 999, Count: 3}, {Low: 1000, High: 1099, Count: 5}, {Low: 990_000_000_000, High: 999_999_999_999, Count: 2},
	}}
	var m *metricspb.Metric
	for range 2 {
		it, err := a.prepare(p)
		require.NoError(t, err)
		require.Len(t, it.otlp, 1)
		m = it.otlp[0].metric
	}
	require.Equal(t, "disk.physio_ops.latency", m.Name)
	require.Equal(t, "s", m.Unit)
	h := m.GetExponentialHistogram().DataPoints[0]
	require.EqualValues(t, 20, h.Count)
	require.EqualValues(t, 6, h.ZeroCount)
	require.InDelta(t, 1e-6, h.ZeroThreshold, 1e-12)
	require.EqualValues(t, 2, h.Scale, "1 µs to 1,000 s")
	require.LessOrEqual(t, len(h.Positive.BucketCounts), maxExpBuckets)
	require.Nil(t, h.Sum)
	within(t, h, 1000e-9, 1100e-9, 10)
	within(t, h, 990, 1000, 4)
}

// within makes sure that so many values lie in buckets that hold the geometric middle of low and high.
func within(t *testing.T, h *metricspb.ExponentialHistogramDataPoint, low, high float64, want uint64) {
	t.Helper()
	base := math.Pow(2, math.Pow(2, -float64(h.Scale)))
	mid := math.Sqrt(low * high)
	for i, n := range h.Positive.BucketCounts {
		index := float64(h.Positive.Offset) + float64(i)
		if from, to := math.Pow(base, index), math.Pow(base, index+1); from < mid && mid <= to {
			require.Equal(t, want, n)
			return
		}
	}
	require.Fail(t, "no bucket holds the value")
}

func FuzzExponentialHistogramsKeepEveryCount(f *testing.F) {
	f.Add(int64(0), int64(999), int64(5), int64(1_000_000), int64(7), 1e-9)
	f.Add(int64(-50), int64(9), int64(5), int64(math.MaxInt64), int64(1), 1.0)
	f.Fuzz(func(t *testing.T, low, width, n, far, m int64, factor float64) {
		if width < 0 || width > 1<<40 || low > math.MaxInt64-width || n < 0 || m < 0 || n > 1<<40 || m > 1<<40 || factor < 1e-9 || factor > 1 || low == math.MinInt64 || far == math.MinInt64 {
			return
		}
		h := exponential(map[measure.Bucket]int64{{Low: low, High: low + width}: n, {Low: far, High: far}: m}, factor)
		sum := h.ZeroCount
		for _, side := range []*metricspb.ExponentialHistogramDataPoint_Buckets{h.Positive, h.Negative} {
			require.LessOrEqual(t, len(side.GetBucketCounts()), maxExpBuckets)
			for _, c := range side.GetBucketCounts() {
				sum += c
			}
		}
		require.Equal(t, h.Count, sum)
	})
}
