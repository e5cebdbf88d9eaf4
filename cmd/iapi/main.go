// Command iapi is the Instrumentation API: the parts that make it up, each alone or all in one process, and the client that
// talks to it.
package main

//go:generate go run . docs ../../docs/commands.md

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"iapi/measure"
)

const description = `IAPI lets you ask for a measurement anywhere in a cloud, and takes care of the rest: which machines it
concerns, telling the agent on each host what to collect, where the data goes, and the truth about how it fares.

Start with "iapi dev": everything in one process on this machine. Then, from another terminal:

  iapi metrics                                       what can be measured
  iapi create cpu.usage --by cpumode --every-host    measure it; prints the instrumentation's id
  iapi watch ID                                      see the values arrive
  iapi delete ID

Every flag can also be given as a variable of the environment: --data-dir is IAPI_DATA_DIR.

Exit codes: 0 done, 1 refused by the API or failed, 2 wrong usage, 3 the API cannot be reached or is not ready, 4 no such thing.`

// cli is the whole command line, in one place: kong makes the parser, the help and the completion from it.
type cli struct {
	serverCommands

	Agent agentCmd `cmd:"" group:"run" help:"Run this host's agent."`
	VMAPI vmapiCmd `cmd:"" name:"vmapi" group:"run" help:"Serve a simulated inventory that speaks VMAPI's and CNAPI's protocols."`

	Metrics     metricsCmd     `cmd:"" group:"client" help:"List what can be measured, or show one metric with its fields."`
	Create      createCmd      `cmd:"" group:"client" help:"Create an instrumentation; prints its id."`
	List        listCmd        `cmd:"" group:"client" help:"List instrumentations, newest first."`
	Get         getCmd         `cmd:"" group:"client" help:"Show an instrumentation: state, coverage, problems."`
	Places      placesCmd      `cmd:"" group:"client" help:"List the zones and hosts that an instrumentation covers, and how each fares."`
	Preview     previewCmd     `cmd:"" group:"client" help:"Show what a scope would instrument now."`
	Watch       watchCmd       `cmd:"" group:"client" help:"Show an instrumentation's values as they arrive."`
	Update      updateCmd      `cmd:"" group:"client" help:"Change an instrumentation: name, tags, scope, targets, granularity, time to live."`
	Clone       cloneCmd       `cmd:"" group:"client" help:"Create an instrumentation like another one; prints its id."`
	Pause       pauseCmd       `cmd:"" group:"client" help:"Measure nothing until it is resumed."`
	Resume      resumeCmd      `cmd:"" group:"client" help:"Measure again what was paused."`
	Refresh     refreshCmd     `cmd:"" group:"client" help:"Compare an instrumentation with the inventory now, or everything."`
	Delete      deleteCmd      `cmd:"" group:"client" help:"Delete instrumentations: by id, or all that match."`
	Explain     explainCmd     `cmd:"" group:"client" help:"Say why a host or a zone does, or does not, run an instrumentation."`
	Apply       applyCmd       `cmd:"" group:"client" help:"Make instrumentations equal to a YAML file; shows the difference first."`
	Limits      limitsCmd      `cmd:"" group:"client" help:"Show what an owner may have, and has."`
	Notify      notifyCmd      `cmd:"" group:"client" help:"Hint that a VM has changed, as workflows do."`
	Fleet       fleetCmd       `cmd:"" aliases:"hosts" group:"operator" help:"List the hosts and their agents, or show one host."`
	Join        joinCmd        `cmd:"" group:"operator" help:"Make a one-time token that lets a host's agent join."`
	Revoke      revokeCmd      `cmd:"" group:"operator" help:"Take the credential from a host's agent."`
	StopTracing stopTracingCmd `cmd:"" group:"operator" help:"Stop all tracing, on some hosts or on all, at once."`
	Guards      guardsCmd      `cmd:"" group:"operator" help:"List the sweeps that wait because they would remove too much."`
	Confirm     confirmCmd     `cmd:"" group:"operator" help:"Let such a sweep go on."`
	Audit       auditCmd       `cmd:"" group:"operator" help:"List who did what for whom, newest first."`

	Completion completionCmd `cmd:"" group:"other" help:"Print a completion script for bash, zsh or fish."`
	Complete   completeCmd   `cmd:"" hidden:"" help:"Print what may stand next on a command line; the completion scripts ask this."`
	Docs       docsCmd       `cmd:"" hidden:"" help:"Write the reference of the command line."`
	Version    versionCmd    `cmd:"" group:"other" help:"Print the version."`
}

// Exit codes.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitNotFound    = 4
)

// exitError ends the program with a code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() { // a second Ctrl-C does not wait for a clean stop
		<-ctx.Done()
		stop()
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// streams are what a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// run is the program; tests call it in their own process.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	exited := -1
	parser, err := newParser(defaultDataDir(), kong.Writers(out, errs), kong.Exit(func(code int) { exited = code }))
	if err != nil {
		fmt.Fprintln(errs, "iapi:", err)
		return exitFailed
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if exited >= 0 { // --help
		return exited
	}
	if err != nil {
		fmt.Fprintln(errs, "iapi:", err)
		var parse *kong.ParseError
		if errors.As(err, &parse) && parse.Context != nil && parse.Context.Command() != "" {
			fmt.Fprintf(errs, "Try: iapi %s --help\n", commandName(parse.Context.Command()))
		} else {
			fmt.Fprintln(errs, "Try: iapi --help")
		}
		return exitUsage
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	parsed.Bind(streams{in: in, out: out, err: errs}, parser)
	if err := parsed.Run(); err != nil {
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			return 0
		}
		fmt.Fprintln(errs, "iapi:", err)
		return exitCode(err)
	}
	return 0
}

// exitCode is what an error ends the program with.
func exitCode(err error) int {
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	return exitFailed
}

// newParser makes the parser from the description of the command line. dataDir is the default of --data-dir.
func newParser(dataDir string, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(new(cli), append([]kong.Option{
		kong.Name("iapi"), kong.Description(description), kong.UsageOnError(), kong.DefaultEnvars("IAPI"),
		kong.Vars{
			"data_dir":         dataDir,
			"predicate_depth":  strconv.Itoa(measure.MaxPredicateDepth),
			"predicate_leaves": strconv.Itoa(measure.MaxPredicateLeaves),
		},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 120}),
		kong.ExplicitGroups([]kong.Group{
			{Key: "run", Title: "Parts of the service:"},
			{Key: "client", Title: "Client:"},
			{Key: "operator", Title: "Client, for operators:"},
			{Key: "other", Title: "Other:"},
			{Key: "scope", Title: "Scope (what to instrument):"},
			{Key: "filter", Title: "Filter (which instrumentations):"},
			{Key: "limits", Title: "Limits:"},
			{Key: "common", Title: "Flags of every client command:"},
		}),
	}, options...)...)
}

// commandName is a command without its arguments.
func commandName(command string) string {
	name, _, _ := strings.Cut(command, " <")
	return name
}

func usageError(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// logging is how the parts of the service log.
type logging struct {
	LogLevel  string `enum:"debug,info,warn,error" default:"info" help:"Log from this level on: ${enum}."`
	LogFormat string `enum:"text,json" default:"text" help:"Log as ${enum}."`
}

func (l logging) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.LogLevel)); err != nil {
		level = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: level}
	if l.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

type versionCmd struct{}

func (versionCmd) Run(s streams) error {
	fmt.Fprintln(s.out, "iapi", version())
	return nil
}

// version is the module's version, or the revision it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return "development"
}
