// Package wiring joins the rooms into an API on a store: the use cases, the agents' feed, their credentials, and the door in
// front of them. The program and the tests of the whole API build theirs here, so that both are the same.
package wiring

import (
	"context"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"iapi/catalog"
	"iapi/delivery"
	"iapi/graph"
	"iapi/instrumentation"
	"iapi/store"
	"iapi/worker"
)

// Options are what an API is made of. Store, Previewer and Catalog are required.
type Options struct {
	Store       *store.Store
	Previewer   instrumentation.Previewer // evaluates scopes by the workers' own code
	Catalog     instrumentation.Catalog
	Publisher   instrumentation.Publisher // nil: nothing can be published
	TrustedKeys catalog.Keys              // that published definitions must be signed with; nil: they need not be
	Policy      instrumentation.Policy    // zero members: the defaults
	Logger      *slog.Logger              // nil: nothing is logged
}

// API is a door to serve HTTP with. Run must be running while it serves, and Shutdown called in the end.
type API struct {
	*graph.Server
	hub *delivery.Hub
}

// New makes an API. Its time is the store's, whatever this machine's clock says. tune completes what its door is made of: at
// least whom it believes, by Authenticator.
func New(ctx context.Context, o Options, tune func(*graph.Options)) (*API, error) {
	secret, err := o.Store.Secret(ctx, "preview") // one for all processes
	if err != nil {
		return nil, fmt.Errorf("read the secret of preview tokens: %w", err)
	}
	credentials := Credentials{o.Store}
	service, err := instrumentation.New(instrumentation.Options{
		Store: o.Store, Queue: worker.NewQueue(o.Store.Client(), o.Store), Previewer: o.Previewer, Agents: credentials,
		Catalog: o.Catalog, Publisher: o.Publisher, TrustedKeys: o.TrustedKeys, Policy: o.Policy, Secret: secret, Logger: o.Logger,
		Clock: o.Store.Time,
	})
	if err != nil {
		return nil, err
	}
	hub := delivery.New(feed{o.Store}, delivery.Options{Logger: o.Logger})
	door := graph.Options{
		Service: service, Delivery: hub, Records: o.Store, JoinTokens: credentials, Ready: o.Store.Ready, Logger: o.Logger,
		Clock: o.Store.Time,
	}
	tune(&door)
	server, err := graph.New(door)
	if err != nil {
		return nil, err
	}
	return &API{Server: server, hub: hub}, nil
}

// Run follows the store until ctx ends, for those who are connected.
func (a *API) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.hub.Run(ctx) })
	g.Go(func() error { return a.Server.Run(ctx) })
	return g.Wait()
}
