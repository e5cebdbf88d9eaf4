// Package cloud runs the service in parts as a site would, each a process of its own on the loopback interface: a store, an
// inventory, workers and APIs. For tests under load and under faults.
package cloud

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"iapi/assignment"
	"iapi/identity"
	"iapi/store"
)

// Options say what a cloud is made of. Binary, Dir and Hosts must be given.
type Options struct {
	Binary      string // see Build
	Dir         string // for everything that the parts keep
	StoreURL    string // "": a redis-server of its own
	Hosts       int
	VMs         int // on each host
	Workers     int
	WorkerFlags []string
	APIFlags    []string
	Progress    func(format string, args ...any) // nil: silent
}

// Cloud is a running service without agents. Its fields may be replaced by those who restart parts.
type Cloud struct {
	Redis   *Process // nil: the store was given
	VMAPI   *Process
	Workers []*Process
	APIs    []*API
	Store   *store.Store
	Hosts   []uuid.UUID
	Owner   uuid.UUID // of all VMs

	opts      Options
	url       string // of the store
	inventory string
	cleared   bool // a store that was given was found empty, so all that is in it came from here
	redisArgs []string
	serial    int
	secure    *secure // what APIs that are started from now on are reached by; nil: plain connections
}

// ErrNoRedis: there is no redis-server to start.
var ErrNoRedis = errors.New("redis-server is not installed, and no store is given")

// New starts a store, an inventory and workers, and waits until every host has an assignment. Close must be called, also
// after an error.
func New(ctx context.Context, o Options) (*Cloud, error) {
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	c := &Cloud{opts: o, url: o.StoreURL, Owner: name('o', 0)}
	for n := range o.Hosts {
		c.Hosts = append(c.Hosts, name('h', n))
	}
	if err := c.start(ctx); err != nil {
		return c, err
	}
	return c, nil
}

// name is a uuid of version 4 in form, spread over the store's shards.
func name(kind byte, n int) (u uuid.UUID) {
	u[0], u[6], u[8] = kind, 0x40, 0x80
	binary.BigEndian.PutUint32(u[10:], uint32(n)*2654435761)
	binary.BigEndian.PutUint16(u[14:], uint16(n))
	return u
}

// VM is the uuid of a host's n-th VM.
func (c *Cloud) VM(host, n int) uuid.UUID { return name('v', host*c.opts.VMs+n) }

func (c *Cloud) start(ctx context.Context) error {
	if c.url == "" {
		if err := c.startRedis(ctx); err != nil {
			return err
		}
	} else if err := c.clear(ctx); err != nil {
		return err
	}
	fleet, err := c.fleet()
	if err != nil {
		return err
	}
	c.opts.Progress("starting the inventory with %d hosts and %d VMs", len(c.Hosts), len(c.Hosts)*c.opts.VMs)
	c.VMAPI, err = Start("vmapi", "", c.opts.Binary, "vmapi", "--listen", "127.0.0.1:0", "--fleet", fleet, "--log-level", "warn")
	if err != nil {
		return err
	}
	if c.inventory, err = c.VMAPI.Expect(ctx, `at (http://[0-9.]+:[0-9]+)`); err != nil {
		return err
	}
	if c.Store, err = store.Open(ctx, store.Options{URL: c.url, Replicas: -1, Timeout: 20 * time.Second}); err != nil {
		return err
	}
	for range max(c.opts.Workers, 1) {
		w, err := c.StartWorker(ctx)
		if err != nil {
			return err
		}
		c.Workers = append(c.Workers, w)
	}
	c.opts.Progress("waiting for the first assignments")
	return c.placed(ctx)
}

// clear refuses a store that somebody uses.
func (c *Cloud) clear(ctx context.Context) error {
	o, err := redis.ParseURL(c.url)
	if err != nil {
		return fmt.Errorf("read the store's address: %w", err)
	}
	client := redis.NewClient(o)
	defer client.Close()
	n, err := client.DBSize(ctx).Result()
	switch {
	case err != nil:
		return fmt.Errorf("look whether the store is empty: %w", err)
	case n > 0:
		return fmt.Errorf("the store %s is not empty: it has %d keys", c.url, n)
	}
	c.cleared = true
	return nil
}

// startRedis starts a redis-server that keeps an append-only file, on a port that it keeps.
func (c *Cloud) startRedis(ctx context.Context) error {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return ErrNoRedis
	}
	dir := filepath.Join(c.opts.Dir, "redis")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("start redis: %w", err)
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	// The file is not rewritten while something is measured: that comes after so many writes, whichever change is just made.
	c.redisArgs = []string{program, "--port", port, "--bind", "127.0.0.1", "--appendonly", "yes", "--appendfsync", "everysec",
		"--auto-aof-rewrite-percentage", "0", "--save", "", "--dir", dir}
	c.url = "redis://127.0.0.1:" + port + "/0"
	return c.StartRedis(ctx)
}

// StartRedis starts the store, or starts it again.
func (c *Cloud) StartRedis(ctx context.Context) error {
	p, err := Start("redis", "", c.redisArgs[0], c.redisArgs[1:]...)
	if err != nil {
		return err
	}
	c.Redis = p
	_, err = p.Expect(ctx, "Ready to accept connections")
	return err
}

