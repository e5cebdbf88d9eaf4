//go:build !linux

package poll

import (
	"errors"
	"net"
)

// Poller is not there on this system.
type Poller struct{}

// New fails with errors.ErrUnsupported.
func New() (*Poller, error) { return nil, errors.ErrUnsupported }

// Take fails with errors.ErrUnsupported.
func (*Poller) Take(net.Conn, Handler) (*Conn, error) { return nil, errors.ErrUnsupported }

// Close does nothing.
func (*Poller) Close() {}

// Conn is not there on this system.
type Conn struct{}

// WatchRead fails with errors.ErrUnsupported.
func (*Conn) WatchRead(bool) error { return errors.ErrUnsupported }

// WatchWrite fails with errors.ErrUnsupported.
func (*Conn) WatchWrite(bool) error { return errors.ErrUnsupported }

// Read fails with errors.ErrUnsupported.
func (*Conn) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// Write fails with errors.ErrUnsupported.
func (*Conn) Write([]byte) (int, error) { return 0, errors.ErrUnsupported }

// Close does nothing.
func (*Conn) Close() {}
