package instrumentation

import (
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/measure"
)

func TestPrivateTargets(t *testing.T) {
	for _, text := range []string{
		"statsd://127.0.0.1:8125", "statsd://127.9.9.9:8125", "statsd://localhost:8125", "statsd://LOCALHOST.:8125", "statsd://x.localhost:8125",
		"statsd://[::1]:8125", "statsd://[::ffff:127.0.0.1]:8125", "statsd://[::127.0.0.1]:8125", "statsd://[64:ff9b::7f00:1]:8125",
		"statsd://0.0.0.0:8125", "statsd://[::ffff:0.1.2.3]:8125", "statsd://0.1.2.3:8125", "statsd://[::]:8125", "statsd://169.254.169.254:80", "statsd://[fe80::1]:8125", "statsd://[fd00:ec2::254]:80",
		"statsd://[64:ff9b::a9fe:a9fe]:80", "statsd://224.0.0.1:8125", "statsd://[ff02::1]:8125", "statsd://255.255.255.255:8125",
		"statsd://127.1:8125", "statsd://2130706433:8125", "statsd://0x7f.0x1:8125", "statsd://0177.0.0.1:8125", "statsd://statsd:8125",
		"dataapi+http://127.0.0.1:8081/v1", "dataapi+ws://localhost/v1", "dataapi+udp://127.0.0.1:9000", "otlp+grpc://127.0.0.1:4317",
		"otlp+http://metadata.google.internal/", "graphite://localhost.localdomain:2003",
	} {
		target, err := measure.ParseTarget(text)
		require.NoError(t, err, text)
		require.True(t, private(target), text)
	}
	for _, text := range []string{
		"statsd://10.0.0.5:8125", "statsd://statsd.example.com:8125", "statsd://[2001:db8::1]:8125", "statsd://[64:ff9b::a00:5]:8125", "statsd://127.0.0.1.example.com:8125",
		"dataapi+https://data.example.com/127.0.0.1", "otlp+http://localhost.example.com:4318", "graphite://192.168.1.9:2003",
	} {
		target, err := measure.ParseTarget(text)
		require.NoError(t, err, text)
		require.False(t, private(target), text)
	}
}

func TestEditDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"kitten", "sitting", 3}, {"cpu.usage", "cpu.usage", 0}, {"flaw", "lawn", 2}} {
		require.Equal(t, test.want, editDistance(test.a, test.b))
	}
}
