package placement

import (
	"fmt"
	"math/rand"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/labels"

	"iapi/instrumentation"
	"iapi/inventory"
)

// fleet is a synthetic datacenter: 50,000 owners, 10,000 hosts, 6.8 tags on each VM from 100 keys and 33,000 pairs, all
// with Zipf's distribution.
type fleet struct {
	r      *rand.Rand
	keys   []string
	values [][]string
	weight []float64
	zipf   []*rand.Zipf
	owner  *rand.Zipf
	freq   map[string]int // of key=value, in the sample
	sample []inventory.VM
}

func newFleet(sample int) *fleet {
	f := &fleet{r: rand.New(rand.NewSource(1)), freq: map[string]int{}}
	key := func(name string, values int, weight, s float64) {
		v := make([]string, values)
		for i := range v {
			v[i] = fmt.Sprintf("%.3s-%d", name, i)
		}
		f.keys, f.values, f.weight = append(f.keys, name), append(f.values, v), append(f.weight, weight)
		f.zipf = append(f.zipf, rand.NewZipf(f.r, s, 1, uint64(values-1)))
	}
	key("env", 5, .90, 1.3)
	key("role", 60, .80, 1.2)
	key("team", 500, .70, 1.1)
	key("app", 5000, .65, 1.1)
	key("tier", 4, .50, 1.2)
	key("version", 1000, .45, 1.1)
	key("cost-center", 300, .40, 1.1)
	key("backup", 3, .35, 1.5)
	key("os", 25, .30, 1.3)
	key("cluster", 2000, .25, 1.05)
	key("customer", 20000, .20, 1.05)
	key("compliance", 6, .12, 1.2)
	key("gpu", 4, .05, 1.2)
	key("canary", 2, .02, 1.1)
	key("maintenance", 7, .01, 1.1)
	for i := range 85 {
		key(fmt.Sprintf("x-label-%02d", i), 50, .35/float64(i+4), 1.2)
	}
	f.owner = rand.NewZipf(f.r, 1.1, 20, 49_999)
	for i := range sample {
		vm := f.vm(i)
		f.sample = append(f.sample, vm)
		for k, v := range vm.Tags {
			f.freq[k+"="+v]++
		}
	}
	return f
}

func wide(kind byte, n int) uuid.UUID {
	u := uuid.UUID{kind, 6: 0x40, 8: 0x80}
	u[12], u[13], u[14], u[15] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	return u
}

func (f *fleet) vm(i int) inventory.VM {
	vm := inventory.VM{UUID: wide(3, i), Owner: wide(1, int(f.owner.Uint64())), Host: wide(2, f.r.Intn(10_000)), State: "running", Tags: map[string]string{}}
	for k := range f.keys {
		if f.r.Float64() < f.weight[k] {
			vm.Tags[f.keys[k]] = f.values[k][f.zipf[k].Uint64()]
		}
	}
	return vm
}

type pair struct{ k, v string }

func (p pair) scope() instrumentation.Scope {
	return instrumentation.Scope{VMTag: &instrumentation.TagMatch{Key: p.k, In: []string{p.v}}}
}

func hasKey(k string) instrumentation.Scope {
	return instrumentation.Scope{VMTag: &instrumentation.TagMatch{Key: k}}
}

// pairOf returns a tag of a random VM; a narrow one is carried by fewer than one VM in 500.
func (f *fleet) pairOf(narrow bool) (pair, inventory.VM) {
	for {
		vm := f.sample[f.r.Intn(len(f.sample))]
		n := f.r.Intn(max(1, len(vm.Tags)))
		for k, v := range vm.Tags {
			if n--; n < 0 {
				if !narrow || f.freq[k+"="+v] < len(f.sample)/500 {
					return pair{k, v}, vm
				}
				break
			}
		}
	}
}

