package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help is what "iapi completion --help" adds.
func (completionCmd) Help() string {
	return `For example, in ~/.bashrc:  source <(iapi completion bash)`
}

// Run writes a script made from the same description of the command line that parses it.
func (c completionCmd) Run(s streams, parser *kong.Kong) error {
	commands := make(map[string][]string)
	var names []string
	for _, node := range parser.Model.Leaves(true) {
		name := node.Name
		if node.Parent != nil && node.Parent.Type == kong.CommandNode { // "iapi metrics lint" completes as a word of metrics
			name = node.Parent.Name
			commands[name] = append(commands[name], node.Name)
		}
		names = append(names, name)
		for _, group := range node.AllFlags(true) {
			for _, flag := range group {
				commands[name] = append(commands[name], "--"+flag.Name)
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for _, name := range names {
		slices.Sort(commands[name])
		commands[name] = slices.Compact(commands[name])
	}
	switch c.Shell {
	case "bash", "zsh":
		if c.Shell == "zsh" {
			fmt.Fprintln(s.out, "autoload -U +X bashcompinit && bashcompinit")
		}
		fmt.Fprintln(s.out, "_iapi() {")
		fmt.Fprintln(s.out, `  local words="" current="${COMP_WORDS[COMP_CWORD]}"`)
		fmt.Fprintln(s.out, `  if [ "$COMP_CWORD" -eq 1 ]; then`)
		fmt.Fprintf(s.out, "    words=%q\n", strings.Join(names, " "))
		fmt.Fprintln(s.out, `  else case "${COMP_WORDS[1]}" in`)
		for _, name := range names {
			fmt.Fprintf(s.out, "    %s) words=%q ;;\n", name, strings.Join(commands[name], " "))
		}
		fmt.Fprintln(s.out, "  esac; fi")
		fmt.Fprintln(s.out, `  COMPREPLY=($(compgen -W "$words" -- "$current"))`)
		fmt.Fprintln(s.out, "}")
		fmt.Fprintln(s.out, "complete -o default -F _iapi iapi")
	case "fish":
		for _, name := range names {
			fmt.Fprintf(s.out, "complete -c iapi -f -n __fish_use_subcommand -a %s\n", name)
			for _, word := range commands[name] {
				option := "-f -a"
				if strings.HasPrefix(word, "--") {
					option, word = "-l", strings.TrimPrefix(word, "--")
				}
				fmt.Fprintf(s.out, "complete -c iapi -n '__fish_seen_subcommand_from %s' %s %s\n", name, option, word)
			}
		}
	}
	return nil
}
