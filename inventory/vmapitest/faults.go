package vmapitest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"
)

// FaultMode is a way to fail.
type FaultMode string

// The ways to fail.
const (
	FaultError       FaultMode = "error"       // 500 without a code, as when the data base fails; 503 for /ping
	FaultUnavailable FaultMode = "unavailable" // 503, as while starting
	FaultHang        FaultMode = "hang"        // no answer until the client gives up
	FaultDrop        FaultMode = "drop"        // the connection is closed without an answer
	FaultTruncate    FaultMode = "truncate"    // the connection is closed in the middle of the answer
	FaultWrongJSON   FaultMode = "wrong-json"  // 200 with half of the answer, well delivered
	FaultEmptyList   FaultMode = "empty-list"  // 200 with [], whatever there is
	FaultForget      FaultMode = "forget-half" // every second VM is not known
	FaultFeedSilent  FaultMode = "feed-silent" // no message reaches any listener, pings are answered
	FaultFeedFrozen  FaultMode = "feed-frozen" // as silent, and pings are not answered
	FaultFeedLoss    FaultMode = "feed-loss"   // a share of the changes is not told
)

// FaultModes are all of them.
var FaultModes = []FaultMode{
	FaultError, FaultUnavailable, FaultHang, FaultDrop, FaultTruncate, FaultWrongJSON, FaultEmptyList, FaultForget,
	FaultFeedSilent, FaultFeedFrozen, FaultFeedLoss,
}

// Fault is one way in which the simulator fails.
type Fault struct {
	Mode  FaultMode `json:"mode"`
	Path  string    `json:"path,omitempty"`  // only requests whose path begins so; "": all
	Share float64   `json:"share,omitempty"` // of the requests or changes that it strikes, by dice; 0: all
	Times int       `json:"times,omitempty"` // strikes after which it is over; 0: it lasts
}

// SetFaults replaces the faults; none heals everything.
func (s *Server) SetFaults(list ...Fault) error {
	for i, f := range list {
		if !slices.Contains(FaultModes, f.Mode) {
			return fmt.Errorf("faults[%d]: mode: %q is unknown", i, f.Mode)
		}
		if f.Share < 0 || f.Share > 1 {
			return fmt.Errorf("faults[%d]: share: %v is not between 0 and 1", i, f.Share)
		}
		if f.Times < 0 {
			return fmt.Errorf("faults[%d]: times: %d is negative", i, f.Times)
		}
	}
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.list = slices.Clone(list)
	return nil
}

// Faults returns those that are not over.
func (s *Server) Faults() []Fault {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	return slices.Clone(s.faults.list)
}

type faults struct {
	mu   sync.Mutex
	list []Fault
	dice *rand.Rand
}

// strikes reports whether a fault of one of the modes strikes now, and which.
func (f *faults) strikes(path string, modes ...FaultMode) FaultMode {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.list {
		fault := &f.list[i]
		if !slices.Contains(modes, fault.Mode) || !strings.HasPrefix(path, fault.Path) {
			continue
		}
		if fault.Share > 0 && f.dice.Float64() >= fault.Share {
			continue
		}
		mode := fault.Mode
		if fault.Times > 0 {
			if fault.Times--; fault.Times == 0 {
				f.list = slices.Delete(f.list, i, i+1)
			}
		}
		return mode
	}
	return ""
}

// forgets reports whether every second VM is forgotten, at this question.
func (f *faults) forgets() bool { return f.strikes("/vms", FaultForget) != "" }

func forgotten(id uuid.UUID) bool { return id[15]%2 == 1 }

func (f *faults) feedSilent() bool {
	return f.strikes("/changefeeds", FaultFeedSilent, FaultFeedFrozen) != ""
}

// strike answers a request with the fault that is due, or properly.
func (s *Server) strike(w http.ResponseWriter, r *http.Request, api http.Handler) {
	mode := s.faults.strikes(r.URL.Path, FaultError, FaultUnavailable, FaultHang, FaultDrop, FaultTruncate, FaultWrongJSON, FaultEmptyList)
	switch mode {
	case "":
		api.ServeHTTP(w, r)
	case FaultError:
		if r.URL.Path == "/ping" {
			writeJSON(w, r, http.StatusServiceUnavailable, map[string]any{
				"status": "some services are not ready", "healthy": false,
				"services": map[string]string{"moray": "offline", "wfapi": "online"},
			})
			return
		}
		writeJSON(w, r, http.StatusInternalServerError, problem{Message: "request failed: server error: no connections available"})
	case FaultUnavailable:
		writeJSON(w, r, http.StatusServiceUnavailable, problem{
			Code: "MorayBucketsNotSetup", Message: "Moray buckets are not setup", InitError: "no connections available",
		})
	case FaultHang:
		s.wait(r.Context())
		s.hangUp(w)
	case FaultDrop:
		s.hangUp(w)
	case FaultEmptyList:
		writeBody(w, r, http.StatusOK, []byte("[]"))
	case FaultTruncate, FaultWrongJSON:
		kept := &keeper{header: w.Header(), status: http.StatusOK}
		api.ServeHTTP(kept, r)
		half := kept.body.Bytes()[:kept.body.Len()/2]
		if mode == FaultWrongJSON {
			writeBody(w, r, kept.status, half)
			return
		}
		// Fewer bytes than Content-Length promises: the server closes the connection.
		w.WriteHeader(kept.status)
		_, _ = w.Write(half)
	}
}

// keeper keeps an answer instead of sending it.
type keeper struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (k *keeper) Header() http.Header         { return k.header }
func (k *keeper) WriteHeader(status int)      { k.status = status }
func (k *keeper) Write(b []byte) (int, error) { return k.body.Write(b) }
