package dtrace

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// devices names block devices as sysfs does.
type devices struct{ sys string }

const minorBits = 20 // of the kernel's own device numbers

// Number implements program.Devices.
func (d devices) Number(name string) (uint64, bool) {
	if name == "" || name != filepath.Base(name) {
		return 0, false
	}
	text, err := os.ReadFile(filepath.Join(d.sys, "class/block", name, "dev"))
	if err != nil {
		return 0, false
	}
	major, minor, _ := strings.Cut(strings.TrimSpace(string(text)), ":")
	high, err := strconv.ParseUint(major, 10, 12)
	low, err2 := strconv.ParseUint(minor, 10, minorBits)
	return high<<minorBits | low, err == nil && err2 == nil
}

// Name implements program.Devices.
func (d devices) Name(dev uint64) (string, bool) {
	link, err := os.Readlink(filepath.Join(d.sys, "dev/block", fmt.Sprintf("%d:%d", dev>>minorBits, dev&(1<<minorBits-1))))
	if err != nil {
		return "", false
	}
	return filepath.Base(link), true
}
