// Package peer is what IAPI's push is compared with: a stock gqlgen server that serves the same documents to the same
// agents. So that nothing but the push is compared, IAPI's side here is its feed and websockets over documents in memory.
package peer

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/tests/load/debugport"
)

//go:generate go tool gqlgen generate

// The kinds of servers.
const (
	Gqlgen = "gqlgen"
	Ours   = "iapi"
)

type server interface {
	handler() http.Handler
	// publish gives hosts a new document each.
	publish(hosts []uuid.UUID)
}

// Serve serves agents on l until ctx ends, and on control what debugport serves, and POST /publish: with ?host=N one host
// gets a new document, without all do.
func Serve(ctx context.Context, kind string, hosts int, l, control net.Listener) error {
	known := Hosts(hosts)
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var s server
	switch kind {
	case Gqlgen:
		s = newStock(known)
	case Ours:
		o := newOurs(known)
		running.Go(func() { o.run(ctx) })
		defer func() {
			ended, end := context.WithCancel(context.Background())
			end()
			_ = o.sockets.Shutdown(ended) // cuts those that are left
		}()
		s = o
	default:
		return fmt.Errorf("there is no peer %q", kind)
	}
	controls := debugport.Handler()
	controls.HandleFunc("POST /publish", func(w http.ResponseWriter, r *http.Request) {
		if text := r.URL.Query().Get("host"); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil || n < 0 || n >= len(known) {
				http.Error(w, "host: no such number", http.StatusBadRequest)
				return
			}
			s.publish(known[n : n+1])
			return
		}
		s.publish(known)
	})
	agents := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 30 * time.Second}
	door := &http.Server{Handler: controls, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 2)
	go func() { ended <- agents.Serve(l) }()
	go func() { ended <- door.Serve(control) }()
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
		err = fmt.Errorf("serve: %w", err)
	}
	_, _ = agents.Close(), door.Close()
	return err
}
