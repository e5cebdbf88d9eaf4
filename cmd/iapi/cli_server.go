//go:build !illumos

package main

// serverCommands are the parts that need the task queue, which does not build for illumos.
type serverCommands struct {
	Dev    devCmd    `cmd:"" group:"run" help:"Run everything in one process on this machine: API, worker, agent, inventory, Data API and store."`
	API    apiCmd    `cmd:"" name:"api" group:"run" help:"Run an API server."`
	Worker workerCmd `cmd:"" group:"run" help:"Run a worker: it evaluates scopes, follows the inventory and writes assignments."`
}
