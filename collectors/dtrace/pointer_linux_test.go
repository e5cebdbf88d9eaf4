package dtrace

import (
	"io/fs"
	"syscall"
	"unsafe"
)

// bytesPointer is what prctl takes for a text.
func bytesPointer(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }

func inode(info fs.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }
