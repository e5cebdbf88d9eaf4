package main

import (
	"context"
	"log/slog"
	"os"

	"iapi/catalog"
	"iapi/store"
)

// ownCatalog has the definitions that come with this program.
func ownCatalog() (*catalog.Catalog, error) { return catalog.Embedded() }

// publications is what operators publish: the store keeps it, and the catalog of this process follows it.
type publications struct {
	*catalog.Live
	*store.Store
}

// openPublications reads what is published. Whoever holds it runs Live, so that it follows.
func openPublications(ctx context.Context, st *store.Store, log *slog.Logger) (publications, error) {
	own, err := ownCatalog()
	if err != nil {
		return publications{}, err
	}
	live := catalog.NewLive(own, st, log)
	if err := live.Sync(ctx); err != nil {
		return publications{}, err
	}
	return publications{Live: live, Store: st}, nil
}

// hostPolicyFlags are what a host allows its agent, whatever the API wants.
type hostPolicyFlags struct {
	Collectors []string `enum:"kstat,procfs,zfs,dtrace" help:"Collectors that may run on this host: ${enum}. Without: all that it has." placeholder:"NAME"`
	MaxTracing int      `default:"8" help:"Tracing programs at a time; what would need another is refused. Each takes about 100 MB." placeholder:"N"`
	TrustedKey string   `type:"existingfile" help:"Run only definitions that one of these public keys (Ed25519, PEM) has signed, beside those that come with the agent. Without: all that the API serves." placeholder:"FILE"`
}

// check refuses values that the parser lets through.
func (f hostPolicyFlags) check() error {
	if f.MaxTracing < 1 {
		return usageError("--max-tracing %d: at least 1; --collectors can leave out dtrace", f.MaxTracing)
	}
	_, err := f.keys()
	return err
}

// keys are those that definitions must be signed with; nil: they need not be.
func (f hostPolicyFlags) keys() (catalog.Keys, error) {
	if f.TrustedKey == "" {
		return nil, nil
	}
	text, err := os.ReadFile(f.TrustedKey)
	if err != nil {
		return nil, usageError("--trusted-key: %w", err)
	}
	keys, err := catalog.ParseKeys(text)
	if err != nil {
		return nil, usageError("--trusted-key %s: %w", f.TrustedKey, err)
	}
	return keys, nil
}
