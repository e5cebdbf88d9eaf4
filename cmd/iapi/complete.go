package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

type completeCmd struct {
	clientFlags
	Shell string   `arg:"" enum:"bash,zsh,fish" help:"Whose words these are."`
	Words []string `arg:"" optional:"" passthrough:"" help:"What stands on the command line behind the program's name, up to the cursor."`
}

// candidate is what may stand next, with a few words about it.
type candidate struct{ text, about string }

// files says that the shell should complete names of files.
var files = []candidate{{text: ":files"}}

// Run prints one candidate on each line, as the shell wants it.
func (c completeCmd) Run(ctx context.Context, s streams, parser *kong.Kong) error {
	words := c.Words
	if c.Shell == "bash" {
		words = joinSplit(words)
	}
	if len(words) == 0 {
		words = []string{""}
	}
	c.Timeout = period(2 * time.Second) // nobody waits longer for a key that was pressed
	line := parseLine(parser.Model.Node, words[:len(words)-1])
	prefix := ""
	partial := words[len(words)-1]
	var found []candidate
	switch name, value, assigned := strings.Cut(partial, "="); {
	case line.awaiting != nil:
		found = c.values(ctx, line, line.awaiting)
	case assigned && strings.HasPrefix(name, "--"):
		if flag := line.flag(name); flag != nil {
			if c.Shell != "bash" { // bash takes what stands behind the sign for a word of its own
				prefix = name + "="
			}
			partial, found = value, c.values(ctx, line, flag.Value)
		}
	case strings.HasPrefix(partial, "-"):
		found = line.flags()
	default:
		found = line.commands()
		if next := line.positional(); next != nil {
			found = append(found, c.values(ctx, line, next)...)
		}
	}
	for _, f := range found {
		if f == files[0] {
			fmt.Fprintln(s.out, f.text)
			return nil
		}
		if !strings.HasPrefix(f.text, partial) {
			continue
		}
		text, about := prefix+f.text, printable(f.about)
		switch {
		case c.Shell == "zsh" && about != "":
			text = strings.ReplaceAll(text, ":", `\:`) + ":" + about
		case c.Shell == "zsh":
			text = strings.ReplaceAll(text, ":", `\:`)
		case c.Shell == "fish" && about != "":
			text += "\t" + about
		}
		fmt.Fprintln(s.out, text)
	}
	return nil
}

// joinSplit undoes bash's splitting of words at "=" and ":", but for the "=" behind a flag, after which its value stands.
func joinSplit(words []string) []string {
	var out []string
	join := false
	for i, w := range words {
		switch {
		case w == "=" && len(out) > 0 && strings.HasPrefix(out[len(out)-1], "--") && !strings.Contains(out[len(out)-1], "="):
			if i == len(words)-1 {
				out = append(out, "")
			}
		case (w == "=" || w == ":") && len(out) > 0:
			out[len(out)-1] += w
			join = true
			continue
		case join:
			out[len(out)-1] += w
		default:
			out = append(out, w)
		}
		join = false
	}
	return out
}

// line is what has been understood of a command line so far.
type line struct {
	node     *kong.Node
	args     []string            // positional, of node
	given    map[string][]string // flags with their values
	awaiting *kong.Value         // the flag whose value comes next
}

func parseLine(root *kong.Node, words []string) *line {
	l := &line{node: root, given: make(map[string][]string)}
	for _, w := range words {
		switch name, value, assigned := strings.Cut(w, "="); {
		case l.awaiting != nil:
			l.given[l.awaiting.Name] = append(l.given[l.awaiting.Name], w)
			l.awaiting = nil
		case strings.HasPrefix(w, "-") && len(w) > 1:
			flag := l.flag(name)
			switch {
			case flag == nil || flag.IsBool():
			case assigned:
				l.given[flag.Name] = append(l.given[flag.Name], value)
			default:
				l.awaiting = flag.Value
			}
		default:
			l.word(w)
		}
	}
	return l
}

// word takes a word that is no flag: a command, or an argument.
func (l *line) word(w string) {
	if len(l.args) == 0 {
		for _, child := range l.node.Children {
			if child.Name == w || slices.Contains(child.Aliases, w) {
				l.node = child
				return
			}
		}
		if l.node.DefaultCmd != nil {
			l.node = l.node.DefaultCmd
		}
	}
	l.args = append(l.args, w)
}

// flag is the one of this name, --long or -s; nil where there is none.
func (l *line) flag(name string) *kong.Flag {
	for _, group := range l.effective().AllFlags(false) {
		for _, f := range group {
			if name == "--"+f.Name || (f.Short != 0 && name == "-"+string(f.Short)) {
				return f
			}
		}
	}
	return nil
}

