//go:build !linux

package light

import (
	"context"
	"errors"
)

// Fleet is many agents that run, on Linux.
type Fleet struct{}

// Start cannot start any.
func Start(context.Context, Options) (*Fleet, error) {
	return nil, errors.New("light agents need Linux' epoll")
}

func (*Fleet) Ready() <-chan struct{} { return nil }
func (*Fleet) Waiting() int           { return 0 }
func (*Fleet) Dials() int64           { return 0 }
func (*Fleet) Err() error             { return nil }
func (*Fleet) Stop()                  {}
