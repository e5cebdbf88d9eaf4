package vmapitest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// GenerateOptions say how large a made-up fleet is. The same options give the same fleet.
type GenerateOptions struct {
	Seed   uint64 `json:"seed"`
	Hosts  int    `json:"hosts"`  // at least 1 when there are VMs
	VMs    int    `json:"vms"`    //
	Owners int    `json:"owners"` // at least 1 when there are VMs; the n-th has about 1/n of the first one's VMs
}

// Generate makes up a fleet: owners by Zipf's law, services of a few roles and environments spread over all hosts, now
// and then a stopped, failed, destroyed or still provisioning VM. VMs of a kind share their tag maps.
func Generate(o GenerateOptions) (Fleet, error) {
	g, err := newGenerator(o)
	if err != nil {
		return Fleet{}, err
	}
	return Fleet{Hosts: g.hosts, VMs: slices.Collect(g.vms())}, nil
}

// Fill adds a made-up fleet as Load would, without holding all of it twice.
func (s *Server) Fill(o GenerateOptions) error {
	g, err := newGenerator(o)
	if err != nil {
		return err
	}
	if err := s.PutHost(g.hosts...); err != nil {
		return err
	}
	for v := range g.vms() {
		if err := v.normalize(); err != nil {
			return fmt.Errorf("VM %s: %w", v.UUID, err)
		}
		s.mu.Lock()
		s.write(v, putSilent)
		s.mu.Unlock()
	}
	return nil
}

// Owner is the uuid of a made-up fleet's n-th largest owner, from 0.
func (o GenerateOptions) Owner(n int) uuid.UUID { return madeUpID(o.Seed, "owner", n) }

// Host is the uuid of a made-up fleet's n-th host, from 0.
func (o GenerateOptions) Host(n int) uuid.UUID { return madeUpID(o.Seed, "host", n) }

// VM is the uuid of a made-up fleet's n-th VM, from 0. It may be destroyed, or have no host yet.
func (o GenerateOptions) VM(n int) uuid.UUID { return madeUpID(o.Seed, "vm", n) }

// madeUpID is a uuid of version 4 in form, the same for the same arguments.
func madeUpID(seed uint64, kind string, n int) uuid.UUID {
	name := binary.BigEndian.AppendUint64([]byte(kind), seed)
	id := uuid.NewSHA1(uuid.NameSpaceOID, binary.BigEndian.AppendUint64(name, uint64(n)))
	id[6] = id[6]&0x0f | 0x40
	return id
}

// kind is a sort of service.
type kind struct {
	role, brand string
	ram         int
}

var (
	kinds = []kind{
		{"web", "lx", 1024}, {"web", "joyent", 1024}, {"api", "lx", 2048}, {"db", "joyent", 8192}, {"cache", "lx", 4096},
		{"queue", "lx", 2048}, {"worker", "lx", 1024}, {"ci", "bhyve", 4096}, {"search", "bhyve", 8192}, {"legacy", "kvm", 2048},
	}
	environments = []string{"prod", "prod", "prod", "staging", "dev"}
	services     = []string{"shop", "billing", "search", "mail", "blog", "auth", "media", "reports"}
	places       = []string{"us-east-1a", "us-east-1b", "us-east-1c"}
)

type generator struct {
	o     GenerateOptions
	dice  *rand.Rand
	hosts []Host
	share []float64 // cumulated, of the owners
	tags  map[string]map[string]any
	begin time.Time
}

func newGenerator(o GenerateOptions) (*generator, error) {
	if o.Hosts < 0 || o.VMs < 0 || o.Owners < 0 {
		return nil, errors.New("hosts, vms and owners: cannot be negative")
	}
	if o.VMs > 0 && (o.Hosts == 0 || o.Owners == 0) {
		return nil, errors.New("hosts and owners: VMs need at least one of each")
	}
	g := &generator{
		o: o, dice: rand.New(rand.NewPCG(o.Seed, 2)), tags: make(map[string]map[string]any),
		begin: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	for n := range o.Hosts {
		g.hosts = append(g.hosts, g.host(n))
	}
	var sum float64
	for n := range o.Owners {
		sum += 1 / float64(n+1)
		g.share = append(g.share, sum)
	}
	return g, nil
}

func (g *generator) host(n int) Host {
	traits := map[string]any{"place": places[n%len(places)], "ssd": n%4 != 3}
	switch n % 8 {
	case 1:
		traits["generation"] = 3
	case 5:
		traits["purpose"] = "storage"
	}
	return Host{
		UUID: g.o.Host(n), Hostname: fmt.Sprintf("cn%04d", n), Rack: fmt.Sprintf("r%02d", n/20),
		Headnode: n == 0, RAM: 262144, Traits: traits,
	}
}

func (g *generator) vms() iter.Seq[VM] {
	return func(yield func(VM) bool) {
		for n := range g.o.VMs {
			if !yield(g.vm(n)) {
				return
			}
		}
	}
}

func (g *generator) vm(n int) VM {
	point := g.dice.Float64() * g.share[len(g.share)-1]
	owner, _ := slices.BinarySearch(g.share, point)
	owner = min(owner, g.o.Owners-1)
	k := kinds[g.dice.IntN(len(kinds))]
	service := services[(owner+g.dice.IntN(3))%len(services)]
	environment := environments[g.dice.IntN(len(environments))]
	v := VM{
		UUID: g.o.VM(n), Owner: g.o.Owner(owner), Host: g.hosts[g.dice.IntN(len(g.hosts))].UUID,
		Alias: fmt.Sprintf("%s-%s-%d", service, k.role, n), State: "running", ZoneState: "running", Brand: k.brand,
		Tags: g.tagsOf(service, k.role, environment), RAM: k.ram, Quota: k.ram / 40, CPUCap: k.ram / 10,
		Image: madeUpID(g.o.Seed, "image:"+k.brand, 0), Billing: madeUpID(g.o.Seed, "package", k.ram),
		Created: g.begin.Add(time.Duration(n) * time.Second),
	}
	v.Modified = v.Created
	switch d := g.dice.IntN(1000); {
	case d < 40:
		v.State, v.ZoneState = "stopped", "installed"
	case d < 60:
		v.State, v.ZoneState, v.Destroyed = "destroyed", "destroyed", v.Created.Add(24*time.Hour)
	case d < 63:
		v.State, v.ZoneState = "failed", "failed"
	case d < 65:
		v.State, v.ZoneState, v.Host = "provisioning", "incomplete", uuid.Nil
	}
	return v
}

// tagsOf are the tags of a kind; one in ten VMs has none.
func (g *generator) tagsOf(service, role, environment string) map[string]any {
	if g.dice.IntN(10) == 0 {
		return nil
	}
	tier := int(math.Ceil(g.dice.Float64() * 3))
	key := strings.Join([]string{service, role, environment, fmt.Sprint(tier)}, " ")
	if tags, ok := g.tags[key]; ok {
		return tags
	}
	tags := map[string]any{"role": role, "env": environment, "service": service}
	switch role {
	case "db":
		tags["backup"] = environment == "prod"
	case "web":
		tags["tier"] = tier
	case "worker":
		tags["triton.cns.services"] = service + "-" + role
	}
	g.tags[key] = tags
	return tags
}
