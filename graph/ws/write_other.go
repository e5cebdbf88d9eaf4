//go:build !unix

package ws

import (
	"net"
	"syscall"
)

func rawConn(net.Conn) syscall.RawConn { return nil }

// tryWrite never writes anything here: a goroutine writes every frame.
func tryWrite(syscall.RawConn, []byte) (int, error) { return 0, nil }
