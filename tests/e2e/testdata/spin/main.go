// Command spin computes in one function until it is killed: a stack that is known.
package main

func main() { spinInTheOpen() }

//go:noinline
func spinInTheOpen() {
	for n := 0; ; n++ {
		sink = n
	}
}

var sink int
