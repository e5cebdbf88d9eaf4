package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"iapi/catalog"
	"iapi/store"
)

// ownCatalog has the definitions that come with this program.
func ownCatalog() (*catalog.Catalog, error) { return catalog.Embedded() }

// trustFlags say which definitions a process has beside its own, and by which keys those must be signed.
type trustFlags struct {
	TrustedKey string `type:"existingfile" help:"${trusting}" placeholder:"FILE"`
	Bundle     string `type:"path" help:"Have the definitions of this bundle, as \"iapi metrics bundle\" writes it, beside those that come with the program; one of the trusted keys must have signed it. What is older than the last one taken, damaged, expired or signed otherwise is not taken, and the last good one, kept in the data directory, goes on." placeholder:"FILE"`
}

// keys are those that definitions must be signed with; nil: they need not be.
func (f trustFlags) keys() (catalog.Keys, error) {
	if f.TrustedKey == "" {
		if f.Bundle != "" {
			return nil, usageError("--bundle needs --trusted-key: who may have signed it?")
		}
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

// catalog has the definitions that come with this program, and over them those of the bundle. dir keeps the last bundle
// that was good.
func (f trustFlags) catalog(dir string, log *slog.Logger) (*catalog.Catalog, catalog.Keys, error) {
	keys, err := f.keys()
	if err != nil {
		return nil, nil, err
	}
	own, err := ownCatalog()
	if err != nil || f.Bundle == "" {
		return own, keys, err
	}
	if err := writableDir(dir); err != nil {
		return nil, nil, err
	}
	all, loaded, err := catalog.BundleFile{Path: f.Bundle, Dir: dir, Keys: keys}.Load(own, time.Now())
	if err != nil {
		return nil, nil, &exitError{code: exitFailed, err: fmt.Errorf("--bundle: %w", err)}
	}
	for _, why := range loaded.Refused {
		log.Warn("a bundle of definitions, or one of it, is not taken", "error", why)
	}
	log.Info("definitions come from a bundle too", "bundle", loaded.Version, "expires", loaded.Expires, "kept", loaded.Kept)
	return all, keys, nil
}

// publications is what operators publish: the store keeps it, and the catalog of this process follows it.
type publications struct {
	*catalog.Live
	*store.Store
}

// openPublications reads what is published over a process's own definitions. Whoever holds it runs Live, so that it
// follows.
func openPublications(ctx context.Context, st *store.Store, own *catalog.Catalog, log *slog.Logger) (publications, error) {
	live := catalog.NewLive(own, st, log)
	if err := live.Sync(ctx); err != nil {
		return publications{}, err
	}
	return publications{Live: live, Store: st}, nil
}

// hostPolicyFlags are what a host allows its agent, whatever the API wants.
type hostPolicyFlags struct {
	Collectors []string `enum:"kstat,procfs,zfs,dtrace" help:"Collectors that may run on this host: ${enum}. Without: all that it has." placeholder:"NAME"`
	MaxTracing int      `default:"8" help:"Tracing programs at a time, of one tenant at most half of them; what would need another is refused. Each takes about 100 MB." placeholder:"N"`
	trustFlags
}

// check refuses values that the parser lets through.
func (f hostPolicyFlags) check() error {
	if f.MaxTracing < 1 {
		return usageError("--max-tracing %d: at least 1; --collectors can leave out dtrace", f.MaxTracing)
	}
	_, err := f.keys()
	return err
}
