package targets

import (
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/dataapi"
	"iapi/measure"
)

func BenchmarkEnqueue(b *testing.B) {
	w := &fakeWire{answer: func(string, []item) (result, error) { return result{}, nil }}
	q := openFake(measure.DataAPI, quick(), w)
	one := points(0, 10)
	b.ReportAllocs()
	for b.Loop() {
		q.Enqueue(one)
	}
	require.NoError(b, q.Close(b.Context()))
}

// BenchmarkDataAPIOverHTTP sends points to a real receiver in the same process.
func BenchmarkDataAPIOverHTTP(b *testing.B) {
	s := dataapi.New(dataapi.Options{})
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	q, err := Open(measure.Target{Kind: measure.DataAPI, Address: web.URL}, quick())
	require.NoError(b, err)
	batch := points(0, 500)
	var sent int64
	for b.Loop() {
		q.Enqueue(batch)
		sent += int64(len(batch))
		for q.Stats().Sent < sent-2000 {
			time.Sleep(50 * time.Microsecond)
		}
	}
	b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "points/s")
	require.NoError(b, q.Close(b.Context()))
}

func BenchmarkSpool(b *testing.B) {
	o := quick().withDefaults()
	s, err := openSpool(b.TempDir(), spoolLimits{bytes: 1 << 30, segment: o.segmentBytes, age: time.Hour, now: time.Now, freeFraction: o.free, lost: func(string, int64, []measure.Point) {}})
	require.NoError(b, err)
	batch := points(0, 500)
	for b.Loop() {
		require.NoError(b, s.append("k", batch))
		_, _, ok := s.take()
		require.True(b, ok)
		require.NoError(b, s.ack())
	}
	b.ReportMetric(float64(500*b.N)/b.Elapsed().Seconds(), "points/s")
	require.NoError(b, s.close())
}
