package light_test

import (
	"net"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/tests/load/light"
)

func TestAnAgentThatIsRefusedIsToldOf(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = nc.Write([]byte("HTTP/1.1 503 Service Unavailable\r\n\r\n"))
		}
	}()
	f, err := light.Start(t.Context(), light.Options{Hosts: []uuid.UUID{uuid.New(), uuid.New()}, Server: "http://" + ln.Addr().String()})
	require.NoError(t, err)
	defer f.Stop()
	require.Eventually(t, func() bool { return f.Err() != nil }, time.Minute, time.Millisecond)
	require.ErrorContains(t, f.Err(), "503 Service Unavailable")
	require.Equal(t, 2, f.Waiting())
}

func TestAServerThatCannotBeReachedLightlyIsRefused(t *testing.T) {
	for _, server := range []string{"https://127.0.0.1:1", "http://localhost:1", "http://127.0.0.1", "http://[::1]:1"} {
		_, err := light.Start(t.Context(), light.Options{Server: server})
		require.ErrorContains(t, err, "want http://ADDRESS:PORT", server)
	}
}