// record makes one scope of the mix: 40 % tag and tag, 20 % owner and tag, 10 % owner, 10 % tag and not tag, 9 % one of
// 2–10 tags and a key, 5 % key and tag, 5.5 % host, 0.5 % not tag.
func (f *fleet) record(n int, narrow bool) *instrumentation.Instrumentation {
	rec := &instrumentation.Instrumentation{ID: instrumentation.ID(fmt.Sprintf("i%06d", n))}
	p, vm := f.pairOf(narrow)
	q := p
	for k, v := range vm.Tags {
		if k != p.k {
			q = pair{k, v}
			break
		}
	}
	and := func(s ...instrumentation.Scope) instrumentation.Scope { return instrumentation.Scope{And: s} }
	another := func() instrumentation.Scope { p, _ := f.pairOf(narrow); return p.scope() }
	not := func(s instrumentation.Scope) instrumentation.Scope { return instrumentation.Scope{Not: &s} }
	switch x := f.r.Float64(); {
	case x < .40:
		rec.Scope = and(p.scope(), q.scope())
	case x < .60:
		rec.Owner, rec.Scope = vm.Owner, q.scope()
	case x < .70:
		rec.Owner, rec.Scope = vm.Owner, instrumentation.Scope{All: true}
	case x < .80:
		rec.Scope = and(p.scope(), not(another()))
	case x < .89:
		var any []instrumentation.Scope
		for range 2 + f.r.Intn(9) {
			any = append(any, another())
		}
		rec.Scope = and(instrumentation.Scope{Or: any}, hasKey("env"))
	case x < .94:
		rec.Scope = and(hasKey(q.k), another())
	case x < .995:
		rec.Scope = and(instrumentation.Scope{Hosts: []uuid.UUID{vm.Host}}, instrumentation.Scope{All: true})
	default:
		rec.Scope = not(another())
	}
	return rec
}

// cpuTime is the processor time that this process had used at some point. On a machine that is shared it says more than
// the clock.
type cpuTime time.Duration

func startCPU() cpuTime {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail for oneself
	return cpuTime(u.Utime.Nano() + u.Stime.Nano())
}

func (c cpuTime) report(b *testing.B) {
	b.ReportMetric(float64(startCPU()-c)/float64(b.N), "cpu-ns/op")
}

// affected has 100,000 scopes in the forms in which they are tried, and the VMs that change.
type affected struct {
	vms       []inventory.VM
	set       *Set
	matchers  []*Matcher
	selectors []labels.Selector
}

func newAffected(narrow bool) func() *affected {
	return sync.OnceValue(func() *affected {
		f := newFleet(100_000)
		a := &affected{vms: f.sample, set: NewSet()}
		for i := range 100_000 {
			rec := f.record(i, narrow)
			a.set.Add(rec)
			a.matchers = append(a.matchers, Compile(rec.Scope, rec.Owner))
			a.selectors = append(a.selectors, selector(rec.Scope, rec.Owner))
		}
		var dst []*instrumentation.Instrumentation
		for i := range 70_000 { // so that the scopes are filed by what has been learnt
			dst = a.set.ForVM(dst[:0], &a.vms[i], nil)
		}
		return a
	})
}

func (a *affected) event(i int) *inventory.VM { return &a.vms[i*7919%len(a.vms)] }

// BenchmarkAffected finds the scopes that one VM event concerns, beside trying each of them with the same matcher and with
// Kubernetes' selectors.
func BenchmarkAffected(b *testing.B) {
	for _, c := range []struct {
		name string
		all  func() *affected
	}{{"matching=500", newAffected(true)}, {"matching=5000", newAffected(false)}} {
		run := func(name string, fn func(a *affected, i int) int) {
			b.Run("selectors=100000/"+c.name+name, func(b *testing.B) {
				a, matches := c.all(), 0
				b.ReportAllocs()
				b.ResetTimer()
				cpu := startCPU()
				for i := range b.N {
					matches += fn(a, i)
				}
				cpu.report(b)
				b.ReportMetric(float64(matches)/float64(b.N), "matches/op")
				if name == "" {
					b.ReportMetric(float64(a.set.Stats().Unindexable), "unindexable")
				}
			})
		}
		dst := make([]*instrumentation.Instrumentation, 0, 100_000)
		run("", func(a *affected, i int) int {
			dst = a.set.ForVM(dst[:0], a.event(i), nil)
			return len(dst)
		})
		run(",linear", func(a *affected, i int) (n int) {
			vm := a.event(i)
			for _, m := range a.matchers {
				if m.Match(vm, nil) {
					n++
				}
			}
			return n
		})
		run(",kubernetes", func(a *affected, i int) (n int) {
			vm := label(a.event(i))
			for _, s := range a.selectors {
				if s.Matches(&vm) {
					n++
				}
			}
			return n
		})
	}
}

