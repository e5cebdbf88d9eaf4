package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"iapi/catalog"
	measuring "iapi/collectors"
	"iapi/collectors/dtrace"
)

// metricsCmd is "iapi metrics" and what can be done with definitions of metrics.
type metricsCmd struct {
	Show    metricsShowCmd    `cmd:"" default:"withargs" help:"List what can be measured, or show one metric with its fields. The default: \"iapi metrics cpu.usage\" will do."`
	Lint    metricsLintCmd    `cmd:"" help:"Check definitions in files; asks no server."`
	Publish metricsPublishCmd `cmd:"" help:"Make a definition the one of its metric, in the running fleet (operators)."`
	Bundle  metricsBundleCmd  `cmd:"" help:"Sign definitions as one set, for --bundle; asks no server."`
	Retire  metricsRetireCmd  `cmd:"" help:"Let nothing new measure a metric (operators)."`
}

// Help is what "iapi metrics --help" adds.
func (metricsCmd) Help() string {
	return `Without a command it shows: "iapi metrics", "iapi metrics cpu.usage", "iapi metrics --module disk", "iapi metrics --missing".
"iapi metrics show --help" has the flags.`
}

type metricsShowCmd struct {
	clientFlags
	Name      string `arg:"" optional:"" help:"Show this metric with its fields."`
	Module    string `help:"Only this module, for example disk."`
	Collector string `enum:",kstat,procfs,zfs,dtrace" default:"" help:"Only metrics that this collector can give: kstat, procfs, zfs or dtrace."`
	Missing   bool   `help:"Instead: the metrics of Cloud Analytics 1.0 and their fields that do not come with this program, or that this machine cannot collect of hosts or of zones, and why; asks no server."`
}

type metricView struct {
	Name          string   `json:"name"`
	Label         string   `json:"label"`
	Interval      string   `json:"interval"`
	Unit          string   `json:"unit"`
	Collectors    []string `json:"collectors"`
	MaxTTLSeconds *int     `json:"maxTtlSeconds"`
	Fields        []struct {
		Name  string `json:"name"`
		Label string `json:"label"`
		Arity string `json:"arity"`
		Unit  string `json:"unit"`
	} `json:"fields"`
}

func (c metricsShowCmd) Run(ctx context.Context, s streams) error {
	if c.Missing {
		return c.missing(ctx, s)
	}
	variables := map[string]any{}
	if c.Module != "" {
		variables["module"] = c.Module
	}
	if c.Collector != "" {
		variables["collector"] = strings.ToUpper(c.Collector)
	}
	var data struct {
		Metrics []metricView `json:"metrics"`
	}
	if err := c.client().do(ctx, metricsDocument, variables, &data); err != nil {
		return err
	}
	if c.Name == "" {
		return c.print(s.out, data.Metrics, func(w io.Writer) {
			t := newTable(w, "METRIC", "UNIT", "FIELDS", "COLLECTORS", "WHAT")
			for _, m := range data.Metrics {
				names := make([]string, 0, len(m.Fields))
				for _, f := range m.Fields {
					names = append(names, f.Name)
				}
				t.row(m.Name, m.Unit, strings.Join(names, " "), strings.ToLower(strings.Join(m.Collectors, " ")), m.Label)
			}
			t.flush()
		})
	}
	for _, m := range data.Metrics {
		if m.Name != c.Name {
			continue
		}
		return c.print(s.out, m, func(w io.Writer) {
			fmt.Fprintf(w, "%s: %s, in %s (%s)\n\n", m.Name, m.Label, m.Unit, strings.ToLower(m.Interval))
			t := newTable(w, "FIELD", "KIND", "UNIT", "WHAT")
			for _, f := range m.Fields {
				t.row(f.Name, strings.ToLower(f.Arity), orDash(f.Unit), f.Label)
			}
			t.flush()
			if m.MaxTTLSeconds != nil {
				fmt.Fprintf(w, "\nIt may live for %s at most.\n", time.Duration(*m.MaxTTLSeconds)*time.Second)
			}
		})
	}
	return &exitError{code: exitNotFound, err: fmt.Errorf("there is no metric %q; \"iapi metrics\" lists them", c.Name)}
}

