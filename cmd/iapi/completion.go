package main

import "fmt"

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help is what "iapi completion --help" adds.
func (completionCmd) Help() string {
	return `It completes commands, flags and their values: metrics, fields, ids of instrumentations and hosts come from the server.

In ~/.bashrc, ~/.zshrc (after compinit) or ~/.config/fish/config.fish:

  source <(iapi completion bash)
  source <(iapi completion zsh)
  iapi completion fish | source`
}

// Run writes a script that asks "iapi complete" what may stand next, so that it never grows old.
func (c completionCmd) Run(s streams) error {
	_, err := fmt.Fprint(s.out, map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}[c.Shell])
	return err
}

const bashScript = `_iapi() {
  local IFS=$'\n' current="${COMP_WORDS[COMP_CWORD]}" reply
  reply=($("${COMP_WORDS[0]}" complete bash "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
  if [ "${reply[0]}" = :files ]; then
    [ "$current" = = ] && current=
    compopt -o filenames 2>/dev/null
    reply=($(compgen -f -- "$current"))
  fi
  COMPREPLY=("${reply[@]}")
}
complete -F _iapi iapi
`

const zshScript = `_iapi() {
  local -a reply
  reply=("${(@f)$("${words[1]}" complete zsh "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ "${reply[1]}" == :files ]]; then
    compset -P '--*='
    _files
  elif [[ -n "${reply[1]}" ]]; then
    _describe -V iapi reply
  fi
}
compdef _iapi iapi
`

const fishScript = `function __iapi_complete
  set -l words (commandline -opc) (commandline -ct)
  set -l reply ($words[1] complete fish $words[2..-1] 2>/dev/null)
  if test "$reply[1]" = :files
    set -l prefix (string match -r -- '^--[^=]+=' (commandline -ct))
    for path in (__fish_complete_path (string replace -- "$prefix" '' (commandline -ct)))
      echo "$prefix$path"
    end
  else
    printf '%s\n' $reply
  end
end
complete -c iapi -f -a '(__iapi_complete)'
`
