package targets

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/measure"
)

func named(t *testing.T, prefix string, p measure.Point) string {
	t.Helper()
	name, _, err := newNamer(prefix, false, quick()).name(p)
	require.NoError(t, err)
	return name
}

func TestNamesSayWhatWhereAndWhich(t *testing.T) {
	p := point(0)
	require.Equal(t, "disk.physio_ops."+vmID.String()+".proc0", named(t, "", p))
	require.Equal(t, "prod.eu.disk.physio_ops."+vmID.String()+".proc0", named(t, "prod.eu.", p))
	host := "headnode7_example_com_" + shortHash(hostID.String())
	p.Owner = uuid.Nil
	require.Equal(t, "disk.physio_ops."+host+"_"+vmID.String()+".proc0", named(t, "", p))
	p.VM = uuid.Nil
	require.Equal(t, "disk.physio_ops."+host+".proc0", named(t, "", p))
	p.Other = true
	require.Equal(t, "disk.physio_ops."+host+"._other", named(t, "", p))
	p.Other = false
	p.Fields = []measure.Field{{Name: "f", Value: "a.b c/é"}, {Name: "g", Value: "_other"}, {Name: "h", Value: ""}}
	require.Regexp(t, regexp.MustCompile(`^disk\.physio_ops\.`+host+`\.a_b_c____[0-9a-f]{12}\._other_[0-9a-f]{12}\._[0-9a-f]{12}$`), named(t, "", p))
}

func TestTwoSourcesNeverShareAPath(t *testing.T) {
	sources := map[string]string{}
	for _, hostname := range []string{"a", "a_b", "a.b", "a-b", "", "a_" + vmID.String()} {
		for _, host := range []uuid.UUID{hostID, tenantID} {
			for _, vm := range []uuid.UUID{uuid.Nil, vmID, tenantID} {
				o := quick()
				o.Hostname, o.HostID = hostname, host
				from, err := o.withDefaults().originOf(measure.Point{VM: vm})
				require.NoError(t, err)
				who := host.String() + "|" + vm.String() // a host that is renamed is still the same source
				s := sourceSegment(from)
				if other, ok := sources[s]; ok {
					require.Equal(t, who, other, "both are %s", s)
				}
				sources[s] = who
			}
		}
	}
}

func FuzzSegmentsAreInjective(f *testing.F) {
	f.Add("a b", "a_b")
	f.Add("a b", pathSegment("a b"))
	f.Add("", "_other")
	f.Add(strings.Repeat("x", 200), strings.Repeat("x", 201))
	f.Add("é", "\xc3\xa9\x00")
	form := regexp.MustCompile(`^[A-Za-z0-9_-]{1,200}$`)
	tagForm := regexp.MustCompile(`^[A-Za-z0-9_.-]{1,200}$`)
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, pair := range [][2]string{{a, b}, {a, pathSegment(a)}, {a, pathSegment(b)}, {a, clean(a, pathByte)}} {
			require.Equal(t, pair[0] == pair[1], pathSegment(pair[0]) == pathSegment(pair[1]), "%q %q", pair[0], pair[1])
			require.Equal(t, pair[0] == pair[1], tagValue(pair[0]) == tagValue(pair[1]), "%q %q", pair[0], pair[1])
		}
		require.Regexp(t, form, pathSegment(a))
		require.Regexp(t, tagForm, tagValue(a))
		require.NotEqual(t, otherSegment, pathSegment(a))
	})
}

func TestQuantilesAreTheUpperEndsOfTheirBuckets(t *testing.T) {
	d := &measure.Distribution{Buckets: []measure.Bucket{{Low: 0, High: 9, Count: 50}, {Low: 10, High: 19, Count: 45}, {Low: 20, High: 29, Count: 4}, {Low: 90, High: 99, Count: 1}}}
	require.Equal(t, []quantile{{"p50", 9}, {"p95", 19}, {"p99", 29}, {"max", 99}}, quantiles(d))
	one := &measure.Distribution{Buckets: []measure.Bucket{{Low: 5, High: 5, Count: 1}}}
	require.Equal(t, []quantile{{"p50", 5}, {"p95", 5}, {"p99", 5}, {"max", 5}}, quantiles(one))
	require.Nil(t, quantiles(&measure.Distribution{}))
	huge := &measure.Distribution{Buckets: []measure.Bucket{{Low: 1, High: 1, Count: 1 << 61}, {Low: 2, High: 2, Count: 1 << 61}}}
	require.EqualValues(t, 1, quantiles(huge)[0].value)
}