func (c metricsShowCmd) missing(ctx context.Context, s streams) error {
	if c.Name != "" || c.Module != "" || c.Collector != "" {
		return usageError("--missing goes with nothing else")
	}
	own, err := ownCatalog()
	if err != nil {
		return err
	}
	tracer, err := dtrace.New(dtrace.Options{})
	if err != nil {
		return err
	}
	defer tracer.Close() // it runs nothing
	_, untraced := tracer.Ready(ctx)
	platform := measuring.New(measuring.Options{Tracer: tracer}).Platform(ctx)
	missing := own.Missing(platform)
	return c.print(s.out, missing, func(w io.Writer) {
		t := newTable(w, "METRIC", "OF A", "FIELDS", "WHAT", "WHY NOT")
		whole, partly := map[string]bool{}, map[string]bool{}
		for _, m := range missing {
			fields := "all"
			switch {
			case m.Unproven:
				fields = "none, but unproven"
			case m.Fields != nil:
				fields = strings.Join(m.Fields, " ")
			case m.Whole:
				whole[m.Name] = true
			default:
				partly[m.Name] = true
			}
			places := make([]string, len(m.Places))
			for i, place := range m.Places {
				places[i] = string(place)
			}
			t.row(m.Name, strings.Join(places, " "), fields, m.Label, m.Why)
		}
		t.flush()
		fmt.Fprintf(w, "\n%d of the %d metrics of Cloud Analytics 1.0 cannot be had here, and %d only of a host or only of a zone.\n", len(whole), len(catalog.CA1()), len(partly))
		if platform.OS == "illumos" {
			fmt.Fprintln(w, "\nIAPI is tested on Linux: what measures illumos was compared with recorded output, and never run.")
		}
		if untraced != nil {
			fmt.Fprintf(w, "\nNothing can be traced here: %s.\n", untraced.Message)
		}
	})
}

type metricsLintCmd struct {
	outputFlags
	Files []string `arg:"" name:"file" help:"Definitions, YAML."`
}

// Help is what "iapi metrics lint --help" adds.
func (metricsLintCmd) Help() string {
	return `Prints one line for each thing that is wrong, the file and where in it, and exits with 1 if there is any.`
}

// lintIssue is one thing that is wrong with a file.
type lintIssue struct {
	File    string `json:"file"`
	Path    string `json:"path"` // where in the document; "": the whole
	Message string `json:"message"`
}

func (c metricsLintCmd) Run(s streams) error {
	wrong := []lintIssue{}
	for _, path := range c.Files {
		document, err := os.ReadFile(path)
		if err != nil {
			return usageError("read the definition: %w", err)
		}
		for _, issue := range catalog.Lint(document) {
			wrong = append(wrong, lintIssue{File: path, Path: issue.Path, Message: issue.Message})
		}
	}
	if err := c.print(s.out, wrong, func(w io.Writer) {
		for _, issue := range wrong {
			fmt.Fprintf(w, "%s: %s\n", issue.File, catalog.Issue{Path: issue.Path, Message: issue.Message})
		}
	}); err != nil {
		return err
	}
	if len(wrong) > 0 {
		return &exitError{code: exitFailed, err: fmt.Errorf("%d thing(s) are wrong", len(wrong))}
	}
	return nil
}

type metricsPublishCmd struct {
	clientFlags
	File string `arg:"" help:"The definition, YAML."`
	Key  string `type:"existingfile" help:"Sign it with this private key (Ed25519, PEM), for agents that trust only some keys." placeholder:"FILE"`
}

func (c metricsPublishCmd) Run(ctx context.Context, s streams) error {
	document, err := os.ReadFile(c.File)
	if err != nil {
		return usageError("read the definition: %w", err)
	}
	input := map[string]any{"document": string(document)}
	if c.Key != "" {
		key, err := privateKey(c.Key)
		if err != nil {
			return err
		}
		signed := catalog.Sign(document, key)
		input["signature"], input["keyId"] = base64.StdEncoding.EncodeToString(signed.Signature), signed.KeyID
	}
	var data struct {
		Result struct {
			Metric *struct {
				Name       string `json:"name"`
				Definition struct {
					Digest string `json:"digest"`
				} `json:"definition"`
			} `json:"metric"`
			UserErrors []userError `json:"userErrors"`
		} `json:"publishMetric"`
	}
	if err := c.client().do(ctx, publishDocument, map[string]any{"input": input}, &data); err != nil {
		return err
	}
	if err := refusal(data.Result.UserErrors); err != nil {
		return err
	}
	if data.Result.Metric == nil {
		return errors.New("the API has not said what it published")
	}
	return c.print(s.out, data.Result.Metric, func(w io.Writer) { fmt.Fprintln(w, data.Result.Metric.Name) })
}

type metricsRetireCmd struct {
	clientFlags
	Name string `arg:"" help:"The metric."`
}

// Help is what "iapi metrics retire --help" adds.
func (metricsRetireCmd) Help() string {
	return `What measures it goes on until it ends. Publishing its definition offers it again.`
}

func (c metricsRetireCmd) Run(ctx context.Context, s streams) error {
	var data struct {
		Result struct {
			UserErrors []userError `json:"userErrors"`
		} `json:"retireMetric"`
	}
	if err := c.client().do(ctx, retireDocument, map[string]any{"input": map[string]any{"name": c.Name}}, &data); err != nil {
		return err
	}
	if err := refusal(data.Result.UserErrors); err != nil {
		return err
	}
	return c.print(s.out, map[string]string{"retired": c.Name}, func(w io.Writer) { fmt.Fprintln(w, c.Name) })
}
