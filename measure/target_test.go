package measure

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTargetsAreReadAndWritten(t *testing.T) {
	for text, want := range map[string]Target{
		"dataapi+http://127.0.0.1:9000":       {Kind: DataAPI, Address: "http://127.0.0.1:9000", Transport: HTTP},
		"dataapi+https://data.example.com/v1": {Kind: DataAPI, Address: "https://data.example.com/v1", Transport: HTTP},
		"dataapi+ws://host:1/x":               {Kind: DataAPI, Address: "ws://host:1/x", Transport: WebSocket},
		"dataapi+wss://host":                  {Kind: DataAPI, Address: "wss://host", Transport: WebSocket},
		"dataapi+udp://127.0.0.1:9000":        {Kind: DataAPI, Address: "udp://127.0.0.1:9000", Transport: UDP},
		"statsd://127.0.0.1:8125":             {Kind: Statsd, Address: "127.0.0.1:8125"},
		"statsd://stats_d-1.local:8125/a.b-c": {Kind: Statsd, Address: "stats_d-1.local:8125", Prefix: "a.b-c"},
		"graphite://[::1]:2003/prefix":        {Kind: Graphite, Address: "[::1]:2003", Prefix: "prefix"},
		"otlp+http://host:4318/v1/metrics":    {Kind: OTLP, Address: "http://host:4318/v1/metrics"},
		"otlp+https://[2001:db8::1]:4318":     {Kind: OTLP, Address: "https://[2001:db8::1]:4318"},
		"otlp+grpc://host:4317":               {Kind: OTLP, Address: "grpc://host:4317"},
		"otlp+grpcs://host:4317":              {Kind: OTLP, Address: "grpcs://host:4317"},
	} {
		got, err := ParseTarget(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got)
		require.Equal(t, text, got.Text())
	}
	slash, err := ParseTarget("statsd://h:1/")
	require.NoError(t, err)
	require.Equal(t, "statsd://h:1", slash.Text())
}

func TestTargetsThatAreRefusedSayWhy(t *testing.T) {
	for text, reason := range map[string]string{
		"":                                         "KIND://ADDRESS",
		"localhost:8125":                           "KIND://ADDRESS",
		"influx://h:1":                             `no kind of target "influx"`,
		"dataapi://h:1":                            "dataapi+http",
		"dataapi+ftp://h/x":                        `scheme "ftp"`,
		"dataapi+HTTP://h/x":                       "scheme",
		"statsd+udp://h:1":                         "statsd://HOST:PORT",
		"dataapi+http://":                          "no host",
		"dataapi+http:///path":                     "no host",
		"dataapi+http://user:secret@h/x":           "use a header",
		"dataapi+http://user@h/x":                  "use a header",
		"dataapi+http://h/x?token=secret":          "use a header",
		"dataapi+http://h/x?":                      "use a header",
		"dataapi+http://h/x#f":                     "use a header",
		"dataapi+http://h/a b":                     "percent-encoded",
		"dataapi+http://h/a\nb":                    "percent-encoded",
		"dataapi+http://h/\x00":                    "percent-encoded",
		"dataapi+http://hé/":                       "percent-encoded",
		"dataapi+http://h%00/":                     "",
		"dataapi+http://h:0/":                      "port",
		"dataapi+http://h:65536/":                  "port",
		"dataapi+http://h:/":                       "port",
		"dataapi+http://h:http/":                   "",
		"dataapi+udp://h":                          "needs a port",
		"dataapi+udp://h:1/x":                      "port",
		"dataapi+udp://u@h:1":                      "host",
		"statsd://h":                               "needs a port",
		"statsd://h:+1":                            "port",
		"statsd://h:1/a/b":                         "prefix",
		"statsd://h:1/a b":                         "prefix",
		"statsd://h:1/a:b|c":                       "prefix",
		"statsd://h:1/é":                           "prefix",
		"statsd://h:1/" + strings.Repeat("x", 201): "prefix",
		"statsd://:8125":                           "no host",
		"statsd://a:b:1":                           "host",
		"graphite://::1:2003":                      "host",
		"graphite://[::1:2003":                     "",
		"graphite://[127.0.0.1]:2003":              "IPv6",
		"graphite://[fe80::1%eth0]:2003":           "IPv6",
		"otlp+grpc://h":                            "needs a port",
		"otlp+grpc://h:1/x":                        "port",
		"otlp+udp://h:1":                           `scheme "udp"`,
		"otlp+http://" + strings.Repeat("h", 1100): "longer than",
		"otlp+http://" + strings.Repeat("h", 300):  "longer than 253",
	} {
		_, err := ParseTarget(text)
		require.Error(t, err, text)
		require.ErrorContains(t, err, reason, text)
		require.NotContains(t, err.Error(), "secret", "no error shows a password")
	}
}

