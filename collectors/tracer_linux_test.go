package collectors_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors"
)

// tracer is a host that cannot trace, or can.
type tracer struct {
	version string
	refusal *collectors.Error
	opened  int
}

func (f *tracer) Ready(context.Context) (string, *collectors.Error) { return f.version, f.refusal }

func (f *tracer) Open(context.Context, collectors.Request, *catalog.Variant) (collectors.Probe, error) {
	f.opened++
	return nil, &collectors.Error{Code: collectors.Failed, Message: "opened"}
}

func TestAHostThatCannotTraceSaysWhatToDo(t *testing.T) {
	for _, c := range []struct {
		name   string
		tracer *tracer
		code   collectors.Code
		says   string
		traces bool
	}{
		{"no bpftrace", &tracer{refusal: &collectors.Error{Code: collectors.Unsupported, Message: "bpftrace is not installed: install the package bpftrace"}},
			collectors.Unsupported, "install the package bpftrace", false},
		{"no root", &tracer{refusal: &collectors.Error{Code: collectors.Denied, Message: "run the agent as root"}}, collectors.Denied, "run the agent as root", false},
		{"an old bpftrace", &tracer{version: "0.9.4"}, collectors.Unsupported, "lacks bpftrace >=0.17, and has 0.9.4: install a newer one", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			registry := collectors.New(collectors.Options{Tracer: c.tracer})
			_, err := registry.Open(t.Context(), collectors.Request{ID: "x", Definition: definition(t, "syscall.syscalls"), WholeHost: true})
			var refusal *collectors.Error
			require.ErrorAs(t, err, &refusal)
			require.Equal(t, c.code, refusal.Code, refusal.Message)
			require.Contains(t, refusal.Message, c.says)
			require.Zero(t, c.tracer.opened)
			if c.traces {
				require.Contains(t, registry.Collectors(t.Context()), "dtrace")
			} else {
				require.NotContains(t, registry.Collectors(t.Context()), "dtrace")
			}
			p, err := registry.Open(t.Context(), collectors.Request{ID: "x", Definition: definition(t, "cpu.usage"), WholeHost: true})
			require.NoError(t, err, "everything else works")
			require.NoError(t, p.Close())
			p, err = registry.Open(t.Context(), collectors.Request{ID: "x", Definition: definition(t, "disk.physio_ops"), WholeHost: true})
			require.NoError(t, err, "and so does what needs tracing only for some fields")
			require.NoError(t, p.Close())
		})
	}
}
