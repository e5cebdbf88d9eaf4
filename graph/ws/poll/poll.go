// Package poll watches many sockets with one goroutine, so that a connection on which nothing happens costs its descriptor
// and a few words. It is there where the system tells which sockets are ready: on Linux.
package poll

// Handler is told by a Poller's goroutine what a Conn can do now, by one call at a time. It must not wait: meanwhile nobody
// else is told anything. A call may find that there is nothing to do after all.
type Handler interface {
	// Readable: there is something to read, or the end. buf may be used until the call returns.
	Readable(buf []byte)
	// Writable: the peer takes more.
	Writable()
}
