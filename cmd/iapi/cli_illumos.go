package main

import "fmt"

// serverCommands are the parts that this build lacks: the task queue does not build for illumos.
type serverCommands struct {
	Dev    missingCmd `cmd:"" group:"run" help:"Not available on illumos."`
	API    missingCmd `cmd:"" name:"api" group:"run" help:"Not available on illumos."`
	Worker missingCmd `cmd:"" group:"run" help:"Not available on illumos."`
}

// missingCmd says plainly that a part is not in this build, whatever flags it is given.
type missingCmd struct {
	Args []string `arg:"" optional:"" passthrough:"" hidden:""`
}

func (missingCmd) Run() error {
	return &exitError{code: exitFailed, err: fmt.Errorf("dev, api and worker are not available on illumos: run them on Linux; this program has the agent and the client")}
}
