package collectors

import (
	"context"
	"slices"
	"strings"

	"iapi/catalog"
)

// Collectors names what this registry can collect with, sorted: kstat, procfs, zfs, and dtrace where the host can be
// traced; of these only what the host's policy allows.
func (r *Registry) Collectors(ctx context.Context) []string {
	names := []string{"kstat", "procfs", "zfs"}
	if _, untraced := r.machine(ctx); untraced == nil {
		names = append(names, "dtrace")
	}
	names = slices.DeleteFunc(names, func(name string) bool { return r.opts.Allowed != nil && !slices.Contains(r.opts.Allowed, name) })
	slices.Sort(names)
	return names
}

// allows reports whether the host's policy lets a variant run.
func (r *Registry) allows(v *catalog.Variant) bool {
	return r.opts.Allowed == nil || slices.Contains(r.opts.Allowed, strings.ToLower(v.Collector()))
}

// Platform says what this machine can do, as definitions ask for it.
func (r *Registry) Platform(ctx context.Context) catalog.Platform {
	platform, _ := r.machine(ctx)
	return platform
}
