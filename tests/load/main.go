// Command load measures the service under load, all of it on this machine and over the loopback interface.
//
//	go run ./tests/load agents --count 10000
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"iapi/tests/load/peer"
)

type cli struct {
	Agents agentsCmd `cmd:"" help:"Measure how agents are served: connections, memory, latency of changes, failures."`
	Peer   peerCmd   `cmd:"" hidden:"" name:"serve-peer" help:"Serve agents from memory, for a comparison."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program. What it measures goes to out, how far it is to errs.
func run(ctx context.Context, args []string, out, errs io.Writer) int {
	var c cli
	exited := -1
	parser, err := kong.New(&c, kong.Name("load"), kong.UsageOnError(), kong.Writers(out, errs),
		kong.Description("Measures the service under load, on this machine alone. Everything that it starts ends with it."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 120}), kong.Exit(func(code int) { exited = code }))
	if err != nil {
		fmt.Fprintln(errs, "load:", err)
		return 1
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err != nil {
		fmt.Fprintf(errs, "load: %v\nTry: load agents --help\n", err)
		return 2
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	parsed.Bind(streams{out: out, errs: errs})
	err = parsed.Run()
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(errs, "load: interrupted; everything has been stopped")
		return 130
	}
	fmt.Fprintln(errs, "load:", err)
	return 1
}

type streams struct{ out, errs io.Writer }

// peerCmd is the child of a comparison.
type peerCmd struct {
	Kind  string `required:"" enum:"gqlgen,iapi"`
	Hosts int    `required:""`
}

func (c peerCmd) Run(ctx context.Context, s streams) error {
	agents, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Fprintf(s.out, "agents at http://%s\ncontrol at http://%s\n", agents.Addr(), control.Addr())
	return peer.Serve(ctx, c.Kind, c.Hosts, agents, control)
}
