// Package debugport tells what a process uses, and lets it be profiled, on a loopback port of its own. The load tool builds
// it into the programs that it measures; the program as it is shipped does not have it.
package debugport

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// AddressFile is the variable of the environment that names a file. FromEnv writes its address there.
const AddressFile = "IAPI_DEBUG_ADDRESS_FILE"

// Usage is what a process uses. Memory is in bytes.
type Usage struct {
	CPU         time.Duration `json:"cpu"` // user and system, since the start
	RSS         int64         `json:"rss"`
	PeakRSS     int64         `json:"peakRSS"` // since the last Reset
	Heap        int64         `json:"heap"`    // spans in use
	Stack       int64         `json:"stack"`
	Goroutines  int           `json:"goroutines"`
	Descriptors int           `json:"descriptors"`
}

// FromEnv opens the port if the environment asks for it. A process that cannot open it ends, for it would not be measured.
func FromEnv() {
	file := os.Getenv(AddressFile)
	if file == "" {
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		err = writeWhole(file, l.Addr().String())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "open the debug port:", err)
		os.Exit(1)
	}
	go func() { _ = http.Serve(l, Handler()) }()
}

// writeWhole writes a file that nobody ever sees in part.
func writeWhole(file, text string) error {
	part := filepath.Join(filepath.Dir(file), "."+filepath.Base(file))
	if err := os.WriteFile(part, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(part, file)
}

// Handler serves /usage, and net/http/pprof below /debug/pprof/. With ?free, /usage first collects garbage and gives memory
// back; with ?reset, it lets the peak begin anew.
func Handler() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/usage", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("free") {
			runtime.GC() // what finalizers and pools let go of is free after the second
			debug.FreeOSMemory()
		}
		u := read()
		if r.URL.Query().Has("reset") {
			_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(u) // who asked has gone
	})
	return mux
}

func read() Usage {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u := Usage{Heap: int64(m.HeapInuse), Stack: int64(m.StackInuse), Goroutines: runtime.NumGoroutine()}
	var used syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &used) == nil {
		u.CPU = time.Duration(used.Utime.Nano() + used.Stime.Nano())
	}
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		u.RSS, u.PeakRSS = kilobytes(status, "VmRSS:"), kilobytes(status, "VmHWM:")
	}
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		u.Descriptors = len(open)
	}
	return u
}

func kilobytes(status []byte, name string) int64 {
	_, rest, _ := bytes.Cut(status, []byte(name))
	line, _, _ := strings.Cut(string(rest[:min(len(rest), 64)]), "\n")
	n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(line), " kB"), 10, 64)
	return n << 10
}
