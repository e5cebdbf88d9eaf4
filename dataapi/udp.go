package dataapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"iapi/dataapi/event"
)

// ServeUDP takes one event from each datagram until ctx ends, which closes the socket. What is not an event, or names no
// stream, is dropped without an answer, for nobody would get it. The error is nil when ctx has ended.
func (s *Server) ServeUDP(ctx context.Context, conn net.PacketConn) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	defer conn.Close()
	b := make([]byte, event.MaxLine+1)
	for failures := 0; ; {
		n, _, err := conn.ReadFrom(b)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			// Most are answers of the network to something earlier, and the socket is as good as before.
			if failures++; failures > 100 || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("read datagrams: %w", err)
			}
			continue
		}
		failures = 0
		e, err := event.Decode(b[:n])
		if err != nil || e.Stream == "" {
			s.log.Debug("a datagram is not an event with a stream")
			continue
		}
		if _, refusal := s.streams.store(e.Stream, "", []stored{{time: e.Timestamp, line: e.Append(nil)}}); refusal != nil {
			s.log.Debug("a datagram was not stored", "error", refusal.Error)
		}
	}
}