// BenchmarkSetAdd registers and removes one scope among 100,000.
func BenchmarkSetAdd(b *testing.B) {
	f := newFleet(100_000)
	set := NewSet()
	for i := range 100_000 {
		set.Add(f.record(i, true))
	}
	more := make([]*instrumentation.Instrumentation, 1000)
	for i := range more {
		more[i] = f.record(200_000+i, true)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		rec := more[i%len(more)]
		set.Add(rec)
		set.Remove(rec.ID)
	}
}

var million = sync.OnceValues(func() (*Inventory, []inventory.VM) {
	f := newFleet(0)
	x, vms := NewInventory(), make([]inventory.VM, 1_000_000)
	for i := range vms {
		vms[i] = f.vm(i)
		x.PutVM(vms[i])
	}
	return x, vms
})

// BenchmarkEvaluate counts the VMs of a scope among a million and lists them, beside plain scans with the same matcher and
// with Kubernetes' selectors.
func BenchmarkEvaluate(b *testing.B) {
	x, vms := million()
	is := func(k, v string) instrumentation.Scope { return pair{k, v}.scope() }
	apps := &instrumentation.TagMatch{Key: "app"}
	for i := 5; i < 15; i++ {
		apps.In = append(apps.In, fmt.Sprint("app-", i))
	}
	web := is("role", "rol-0")
	scopes := []struct {
		name  string
		owner uuid.UUID
		scope instrumentation.Scope
	}{
		{"S1=tag-and-tag", uuid.Nil, instrumentation.Scope{And: []instrumentation.Scope{is("role", "rol-3"), is("env", "env-0")}}},
		{"S2=owner-and-tag", wide(1, 0), is("team", "tea-0")},
		{"S3=tag-and-not-tag", uuid.Nil, instrumentation.Scope{And: []instrumentation.Scope{is("env", "env-0"), {Not: &web}}}},
		{"S4=one-of-ten", uuid.Nil, instrumentation.Scope{VMTag: apps}},
		{"S5=has-tag", uuid.Nil, hasKey("version")},
	}
	for _, s := range scopes {
		b.Run("vms=1000000/"+s.name+"/count", func(b *testing.B) {
			n := 0
			cpu := startCPU()
			for range b.N {
				n = x.Count(s.scope, s.owner)
			}
			cpu.report(b)
			b.ReportMetric(float64(n), "vms")
		})
		b.Run("vms=1000000/"+s.name+"/uuids", func(b *testing.B) {
			n := 0
			cpu := startCPU()
			for range b.N {
				n = len(x.Evaluate(s.scope, s.owner))
			}
			cpu.report(b)
			b.ReportMetric(float64(n), "vms")
		})
		b.Run("vms=1000000/"+s.name+"/scan", func(b *testing.B) {
			n := 0
			for range b.N {
				n = 0
				m := Compile(s.scope, s.owner)
				for i := range vms {
					if m.Match(&vms[i], nil) {
						n++
					}
				}
			}
			b.ReportMetric(float64(n), "vms")
		})
		b.Run("vms=1000000/"+s.name+"/kubernetes", func(b *testing.B) {
			selects, labels := selector(s.scope, s.owner), labelledMillion()
			b.ResetTimer()
			n := 0
			for range b.N {
				n = 0
				for i := range labels {
					if selects.Matches(&labels[i]) {
						n++
					}
				}
			}
			b.ReportMetric(float64(n), "vms")
		})
	}
}

var labelledMillion = sync.OnceValue(func() []labelled {
	_, vms := million()
	owners := map[uuid.UUID]string{}
	out := make([]labelled, len(vms))
	for i := range vms {
		o, ok := owners[vms[i].Owner]
		if !ok {
			o = vms[i].Owner.String()
			owners[vms[i].Owner] = o
		}
		out[i] = labelled{tags: vms[i].Tags, owner: o}
	}
	return out
})

// BenchmarkInventoryRetag changes one tag of one VM among a million.
func BenchmarkInventoryRetag(b *testing.B) {
	x, vms := million()
	for i := range b.N {
		vm := vms[i%len(vms)]
		vm.Tags = map[string]string{"env": "env-1"}
		x.PutVM(vm)
	}
}
