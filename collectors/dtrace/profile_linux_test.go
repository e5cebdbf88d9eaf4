package dtrace

import (
	"fmt"
	"testing"
	"time"

	"iapi/catalog"
)

// profileVariant samples what runs, which no definition may do yet.
func profileVariant() catalog.Variant {
	fields := map[string]catalog.TraceField{
		"execname":  {CType: "str", Expr: "comm"},
		"pid":       {CType: "uint", Expr: "pid"},
		"subsecond": {CType: "uint", Expr: "(nsecs % 1000000000) / 1000000"},
	}
	return catalog.Variant{
		ID: "linux-profile", Scope: catalog.ScopeCgroup, Places: []catalog.Place{catalog.Host, catalog.Zone}, Fields: []string{"execname", "pid", "subsecond"},
		Source: catalog.Source{Bpftrace: &catalog.TraceSource{Clauses: []catalog.Clause{
			{Probes: []string{"profile:hz:99"}, Role: catalog.Event, If: "pid != 0", Fields: fields},
		}}},
	}
}

func TestProfilesAreCounted(t *testing.T) {
	needTracer(t)
	d := definition(t, "cpu.thread_samples")
	d.Variants = append(d.Variants, profileVariant())
	h := newHelper(t)
	p := open(t, newEngine(t, Options{}), wish(d, fmt.Sprintf(`{"eq":["pid","%d"]}`, h.cmd.Process.Pid), "subsecond"))
	deadline := time.Now().Add(20 * time.Second)
	for sum := (tally{}); ; {
		h.do("getppid 300000")
		if drain(t, p, &sum); sum.sums[""] > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("a busy process was never seen")
		}
	}
}
