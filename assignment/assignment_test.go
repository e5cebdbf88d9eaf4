package assignment

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/measure"
	"iapi/placement"
)

var host = uuid.MustParse("00000000-0000-4000-8000-0000000000aa")

func digest(metric string) string { return "digest-of-" + metric }

func randomPlaced(r *rand.Rand, n int) []placement.Placed {
	texts := []string{"", "execname", `"quoted\`, "tab\tline\nreturn\r\x01", "ünï \u2028<&>", "bad\xffbyte"}
	text := func() string { return texts[r.IntN(len(texts))] }
	id := func() (u uuid.UUID) {
		if r.IntN(4) > 0 {
			for i := range u {
				u[i] = byte(r.Uint32())
			}
		}
		return u
	}
	out := make([]placement.Placed, n)
	for i := range out {
		rec := &instrumentation.Instrumentation{
			ID: instrumentation.ID(fmt.Sprintf("i%06d", i)), Revision: 1 + r.IntN(9), Owner: id(), Metric: text(),
			Granularity: 1 + r.IntN(60), Decompositions: []string{text(), "latency"},
			Targets: []measure.Target{
				{Kind: measure.DataAPI, Address: "http://" + text(), Transport: measure.HTTP, Headers: map[string]string{"b": text(), "a": text()}},
				{Kind: measure.Statsd, Address: "h:1"},
			},
		}
		if r.IntN(2) == 0 {
			rec.ExpiresAt = time.UnixMilli(r.Int64N(1 << 41)).In(time.FixedZone("", 3600))
		}
		if r.IntN(2) == 0 {
			rec.Predicate = measure.Predicate{Op: measure.And, Args: []measure.Predicate{
				{Op: measure.Eq, Field: "execname", Value: measure.String("mysqld")},
				{Op: measure.Gt, Field: "latency", Value: measure.Int(-1 << 63)},
			}}
		}
		out[i] = placement.Placed{Instrumentation: rec, Whole: true}
		if r.IntN(2) == 0 {
			out[i].Whole = false
			for z := range 1 + r.IntN(5) {
				vm := id()
				vm[15] = byte(z) // never the same twice
				out[i].VMs = append(out[i].VMs, placement.Zone{UUID: vm, Owner: id()})
			}
		}
	}
	return out
}

func TestEqualWishesGiveEqualBytesWhateverTheirOrder(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		placed := randomPlaced(r, r.IntN(20))
		d, over := Build(host, placed, digest)
		require.Empty(t, over)
		body, hash := Encode(d)
		r.Shuffle(len(placed), func(i, j int) { placed[i], placed[j] = placed[j], placed[i] })
		for _, p := range placed {
			r.Shuffle(len(p.VMs), func(i, j int) { p.VMs[i], p.VMs[j] = p.VMs[j], p.VMs[i] })
		}
		d, _ = Build(host, placed, digest)
		again, hashAgain := Encode(d)
		require.Equal(t, string(body), string(again))
		require.Equal(t, hash, hashAgain)
		require.Len(t, hash, 32)
	}
}

func TestDifferentWishesGiveDifferentHashes(t *testing.T) {
	placed := randomPlaced(rand.New(rand.NewPCG(1, 1)), 1)
	hashes := map[string]bool{}
	add := func() {
		d, _ := Build(host, placed, digest)
		_, hash := Encode(d)
		require.False(t, hashes[hash], "no difference in the bytes")
		hashes[hash] = true
	}
	add()
	placed[0].Instrumentation.Revision++
	add()
	placed[0].Instrumentation.ExpiresAt = time.UnixMilli(12345)
	add()
	placed[0].Instrumentation.ExpiresAt = time.UnixMilli(12346)
	add()
	placed[0].Instrumentation.Targets[1].Prefix = "x"
	add()
	placed[0].Whole = !placed[0].Whole
	add()
	placed = nil
	add()
}

func TestDecodeReadsWhatEncodeWrote(t *testing.T) {
	for seed := range uint64(100) {
		d, _ := Build(host, randomPlaced(rand.New(rand.NewPCG(seed, 2)), 5), digest)
		body, _ := Encode(d)
		require.True(t, json.Valid(body))
		items, err := Decode(body)
		require.NoError(t, err)
		again, _ := Encode(Document{Host: host, Instrumentations: items})
		require.Equal(t, string(body), string(again))
	}
}

func TestCanonicalBytesAreInTheOrderOfTheSchema(t *testing.T) {
	owner, vm := uuid.MustParse("00000000-0000-4000-8000-000000000001"), uuid.MustParse("00000000-0000-4000-8000-000000000002")
	rec := &instrumentation.Instrumentation{
		ID: "i1", Revision: 3, Owner: owner, Metric: "disk.physio_ops", Decompositions: []string{"execname", "latency"}, Granularity: 1,
		Predicate: measure.Predicate{Op: measure.Eq, Field: "execname", Value: measure.String("mysqld")},
		Targets:   []measure.Target{{Kind: measure.DataAPI, Address: "http://d/?a=1&b=2", Transport: measure.HTTP, Headers: map[string]string{"b": "2", "a": "1"}}},
		ExpiresAt: time.Date(2026, 1, 2, 3, 4, 5, 6_999_999, time.UTC),
	}
	d, _ := Build(host, []placement.Placed{{Instrumentation: rec, VMs: []placement.Zone{{UUID: vm, Owner: owner}}}}, digest)
	body, _ := Encode(d)
	require.Equal(t, `[{"id":"i1","revision":3,"owner":"00000000-0000-4000-8000-000000000001","metric":"disk.physio_ops",`+
		`"definitionDigest":"digest-of-disk.physio_ops","predicate":{"eq":["execname","mysqld"]},"decompositions":["execname","latency"],`+
		`"wholeHost":false,"vms":[{"uuid":"00000000-0000-4000-8000-000000000002","owner":"00000000-0000-4000-8000-000000000001"}],`+
		`"targets":[{"kind":"dataapi","address":"http://d/?a=1&b=2","prefix":null,"transport":"HTTP","headers":{"a":"1","b":"2"}}],`+
		`"granularitySeconds":1,"expiresAt":"2026-01-02T03:04:05.006Z"}]`, string(body))
	d, _ = Build(host, nil, digest)
	body, _ = Encode(d)
	require.Equal(t, "[]", string(body))
}

func TestTheNewestAreRefusedOverBudget(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	placed := randomPlaced(r, MaxInstrumentations+3)
	r.Shuffle(len(placed), func(i, j int) { placed[i], placed[j] = placed[j], placed[i] })
	d, over := Build(host, placed, digest)
	require.Len(t, d.Instrumentations, MaxInstrumentations)
	require.Equal(t, []instrumentation.ID{"i000256", "i000257", "i000258"}, over)

	placed = randomPlaced(r, 30)
	for i := range placed {
		placed[i].Instrumentation.Targets = []measure.Target{{Kind: measure.OTLP, Address: strings.Repeat("x", 50_000)}}
	}
	d, over = Build(host, placed, digest)
	body, _ := Encode(d)
	require.LessOrEqual(t, len(body), MaxBytes)
	require.Greater(t, len(body), MaxBytes-110_000, "as much as fits is assigned")
	require.Len(t, over, 30-len(d.Instrumentations))
	require.Equal(t, instrumentation.ID("i000029"), over[len(over)-1])
}

func TestDecodeRefusesWhatIsNotAList(t *testing.T) {
	for _, body := range []string{"", "null", "{}", "[] []", `[{"predicate":{"x":[]}}]`, `[{"vms":[{"uuid":"no"}]}]`} {
		_, err := Decode([]byte(body))
		require.Error(t, err, body)
	}
}

func TestVersionsAreOrderedByEpochThenGeneration(t *testing.T) {
	v := func(epoch string, gen int64, hash string) Version {
		return Version{Epoch: "000000000000000" + epoch, Generation: gen, Hash: hash}
	}
	require.True(t, v("2", 1, "a").Newer(v("1", 99, "b")))
	require.True(t, v("a", 1, "a").Newer(v("9", 1, "a")))
	require.True(t, v("1", 10, "a").Newer(v("1", 9, "a")))
	require.False(t, v("1", 9, "a").Newer(v("1", 9, "b")))
	require.Zero(t, v("1", 9, "a").Compare(v("1", 9, "b")))
	require.True(t, v("1", 1, "a").Newer(Version{}), "anything is newer than nothing")
}

func TestETagsRoundTripAndBadOnesAreRefused(t *testing.T) {
	v := Version{Epoch: FirstEpoch, Generation: 42, Hash: "0af9"}
	require.Equal(t, `"0000000000000001.42.0af9"`, v.ETag())
	for _, s := range []string{v.ETag(), "W/" + v.ETag()} {
		got, err := ParseETag(s)
		require.NoError(t, err)
		require.Equal(t, v, got)
	}
	for _, s := range []string{"", `"`, `""`, "*", v.String(), `"0000000000000001.42"`, `"0000000000000001.042.0af9"`, `"0000000000000001.+4.0af9"`,
		`"0000000000000001.0.0af9"`, `"000000000000000A.1.0af9"`, `"0000000000000001.1."`, `"0000000000000001.1.0a.f9"`, `"1.1.a"`,
		`"0000000000000001.99999999999999999999.a"`} {
		_, err := ParseETag(s)
		require.ErrorIs(t, err, ErrVersion, s)
	}
}