// fleet writes the file that the inventory begins with: all VMs belong to Owner and have the tag load=off.
func (c *Cloud) fleet() (file string, err error) {
	hosts, vms := make([]any, len(c.Hosts)), []any{}
	for i, h := range c.Hosts {
		hosts[i] = map[string]any{"uuid": h, "hostname": fmt.Sprintf("cn%05d", i)}
		for n := range c.opts.VMs {
			vms = append(vms, map[string]any{
				"uuid": c.VM(i, n), "owner_uuid": c.Owner, "alias": fmt.Sprintf("vm-%d-%d", i, n), "state": "running",
				"server_uuid": h, "tags": map[string]any{"load": "off"},
			})
		}
	}
	text, err := json.Marshal(map[string]any{"hosts": hosts, "vms": vms})
	if err != nil {
		return "", fmt.Errorf("write the fleet: %w", err)
	}
	file = filepath.Join(c.opts.Dir, "fleet.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return "", fmt.Errorf("write the fleet: %w", err)
	}
	return file, nil
}

// debugFile is where the next process tells its debug port.
func (c *Cloud) debugFile(name string) string {
	c.serial++
	return filepath.Join(c.opts.Dir, fmt.Sprintf("%s-%d.address", name, c.serial))
}

// StartWorker starts another worker.
func (c *Cloud) StartWorker(ctx context.Context) (*Process, error) {
	args := append([]string{"worker", "--redis", c.url, "--vmapi", c.inventory, "--log-level", "warn"}, c.opts.WorkerFlags...)
	p, err := Start("worker", c.debugFile("worker"), c.opts.Binary, args...)
	if err != nil {
		return nil, err
	}
	if _, err := p.Control(ctx); err != nil {
		return p, err
	}
	return p, nil
}

// Credentials gives each host's agent a new token. They are in the order of Hosts.
func (c *Cloud) Credentials(ctx context.Context) ([]string, error) {
	tokens := make([]string, len(c.Hosts))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, h := range c.Hosts {
		g.Go(func() error {
			token, hash := identity.NewAgentToken()
			tokens[i] = token
			return c.Store.SetAgentToken(ctx, h, hash)
		})
	}
	return tokens, g.Wait()
}

// placed waits until every host has an assignment.
func (c *Cloud) placed(ctx context.Context) error {
	return c.until(ctx, func(hosts []uuid.UUID) (left int, err error) {
		versions, err := c.Store.Versions(ctx, hosts...)
		for _, v := range versions {
			if v == (assignment.Version{}) {
				left++
			}
		}
		return left, err
	})
}

// Settled waits until the workers have compared everything once and have nothing left to do, so that what is measured next
// is measured alone.
func (c *Cloud) Settled(ctx context.Context) error {
	for {
		swept, err := c.Store.LastSweep(ctx)
		if err != nil {
			return err
		}
		left, err := c.Store.Backlog(ctx)
		if err != nil {
			return err
		}
		if !swept.At.IsZero() && left == (store.Backlog{}) {
			return nil
		}
		if err := c.pause(ctx); err != nil {
			return fmt.Errorf("the workers are not done, %+v is left: %w", left, err)
		}
	}
}

// pause waits a little. It is an error when a worker has ended.
func (c *Cloud) pause(ctx context.Context) error {
	for _, w := range c.Workers {
		if w.Ended() {
			return fmt.Errorf("%s has ended; it said:\n%s", w.Name, w.Output())
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(100 * time.Millisecond):
		return nil
	}
}

// Assigned waits until every host has an assignment of n instrumentations.
func (c *Cloud) Assigned(ctx context.Context, n int) error {
	return c.until(ctx, func(hosts []uuid.UUID) (left int, err error) {
		documents, err := c.Store.Documents(ctx, hosts...)
		for _, d := range documents {
			if items, err := assignment.Decode(d.Body); err != nil || len(items) != n {
				left++
			}
		}
		return left, err
	})
}

// until asks again and again how many of some hosts are left, until none is.
func (c *Cloud) until(ctx context.Context, ask func([]uuid.UUID) (left int, err error)) error {
	for {
		left := 0
		for chunk := range slices.Chunk(c.Hosts, 1000) {
			n, err := ask(chunk)
			if err != nil {
				return err
			}
			left += n
		}
		if left == 0 {
			return nil
		}
		if err := c.pause(ctx); err != nil {
			return fmt.Errorf("%d hosts still wait for an assignment: %w", left, err)
		}
	}
}

// Retag replaces a VM's tags in the inventory. Nobody is told.
func (c *Cloud) Retag(ctx context.Context, vm uuid.UUID, tags map[string]string) error {
	body, err := json.Marshal(tags)
	if err != nil {
		return fmt.Errorf("retag a VM: %w", err)
	}
	_, err = send(ctx, client, http.MethodPut, c.inventory+"/sim/vms/"+vm.String()+"/tags", "", body)
	if err != nil {
		return fmt.Errorf("retag a VM: %w", err)
	}
	return nil
}

// Close stops everything. From a store that was given, what was written is removed.
func (c *Cloud) Close() error {
	all := slices.Clone(c.Workers)
	for _, a := range c.APIs {
		all = append(all, a.Process)
	}
	errs := []error{stopAll(append(all, c.VMAPI))}
	if c.Store != nil {
		if c.cleared {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			if err := c.Store.Client().FlushDB(ctx).Err(); err != nil {
				errs = append(errs, fmt.Errorf("empty the store: %w", err))
			}
		}
		errs = append(errs, c.Store.Close())
	}
	errs = append(errs, stopAll([]*Process{c.Redis}))
	return errors.Join(errs...)
}

func stopAll(processes []*Process) error {
	errs := make([]error, len(processes))
	var all sync.WaitGroup
	for i, p := range processes {
		if p != nil {
			all.Go(func() { errs[i] = p.Stop(20 * time.Second) })
		}
	}
	all.Wait()
	return errors.Join(errs...)
}

// freePort finds a port that the system gives to nobody by itself, so that it is still free for a restart.
func freePort() (string, error) {
	for range 100 {
		port := fmt.Sprint(10_000 + rand.IntN(20_000))
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil {
			return port, l.Close()
		}
	}
	return "", errors.New("find a free port: a hundred were taken")
}
