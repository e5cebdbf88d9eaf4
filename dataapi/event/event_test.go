package event_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/dataapi/event"
	"iapi/measure"
)

func TestAnEventOfRFD17IsRead(t *testing.T) {
	e, err := event.Decode([]byte(`{"stream": "disk", "timestamp": "2013-12-11T00:57:04Z", "count": "52", "zone": "z", "pid": 7, "ok": true, "more": {"a": [1, 2]}}`))
	require.NoError(t, err)
	require.Equal(t, event.Event{
		Stream: "disk", Timestamp: time.Date(2013, 12, 11, 0, 57, 4, 0, time.UTC), Count: "52",
		Fields: map[string]string{"zone": "z", "pid": "7", "ok": "true", "more": `{"a":[1,2]}`},
	}, e)
}

func TestIntegersAboveTwoToThe53PassUnharmed(t *testing.T) {
	e, err := event.Decode([]byte(`{"timestamp":"2020-01-01T00:00:00Z","count":9007199254740993,"dist":{"size":[[[9007199254740993,9223372036854775807],9007199254740995]]}}`))
	require.NoError(t, err)
	n, ok := e.Count.Int64()
	require.True(t, ok)
	require.EqualValues(t, 9007199254740993, n)
	again, err := event.Decode(e.Append(nil))
	require.NoError(t, err)
	require.Equal(t, e, again)
	require.Equal(t, []measure.Bucket{{Low: 9007199254740993, High: math.MaxInt64, Count: 9007199254740995}}, again.Dist["size"])
	big, err := event.Decode([]byte(`{"timestamp":"2020-01-01T00:00:00Z","count":"340282366920938463463374607431768211456"}`))
	require.NoError(t, err)
	whole, ok := big.Count.Big()
	require.True(t, ok)
	require.Equal(t, "340282366920938463463374607431768211456", whole.String())
}

func TestBadEventsNameTheMember(t *testing.T) {
	const ok = `"timestamp":"2020-01-01T00:00:00Z","count":1`
	for line, want := range map[string]string{
		``:                                     "not a JSON object",
		`null`:                                 "not a JSON object",
		`[1]`:                                  "not a JSON object",
		`{"count":1}`:                          "timestamp: is missing",
		`{"timestamp":"2020-01-01T00:00:00Z"}`: "count: is missing",
		`{"timestamp":"2013-12-11T00:57:04","count":1}`:                 "timestamp: is not a time",
		`{"timestamp":"0001-01-01T00:00:00Z","count":1}`:                "timestamp: is not between",
		`{"timestamp":12,"count":1}`:                                    "timestamp: is not a string",
		`{"timestamp":"2020-01-01T00:00:00Z","count":"x"}`:              "count: is not a number",
		`{"timestamp":"2020-01-01T00:00:00Z","count":" 1"}`:             "count: is not a number",
		`{"timestamp":"2020-01-01T00:00:00Z","count":"NaN"}`:            "count: is not a number",
		`{"timestamp":"2020-01-01T00:00:00Z","count":1e999}`:            "count: is out of range",
		`{"timestamp":"2020-01-01T00:00:00Z","count":true}`:             "count: is not a number",
		`{` + ok + `,"stream":"a/b"}`:                                   "stream: is not a stream's name",
		`{` + ok + `,"stream":".."}`:                                    "stream: is not a stream's name",
		`{` + ok + `,"vm":"urn:uuid:5f0a"}`:                             "vm: is not a UUID",
		`{` + ok + `,"interval":-1}`:                                    "interval: must be",
		`{` + ok + `,"partial":"yes"}`:                                  "partial: is neither",
		`{` + ok + `,"dist":[]}`:                                        "dist: is not an object",
		`{` + ok + `,"dist":{"l":[[[2,1],1]]}}`:                         "dist: a bucket's bounds",
		`{` + ok + `,"dist":{"l":[[[1,2]]]}}`:                           "dist: a bucket is not",
		`{` + ok + `,"dist":{"l":[[[1.5,2],1]]}}`:                       "dist: a bucket is not",
		`{` + ok + `,"":"x"}`:                                           "a field's name",
		`{` + ok + `,"x":"` + strings.Repeat("y", event.MaxLine) + `"}`: "more than",
	} {
		_, err := event.Decode([]byte(line))
		require.ErrorContains(t, err, want, line[:min(len(line), 100)])
	}
}

func TestFieldsWithReservedNamesKeepTheirNames(t *testing.T) {
	e := event.Event{Timestamp: time.Unix(0, 0).UTC(), Count: "1", Fields: map[string]string{
		"count": "a", "count_": "b", "count__": "c", "host": "d", "vm_": "e", "counts": "f",
	}}
	got, err := event.Decode(e.Append(nil))
	require.NoError(t, err)
	require.Equal(t, e, got)
}

func TestEveryMemberSurvives(t *testing.T) {
	e := event.Event{
		Stream: "s", Timestamp: time.Date(2024, 2, 29, 23, 59, 59, 123456789, time.UTC), Interval: 1500 * time.Millisecond, Count: "-1.5e3",
		Instrumentation: "i", Metric: "disk.physio_ops", VM: uuid.New(), Host: "h\"\\\n", Gauge: true, Other: true, Partial: true, Gap: true,
		Fields: map[string]string{"execname": "naïve \u2028\x00<>"}, Dist: map[string][]measure.Bucket{"latency": {{Low: -5, High: -1, Count: 2}, {Low: 0, High: 9, Count: 1}}},
	}
	got, err := event.Decode(e.Append(nil))
	require.NoError(t, err)
	require.Equal(t, e, got)
}

func TestFloatsBecomeJSONNumbers(t *testing.T) {
	for _, f := range []float64{0, 1, -1, 0.1, 1e-300, 1e300, 123456789012345680000, math.MaxFloat64, math.SmallestNonzeroFloat64} {
		n, err := event.Float(f)
		require.NoError(t, err)
		got, err := event.Decode(event.Event{Timestamp: time.Unix(0, 0), Count: n}.Append(nil))
		require.NoError(t, err)
		back, err := got.Count.Float64()
		require.NoError(t, err)
		require.Equal(t, f, back)
	}
	_, err := event.Float(math.NaN())
	require.Error(t, err)
	_, err = event.Float(math.Inf(1))
	require.Error(t, err)
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"stream":"a","timestamp":"2020-01-01T00:00:00.5+01:00","count":"52","interval":0.1,"x":[1],"count_":"y","dist":{"l":[[[1,2],3]]}}`))
	f.Add([]byte(`{"timestamp":"2020-01-01T00:00:00Z","count":1e3,"vm":"5f0a4c3e-7a0e-4a52-9f0e-0a4d8d2b1c11","host":"\ud800","gap":true}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := event.Decode(line)
		if err != nil {
			return
		}
		canonical := e.Append(nil)
		if len(canonical) > event.MaxLine {
			return // escapes can make it longer than it came
		}
		again, err := event.Decode(canonical)
		require.NoError(t, err)
		require.Equal(t, e, again)
		require.Equal(t, canonical, again.Append(nil))
	})
}