func FuzzParseETag(f *testing.F) {
	f.Add(`"0000000000000001.42.0af9"`)
	f.Add(`W/"0000000000000001.1.z"`)
	f.Add(`"..`)
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseETag(s)
		if err != nil {
			require.ErrorIs(t, err, ErrVersion)
			return
		}
		require.NoError(t, v.Validate())
		require.Equal(t, strings.TrimPrefix(s, "W/"), v.ETag())
	})
}

func FuzzDecode(f *testing.F) {
	d, _ := Build(host, randomPlaced(rand.New(rand.NewPCG(1, 1)), 2), digest)
	body, _ := Encode(d)
	f.Add(body)
	f.Add([]byte(`[{"id":"\u0000"}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		items, err := Decode(body)
		if err != nil {
			return
		}
		canonical, _ := Encode(Document{Instrumentations: items})
		require.True(t, json.Valid(canonical))
		again, err := Decode(canonical)
		if err != nil {
			return // what was read may not be what may be written: a year beyond 9999
		}
		twice, _ := Encode(Document{Instrumentations: again})
		require.Equal(t, string(canonical), string(twice))
	})
}

func BenchmarkEncode(b *testing.B) {
	d, _ := Build(host, randomPlaced(rand.New(rand.NewPCG(1, 1)), 5), digest)
	body, _ := Encode(d)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for range b.N {
		Encode(d)
	}
}
