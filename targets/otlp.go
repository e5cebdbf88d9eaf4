package targets

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"

	colpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"iapi/measure"
)

// otlp sends metrics over HTTP (protobuf, gzip) or gRPC.
type otlp struct {
	*accumulator
	opts   Options
	export func(ctx context.Context, req *colpb.ExportMetricsServiceRequest) (*colpb.ExportMetricsServiceResponse, error)
	shut   func()
}

// openOTLP takes http and https URLs, of which an empty path means /v1/metrics, and grpc and grpcs ones.
func openOTLP(t measure.Target, o Options) (wire, error) {
	secure := strings.HasPrefix(t.Address, "grpcs://")
	overGRPC := secure || strings.HasPrefix(t.Address, "grpc://")
	base, err := webURL(t.Address, "http", "https", "grpc", "grpcs")
	if err != nil {
		return nil, err
	}
	header, err := headersOf(t, base)
	if err != nil {
		return nil, err
	}
	w := &otlp{accumulator: newAccumulator(o), opts: o}
	if !overGRPC {
		w.overHTTP(base, header)
		return w, nil
	}
	if err := w.overGRPC(base, header, secure); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *otlp) overHTTP(base *url.URL, header http.Header) {
	if base.Path == "" || base.Path == "/" {
		base.Path = "/v1/metrics"
	}
	header.Set("Content-Type", "application/x-protobuf")
	header.Set("Content-Encoding", "gzip")
	w.shut = w.opts.HTTPClient.CloseIdleConnections
	w.export = func(ctx context.Context, req *colpb.ExportMetricsServiceRequest) (*colpb.ExportMetricsServiceResponse, error) {
		raw, err := proto.Marshal(req)
		if err != nil {
			return nil, fmt.Errorf("encode the metrics: %w", err)
		}
		var body bytes.Buffer
		zip := gzip.NewWriter(&body)
		if _, err := zip.Write(raw); err != nil {
			return nil, fmt.Errorf("compress the metrics: %w", err)
		}
		if err := zip.Close(); err != nil {
			return nil, fmt.Errorf("compress the metrics: %w", err)
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, base.String(), &body)
		if err != nil {
			return nil, fmt.Errorf("make the request: %w", err)
		}
		r.Header = header.Clone()
		answer, err := roundTrip(w.opts, r)
		if err != nil {
			return nil, err
		}
		var resp colpb.ExportMetricsServiceResponse
		if proto.Unmarshal(answer, &resp) != nil {
			return &colpb.ExportMetricsServiceResponse{}, nil // taken, with an answer that says nothing
		}
		return &resp, nil
	}
}

func (w *otlp) overGRPC(base *url.URL, header http.Header, secure bool) error {
	creds := insecure.NewCredentials()
	if secure {
		creds = credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12})
	}
	address := base.Host
	if base.Port() == "" {
		address = net.JoinHostPort(base.Hostname(), "4317")
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds), grpc.WithUserAgent("iapi-agent"),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return w.opts.Dial(ctx, "tcp", addr) }))
	if err != nil {
		return errors.New("address: is not usable for gRPC")
	}
	var pairs []string
	for name, values := range header {
		if name = strings.ToLower(name); name != "user-agent" {
			pairs = append(pairs, name, values[0])
		}
	}
	client := colpb.NewMetricsServiceClient(conn)
	w.shut = func() { _ = conn.Close() } // every batch was settled or comes again
	w.export = func(ctx context.Context, req *colpb.ExportMetricsServiceRequest) (*colpb.ExportMetricsServiceResponse, error) {
		resp, err := client.Export(metadata.AppendToOutgoingContext(ctx, pairs...), req)
		if err != nil {
			// The channel's own back-off would add to the queue's.
			conn.ResetConnectBackoff()
			return nil, grpcFailure(err)
		}
		return resp, nil
	}
	return nil
}

func grpcFailure(err error) *failure {
	st := status.Convert(err)
	f := &failure{text: fmt.Sprintf("the target answered %s: %s", st.Code(), st.Message())}
	switch st.Code() {
	case codes.InvalidArgument:
		f.kind = refused
	case codes.ResourceExhausted:
		// Without the promise that it passes, it is about the size of the message.
		f.kind = refused
	case codes.Unauthenticated, codes.PermissionDenied, codes.Unimplemented, codes.NotFound:
		f.kind = misconfigured
	default:
		f.kind = retryLater
	}
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			f.kind = retryLater
			f.after = min(maxRetryAfter, max(0, info.GetRetryDelay().AsDuration()))
		}
	}
	return f
}

