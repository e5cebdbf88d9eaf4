package store

import (
	"net"
	"sync"
)

// roomy is a server's end of a connection whose writes never wait for the reader. The embedded server answers each command of
// a pipeline before it reads the next, and a client writes the whole pipeline before it reads: with a pipe between them, or
// with full socket buffers, each would wait for the other. What is kept is no more than the answers to one pipeline.
type roomy struct {
	net.Conn
	mu     sync.Mutex
	filled sync.Cond
	buf    []byte
	err    error // of the writer, or net.ErrClosed
}

// newRoomy takes over a connection. Its goroutine ends when the connection is closed.
func newRoomy(c net.Conn) *roomy {
	r := &roomy{Conn: c}
	r.filled.L = &r.mu
	go r.drain()
	return r
}

// Write keeps p and returns.
func (r *roomy) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return 0, r.err
	}
	r.buf = append(r.buf, p...)
	r.filled.Signal()
	return len(p), nil
}

// Close ends the connection; what was not sent is dropped.
func (r *roomy) Close() error {
	r.mu.Lock()
	if r.err == nil {
		r.err = net.ErrClosed
	}
	r.filled.Signal()
	r.mu.Unlock()
	return r.Conn.Close()
}

func (r *roomy) drain() {
	var out []byte
	for {
		r.mu.Lock()
		for len(r.buf) == 0 && r.err == nil {
			r.filled.Wait()
		}
		if r.err != nil {
			r.mu.Unlock()
			return
		}
		out, r.buf = r.buf, out[:0]
		r.mu.Unlock()
		if _, err := r.Conn.Write(out); err != nil {
			r.mu.Lock()
			r.err = err
			r.mu.Unlock()
			return
		}
	}
}
