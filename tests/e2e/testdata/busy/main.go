// Command busy uses one processor until it is killed: something to measure in a container.
package main

import "runtime"

func main() {
	runtime.GOMAXPROCS(1)
	for {
		runtime.Gosched()
	}
}
