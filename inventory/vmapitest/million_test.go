package vmapitest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// heap is what is in use, in bytes.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestAVMTakesLittleMemory(t *testing.T) {
	const vms = 50_000
	before := heap()
	s := New(Options{})
	defer s.Close()
	require.NoError(t, s.Fill(GenerateOptions{Seed: 1, VMs: vms, Hosts: vms / 100, Owners: vms / 200}))
	require.Len(t, s.VMs(), vms)
	per := (heap() - before) / vms
	runtime.KeepAlive(s)
	t.Logf("%d bytes per VM", per)
	require.Less(t, per, uint64(600))
}

// BenchmarkFleet fills the simulator by its control over HTTP, as with iapi vmapi, and walks once through all pages.
func BenchmarkFleet(b *testing.B) {
	for _, vms := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprintf("vms=%d", vms), func(b *testing.B) {
			for b.Loop() {
				before := heap()
				s := New(Options{})
				web := httptest.NewServer(s.Handler())
				begun := time.Now()
				order := fmt.Sprintf(`{"seed":8,"hosts":%d,"vms":%d,"owners":%d}`, vms/100, vms, vms/200)
				resp, err := http.Post(web.URL+"/sim/generate", "application/json", strings.NewReader(order))
				require.NoError(b, err)
				require.NoError(b, resp.Body.Close())
				require.Equal(b, http.StatusOK, resp.StatusCode)
				filled := time.Since(begun)
				seen, last := 0, ""
				for {
					resp, err := http.Get(web.URL + "/vms?limit=1000&fields=uuid" + last)
					require.NoError(b, err)
					var page []struct {
						UUID string `json:"uuid"`
					}
					require.NoError(b, json.NewDecoder(resp.Body).Decode(&page))
					require.NoError(b, resp.Body.Close())
					if len(page) == 0 {
						break
					}
					seen += len(page)
					last = "&marker=" + url.QueryEscape(`{"uuid":"`+page[len(page)-1].UUID+`"}`)
				}
				require.Equal(b, vms, seen)
				b.ReportMetric(float64(heap()-before)/float64(vms), "B/VM")
				b.ReportMetric(filled.Seconds(), "fill-s")
				web.Close()
				s.Close()
			}
		})
	}
}