func TestHeadersAreCheckedAndNeverShown(t *testing.T) {
	with := func(headers map[string]string) Target {
		return Target{Kind: DataAPI, Address: "http://h/x", Transport: HTTP, Headers: headers}
	}
	good := with(map[string]string{"Authorization": "Bearer s3cret", "X-Tenant": "a"})
	require.NoError(t, good.Validate())
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("sent", "target", good)
	for _, text := range []string{good.Text(), fmt.Sprint(good), fmt.Sprintf("%v %+v %#v %s", good, good, good, good), log.String()} {
		require.NotContains(t, text, "s3cret")
		require.Contains(t, text, "http://h/x")
	}
	many := map[string]string{}
	for i := range 17 {
		many[fmt.Sprintf("X-%d", i)] = "v"
	}
	for reason, target := range map[string]Target{
		"not a header's name":  with(map[string]string{"a b": "s3cret"}),
		"written by the agent": with(map[string]string{"Content-Length": "s3cret"}),
		"given twice":          with(map[string]string{"x-a": "s3cret", "X-A": "s3cret"}),
		"control characters":   with(map[string]string{"X-A": "s3cret\r\nX-B: 1"}),
		"longer than":          with(map[string]string{"X-A": strings.Repeat("s3cret", 1000)}),
		"more than 16":         with(many),
		"cannot carry headers": {Kind: Statsd, Address: "h:1", Headers: map[string]string{"X-A": "s3cret"}},
	} {
		err := target.Validate()
		require.ErrorContains(t, err, reason)
		require.NotContains(t, err.Error(), "s3cret")
	}
	require.ErrorContains(t, Target{Kind: DataAPI, Address: "udp://h:1", Transport: UDP, Headers: map[string]string{"a": "b"}}.Validate(), "cannot carry")
}

func TestMembersThatDoNotGoTogetherAreRefused(t *testing.T) {
	for reason, target := range map[string]Target{
		`no kind of target ""`: {},
		`no transport ""`:      {Kind: DataAPI, Address: "http://h"},
		`with transport UDP`:   {Kind: DataAPI, Address: "http://h", Transport: UDP},
		`scheme "http"`:        {Kind: DataAPI, Address: "http://h", Transport: WebSocket},
		"no prefix":            {Kind: DataAPI, Address: "http://h", Transport: HTTP, Prefix: "x"},
		"neither a prefix":     {Kind: OTLP, Address: "http://h", Transport: HTTP},
		"it has no transport":  {Kind: Graphite, Address: "h:1", Transport: UDP},
		`port "//h"`:           {Kind: Statsd, Address: "http://h"},
	} {
		require.ErrorContains(t, target.Validate(), reason)
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, text := range []string{
		"dataapi+http://h/x", "dataapi+udp://[::1]:1", "statsd://h:1/p", "graphite://h:2003", "otlp+grpc://h:4317", "dataapi+http://u:p@h", "://",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		target, err := ParseTarget(text)
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		require.NoError(t, target.Validate())
		again, err := ParseTarget(target.Text())
		require.NoError(t, err, target.Text())
		require.Equal(t, target, again)
		for _, r := range target.Text() {
			require.True(t, r > ' ' && r < 0x7f, "%q", target.Text())
		}
	})
}
