package zone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"time"
)

// Bounds of a question to a runtime's daemon.
const (
	askTimeout = 5 * time.Second
	maxAnswer  = 32 << 20
)

// ask gets an answer from the daemon behind a unix socket.
func ask(ctx context.Context, socket, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://runtime"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the runtime: %w", err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("ask the runtime: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask the runtime at %s: it answered %s", socket, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer of the runtime at %s: %w", socket, err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("read the answer of the runtime at %s: more than %d bytes", socket, maxAnswer)
	}
	return body, nil
}

// absent tells a runtime that is not there from one that does not answer as it should.
func absent(err error) bool {
	var op *net.OpError
	return errors.Is(err, fs.ErrNotExist) || errors.As(err, &op) && op.Op == "dial"
}
