package instrumentation_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	in "iapi/instrumentation"
	"iapi/measure"
)

type object = map[string]any

func TestPredicateFromGraphQL(t *testing.T) {
	cmp := func(field string, value any) object { return object{"field": field, "value": value} }
	p, wrong := in.PredicateFrom(object{"and": []any{
		object{"eq": cmp("execname", "x")}, object{"gt": cmp("latency", json.Number("9223372036854775807"))}, object{"or": object{"le": cmp("size", int64(5))}},
		object{"ne": cmp("size", 5.0)},
	}})
	require.Empty(t, wrong)
	require.Equal(t, `execname == "x" && latency > 9223372036854775807 && size <= 5 && size != 5`, p.Text())

	for want, input := range map[string]object{
		"INVALID_PREDICATE predicate":                {"eq": cmp("a", "x"), "ne": cmp("a", "x")},
		"INVALID_PREDICATE predicate none":           {},
		"INVALID_PREDICATE predicate.eq null":        {"eq": nil},
		"INVALID_PREDICATE predicate.xor":            {"xor": []any{}},
		"INVALID_PREDICATE predicate.and":            {"and": []any{}},
		"INVALID_PREDICATE predicate.and.0.or.0":     {"and": []any{object{"or": []any{"x"}}}},
		"INVALID_PREDICATE predicate.eq.field":       {"eq": object{"value": "x"}},
		"INVALID_PREDICATE predicate.eq.x":           {"eq": object{"field": "a", "value": "x", "x": 1}},
		"TYPE_MISMATCH predicate.eq.value":           {"eq": cmp("a", nil)},
		"TYPE_MISMATCH predicate.eq.value NaN":       {"eq": cmp("a", math.NaN())},
		"TYPE_MISMATCH predicate.eq.value inf":       {"eq": cmp("a", math.Inf(1))},
		"TYPE_MISMATCH predicate.eq.value 1.5":       {"eq": cmp("a", json.Number("1.5"))},
		"TYPE_MISMATCH predicate.eq.value 1e400":     {"eq": cmp("a", json.Number("1e400"))},
		"TYPE_MISMATCH predicate.eq.value 2^63":      {"eq": cmp("a", json.Number("9223372036854775808"))},
		"TYPE_MISMATCH predicate.eq.value rounded":   {"eq": cmp("a", float64(1<<53))},
		"TYPE_MISMATCH predicate.eq.value boolean":   {"eq": cmp("a", true)},
		"TYPE_MISMATCH predicate.eq.value not a one": {"eq": cmp("a", []any{1})},
	} {
		_, wrong := in.PredicateFrom(input)
		got := mistakes(t, wrong)
		require.Len(t, got, 1, want)
		require.Equal(t, got[0], strings.Join(strings.Fields(want)[:2], " "))
	}
}

func TestTargetsFromGraphQL(t *testing.T) {
	targets, wrong := in.TargetsFrom([]map[string]any{
		{"dataApi": object{"url": "https://d.example.com/", "headers": []any{object{"name": "X-Key", "value": "s3cret"}}}},
		{"dataApi": object{"url": "wss://d.example.com/", "transport": "WEBSOCKET"}},
		{"statsd": object{"address": "s.example.com:8125", "prefix": "a.b"}},
		{"graphite": object{"address": "g.example.com:2003", "prefix": nil}},
		{"otlp": object{"endpoint": "https://o.example.com:4318"}},
	})
	require.Empty(t, wrong)
	require.Equal(t, map[string]string{"X-Key": "s3cret"}, targets[0].Headers)
	var texts []string
	for _, target := range targets {
		require.NoError(t, target.Validate())
		texts = append(texts, target.Text())
	}
	require.Equal(t, []string{
		"dataapi+https://d.example.com/", "dataapi+wss://d.example.com/", "statsd://s.example.com:8125/a.b", "graphite://g.example.com:2003", "otlp+https://o.example.com:4318",
	}, texts)

	_, wrong = in.TargetsFrom([]map[string]any{
		{"statsd": object{"address": "a:1"}, "otlp": object{"endpoint": "x"}},
		{"statsd": nil},
		{"statsd": object{"addres": "a:1"}},
		{"dataApi": object{"url": 5}},
		{"otlp": object{"endpoint": "x", "headers": []any{object{"name": "a", "value": "s3cret"}, object{"name": "a", "value": "s3cret"}}}},
	})
	require.Equal(t, []string{
		"INVALID_TARGET targets.0", "INVALID_TARGET targets.1.statsd", "INVALID_TARGET targets.2.statsd.addres", "INVALID_TARGET targets.3.dataApi.url",
		"INVALID_TARGET targets.4.otlp.headers.1.name",
	}, mistakes(t, wrong))
	require.NotContains(t, wrong.Error(), "s3cret")
	require.Equal(t, measure.OTLP, targets[4].Kind)
}
