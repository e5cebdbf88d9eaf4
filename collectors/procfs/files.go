package procfs

import (
	"sync"
	"time"
)

// files reads each file once for all probes that measure the same interval. The zero files is ready for use.
type files struct {
	mu  sync.Mutex
	all map[string]*reading
	at  time.Time // the end of the newest interval
	old time.Time // that before it
}

// reading is what a file said, for one interval.
type reading struct {
	mu     sync.Mutex // whoever has it may look at text
	reader reader
	text   []byte
	err    error
	at     int64 // when it was read, in ns of a monotonic clock

	interval time.Time // guarded by mu: what it was read for
	used     time.Time // guarded by files.mu: what it was last asked for
}

const (
	maxReadings = 512                    // files that are kept, of a few KiB each
	maxKept     = 64 << 10               // bytes of one; larger buffers are not
	maxAge      = 500 * time.Millisecond // of a reading that is shared: who comes later gets one of its own
)

// read gives what the file says for the interval that ends at the given time. The caller has to unlock it, and may look at it
// until then.
func (f *files) read(path string, interval time.Time, now func() int64) *reading {
	r := f.of(path, interval)
	r.mu.Lock()
	if r.interval.Equal(interval) && !interval.IsZero() && time.Duration(now()-r.at) < maxAge {
		return r
	}
	if cap(r.reader.buf) > maxKept {
		r.reader.buf = nil
	}
	r.text, r.err = r.reader.read(path)
	r.at, r.interval = now(), interval
	return r
}

// of finds the reading of a file, or makes one, which is not kept where there are too many.
func (f *files) of(path string, interval time.Time) *reading {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !interval.Equal(f.at) {
		f.old, f.at = f.at, interval
	}
	r := f.all[path]
	if r == nil {
		r = new(reading)
		if len(f.all) >= maxReadings {
			f.forget()
		}
		if f.all == nil {
			f.all = make(map[string]*reading)
		}
		if len(f.all) < maxReadings {
			f.all[path] = r
		}
	}
	r.used = interval
	return r
}

// forget drops what was asked for neither now nor last time.
func (f *files) forget() {
	for path, r := range f.all {
		if !r.used.Equal(f.at) && !r.used.Equal(f.old) {
			delete(f.all, path)
		}
	}
}
