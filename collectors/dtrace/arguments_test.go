package dtrace

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors/collect"
)

const format = `name: made_up
ID: 1
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;

	field:const void * object;	offset:8;	size:8;	signed:0;
	field:unsigned long site;	offset:16;	size:8;	signed:0;
	field:__data_loc char[] name;	offset:24;	size:4;	signed:0;
	field:__rel_loc u8[] rest;	offset:28;	size:4;	signed:0;
	field:char comm[16];	offset:32;	size:16;	signed:0;
	field:__u8 from[16];	offset:48;	size:16;	signed:0;
	field:sector_t sector;	offset:64;	size:8;	signed:0;

print fmt: "%p %pS %s", REC->object, (void *)REC->site, __get_str(name), REC->sector
`

// What a kernel says is an address, or is one for a tracer, is no value. As a key of what is saved it is compared and not told.
func TestAddressesOfTheKernelAreNoValues(t *testing.T) {
	e := &Engine{opts: Options{Sys: t.TempDir()}}
	dir := filepath.Join(e.opts.Sys, "kernel/tracing/events/made/up")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "format"), []byte(format), 0o600))
	with := func(c catalog.Clause) error {
		c.Probes = []string{"profile:hz:99", "tracepoint:made:up"}
		return e.checkArguments(&catalog.Variant{Source: catalog.Source{Bpftrace: &catalog.TraceSource{Clauses: []catalog.Clause{c}}}})
	}
	field := func(expr string) catalog.Clause {
		return catalog.Clause{Fields: map[string]catalog.TraceField{"x": {CType: catalog.CTypeUint, Expr: expr}}}
	}
	for _, expr := range []string{
		"args->object", "args.object", "args -> object", "(uint64)args->object", "(args->object >> 12) & 0xff", "args->sector + args->object", "args->object != 0",
		"args->site", "args->name", "args->rest", "args->from", "ntop(args->from) + args->from", "ntop(2, args->object)",
	} {
		for _, c := range []catalog.Clause{field(expr), {If: expr}, {Value: expr}, {Save: map[string]catalog.Save{"x": {Expr: expr}}}} {
			err := with(c)
			require.ErrorContains(t, err, "is an address", "%s in %+v", expr, c)
			require.Equal(t, collect.Denied, collect.Refusal(err).Code)
		}
	}
	for _, expr := range []string{"args->sector * 512", "args->comm", "ntop(10, args->from)", "nsecs", "args->missing"} {
		require.NoError(t, with(field(expr)), expr)
	}
	require.NoError(t, with(catalog.Clause{At: []string{"args->object"}, Save: map[string]catalog.Save{"x": {Key: []string{"args->object"}, Expr: "nsecs"}}}))
	clean := catalog.TraceSource{Clean: []catalog.Clean{{Probe: "tracepoint:made:up", If: "args->object == 0"}}}
	require.ErrorContains(t, e.checkArguments(&catalog.Variant{Source: catalog.Source{Bpftrace: &clean}}), "is an address")

	require.NoError(t, os.RemoveAll(dir))
	err := with(field("args->sector"))
	require.Equal(t, collect.Unsupported, collect.Refusal(err).Code, "what nothing is known of is not run")
	require.True(t, errors.Is(err, os.ErrNotExist))
	require.NoError(t, with(field("pid")))
}

func FuzzFormat(f *testing.F) {
	f.Add(format)
	f.Fuzz(func(t *testing.T, text string) {
		for name := range parseFormat([]byte(text)) {
			require.Equal(t, []string{name}, catalog.Arguments("args->"+name))
		}
	})
}