// effective is the command that runs if no other is named.
func (l *line) effective() *kong.Node {
	if l.node.DefaultCmd != nil {
		return l.node.DefaultCmd
	}
	return l.node
}

func (l *line) flags() []candidate {
	var out []candidate
	for _, group := range l.effective().AllFlags(true) {
		for _, f := range group {
			out = append(out, candidate{"--" + f.Name, f.Help})
		}
	}
	slices.SortFunc(out, func(a, b candidate) int { return strings.Compare(a.text, b.text) })
	return out
}

func (l *line) commands() []candidate {
	if len(l.args) > 0 {
		return nil
	}
	var out []candidate
	for _, child := range l.node.Children {
		if !child.Hidden {
			out = append(out, candidate{child.Name, child.Help})
		}
	}
	return out
}

// positional is the argument that comes next; nil where none does.
func (l *line) positional() *kong.Value {
	all := l.effective().Positional
	switch {
	case len(l.args) < len(all):
		return all[len(l.args)]
	case len(all) > 0 && all[len(all)-1].IsCumulative():
		return all[len(all)-1]
	}
	return nil
}

// values are those that a flag or an argument may have.
func (c completeCmd) values(ctx context.Context, l *line, v *kong.Value) []candidate {
	if v.Enum != "" {
		var out []candidate
		for _, e := range v.EnumSlice() {
			if e != "" {
				out = append(out, candidate{text: e})
			}
		}
		return out
	}
	switch {
	case v.Name == "file" || v.Tag.PlaceHolder == "FILE" || v.Tag.Type == "path" || v.Tag.Type == "existingfile":
		return files
	case v.Name == "state":
		var out []candidate
		for _, s := range stateNames {
			out = append(out, candidate{text: s})
		}
		return out
	}
	for name, value := range map[string]*string{"server": &c.Server, "token": &c.Token, "data-dir": &c.DataDir} {
		if given := l.given[name]; len(given) > 0 {
			*value = given[len(given)-1]
		}
	}
	command := commandPath(l.effective())
	switch {
	case v.Name == "metric", strings.HasPrefix(command, "metrics ") && v.Name == "name":
		return c.metrics(ctx, "")
	case v.Name == "by" && len(l.args) > 0:
		return c.metrics(ctx, l.args[0])
	case v.Name == "id" && command == "confirm":
		return c.guards(ctx)
	case v.Name == "id":
		return c.instrumentations(ctx)
	case v.Name == "host":
		return c.hosts(ctx)
	}
	return nil
}

// metrics are those of the server, or of this program where there is none: their names, or the fields of one.
func (c completeCmd) metrics(ctx context.Context, fieldsOf string) []candidate {
	var all []metricView
	if err := c.client().one(ctx, metricsDocument, nil, &all); err != nil {
		return ownMetrics(fieldsOf)
	}
	var out []candidate
	for _, m := range all {
		switch fieldsOf {
		case "":
			out = append(out, candidate{m.Name, m.Label})
		case m.Name:
			for _, f := range m.Fields {
				out = append(out, candidate{f.Name, f.Label})
			}
		}
	}
	return out
}

func ownMetrics(fieldsOf string) []candidate {
	own, err := ownCatalog()
	if err != nil {
		return nil
	}
	var out []candidate
	for _, m := range own.Metrics() {
		switch fieldsOf {
		case "":
			out = append(out, candidate{m.Name, m.Label})
		case m.Name:
			for _, f := range m.Fields {
				out = append(out, candidate{f.Name, f.Label})
			}
		}
	}
	return out
}

func (c completeCmd) instrumentations(ctx context.Context) []candidate {
	all, _, err := pages[instrumentationView](ctx, c.client(), listDocument, map[string]any{}, 100)
	if err != nil {
		return nil
	}
	var out []candidate
	for _, i := range all {
		out = append(out, candidate{i.ID, strings.TrimSpace(i.Metric.Name + " " + i.name())})
	}
	return out
}

func (c completeCmd) hosts(ctx context.Context) []candidate {
	all, _, err := pages[hostView](ctx, c.client(), fleetDocument, map[string]any{}, 100)
	if err != nil {
		return nil
	}
	var out []candidate
	for _, h := range all {
		out = append(out, candidate{h.UUID, h.Name})
	}
	return out
}

func (c completeCmd) guards(ctx context.Context) []candidate {
	var all []struct{ ID, Reason string }
	if err := c.client().one(ctx, guardsDocument, nil, &all); err != nil {
		return nil
	}
	var out []candidate
	for _, g := range all {
		out = append(out, candidate{g.ID, g.Reason})
	}
	return out
}