func (w *otlp) gap(lostPoints) (item, bool) { return item{}, false }

func (w *otlp) send(ctx context.Context, _ string, items []item) (result, error) {
	resp, err := w.export(ctx, w.request(items))
	if err != nil {
		return result{}, err
	}
	r := result{done: len(items)}
	if p := resp.GetPartialSuccess(); p != nil {
		r.refused, r.note = int(p.GetRejectedDataPoints()), p.GetErrorMessage()
	}
	return r, nil
}

func (w *otlp) close() { w.shut() }

// request groups data points by who may see them and by metric.
func (w *otlp) request(items []item) *colpb.ExportMetricsServiceRequest {
	type key struct {
		tenant     bool
		name, kind string
	}
	scopes := map[bool]*metricspb.ScopeMetrics{}
	metrics := map[key]*metricspb.Metric{}
	req := &colpb.ExportMetricsServiceRequest{}
	for _, it := range items {
		for _, d := range it.otlp {
			scope := scopes[d.tenant]
			if scope == nil {
				scope = &metricspb.ScopeMetrics{Scope: &commonpb.InstrumentationScope{Name: "iapi", Version: w.opts.Version}}
				scopes[d.tenant] = scope
				req.ResourceMetrics = append(req.ResourceMetrics, &metricspb.ResourceMetrics{
					Resource: w.resource(d.tenant), ScopeMetrics: []*metricspb.ScopeMetrics{scope},
				})
			}
			k := key{d.tenant, d.metric.Name, fmt.Sprintf("%T", d.metric.Data)}
			m := metrics[k]
			if m == nil {
				m = emptyLike(d.metric)
				metrics[k] = m
				scope.Metrics = append(scope.Metrics, m)
			}
			appendData(m, d.metric)
		}
	}
	return req
}

func emptyLike(m *metricspb.Metric) *metricspb.Metric {
	n := &metricspb.Metric{Name: m.Name, Unit: m.Unit}
	switch d := m.Data.(type) {
	case *metricspb.Metric_Gauge:
		n.Data = &metricspb.Metric_Gauge{Gauge: &metricspb.Gauge{}}
	case *metricspb.Metric_Sum:
		n.Data = &metricspb.Metric_Sum{Sum: &metricspb.Sum{AggregationTemporality: d.Sum.AggregationTemporality, IsMonotonic: d.Sum.IsMonotonic}}
	case *metricspb.Metric_ExponentialHistogram:
		n.Data = &metricspb.Metric_ExponentialHistogram{ExponentialHistogram: &metricspb.ExponentialHistogram{
			AggregationTemporality: d.ExponentialHistogram.AggregationTemporality,
		}}
	}
	return n
}

func appendData(to, from *metricspb.Metric) {
	switch d := from.Data.(type) {
	case *metricspb.Metric_Gauge:
		g := to.GetGauge()
		g.DataPoints = append(g.DataPoints, d.Gauge.DataPoints...)
	case *metricspb.Metric_Sum:
		s := to.GetSum()
		s.DataPoints = append(s.DataPoints, d.Sum.DataPoints...)
	case *metricspb.Metric_ExponentialHistogram:
		h := to.GetExponentialHistogram()
		h.DataPoints = append(h.DataPoints, d.ExponentialHistogram.DataPoints...)
	}
}

// resource says who measured: to tenants not which host.
func (w *otlp) resource(tenant bool) *resourcepb.Resource {
	r := &resourcepb.Resource{Attributes: []*commonpb.KeyValue{
		attribute("service.name", "iapi-agent"), attribute("os.type", osType()),
	}}
	if w.opts.Version != "" {
		r.Attributes = append(r.Attributes, attribute("service.version", w.opts.Version))
	}
	if !tenant {
		if w.opts.Hostname != "" {
			r.Attributes = append(r.Attributes, attribute("host.name", w.opts.Hostname))
		}
		if from, err := w.opts.originOf(measure.Point{}); err == nil && from.hostID != "" {
			r.Attributes = append(r.Attributes, attribute("host.id", from.hostID))
		}
	}
	return r
}

// osType is the name of the operating system in OpenTelemetry's words.
func osType() string {
	if runtime.GOOS == "illumos" {
		return "solaris"
	}
	return runtime.GOOS
}

func attribute(key, value string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: strings.ToValidUTF8(value, "\uFFFD")}}}
}
