package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

type docsCmd struct {
	File string `arg:"" optional:"" help:"Write it here. Without: to the standard output."`
}

// Run writes the reference of the command line, as Markdown, from the same description that parses it.
func (c docsCmd) Run(s streams) error {
	parser, err := newParser("~/.local/share/iapi")
	if err != nil {
		return err
	}
	var page bytes.Buffer
	writeDocs(&page, parser.Model)
	if c.File == "" {
		_, err := s.out.Write(page.Bytes())
		return err
	}
	return os.WriteFile(c.File, page.Bytes(), 0o644)
}

func writeDocs(w io.Writer, app *kong.Application) {
	fmt.Fprint(w, "<!-- Made by go generate ./cmd/iapi; edit what the commands say about themselves instead. -->\n\n# The command line\n\n")
	fmt.Fprintf(w, "%s\n", markdownDetail(app.Help))
	title := ""
	for _, node := range app.Leaves(true) {
		if g := node.ClosestGroup(); g != nil && g.Title != title {
			title = g.Title
			fmt.Fprintf(w, "\n**%s**\n\n| command | what it does |\n| --- | --- |\n", strings.TrimSuffix(title, ":"))
		}
		name := commandPath(node)
		fmt.Fprintf(w, "| [%s](#%s) | %s |\n", name, strings.ReplaceAll(name, " ", "-"), markdownCell(node.Help))
	}
	fmt.Fprint(w, "\n## Flags of every client command\n")
	for _, node := range app.Leaves(true) {
		if node.Name == "list" {
			writeFlags(w, node, "common", true)
		}
	}
	for _, node := range app.Leaves(true) {
		fmt.Fprintf(w, "\n## %s\n\n%s\n\n    iapi %s\n", commandPath(node), node.Help, node.Summary())
		if node.Detail != "" {
			fmt.Fprintf(w, "\n%s\n", markdownDetail(node.Detail))
		}
		if len(node.Positional) > 0 {
			fmt.Fprint(w, "\n| argument | what |\n| --- | --- |\n")
			for _, a := range node.Positional {
				fmt.Fprintf(w, "| `%s` | %s |\n", a.Summary(), markdownCell(a.Help))
			}
		}
		writeFlags(w, node, "common", false)
	}
}

// writeFlags writes the flags of a command that are of a group, or all others.
func writeFlags(w io.Writer, node *kong.Node, group string, of bool) {
	head := "\n| flag | default | what |\n| --- | --- | --- |\n"
	for _, flags := range node.AllFlags(true) {
		for _, f := range flags {
			if f.Name == "help" || (f.Group != nil && f.Group.Key == group) != of {
				continue
			}
			fmt.Fprint(w, head)
			head = ""
			usage := "--" + f.Name
			switch {
			case f.IsBool() && f.Tag.Negatable != "":
				usage = "--[no-]" + f.Name
			case !f.IsBool():
				usage += " " + placeholder(f)
			}
			if f.Short != 0 {
				usage = "-" + string(f.Short) + ", " + usage
			}
			value := ""
			if f.HasDefault && f.Default != "" {
				value = "`" + f.Default + "`"
			}
			fmt.Fprintf(w, "| `%s` | %s | %s |\n", usage, value, markdownCell(f.Help))
		}
	}
}

// placeholder is what stands for the flag's value where it has no default to show.
func placeholder(f *kong.Flag) string {
	if f.PlaceHolder != "" {
		return f.PlaceHolder
	}
	switch f.Target.Interface().(type) {
	case count, bound, int:
		return "N"
	case period, pause, seconds, time.Duration:
		return "TIME"
	case share, rate, float64:
		return "NUMBER"
	}
	return strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
}

// commandPath is how a command is called: "metrics lint".
func commandPath(node *kong.Node) string {
	var names []string
	for n := node; n != nil && n.Type == kong.CommandNode; n = n.Parent {
		names = append([]string{n.Name}, names...)
	}
	return strings.Join(names, " ")
}

// markdownDetail makes help texts Markdown: what is indented there is code.
func markdownDetail(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "  ") {
			lines[i] = "  " + l
		}
	}
	return strings.Join(lines, "\n")
}

// markdownCell keeps a text from being read as Markdown.
func markdownCell(text string) string {
	return strings.NewReplacer("|", `\|`, "*", `\*`, "_", `\_`, "<", `\<`, "\n", " ").Replace(strings.TrimSpace(text))
}
