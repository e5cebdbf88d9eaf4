package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"runtime"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"iapi/instrumentation"
)

// connect makes the client that a URL describes. Nothing is sent yet.
//
// There are two: one that everybody shares, and one for those who wait for entries of streams. The latter does not repeat
// what failed, so that its readers learn of each broken connection, behind which the server may have lost entries; and
// those that wait take no connection from the others.
func connect(o Options) (shared, readers redis.UniversalClient, err error) {
	u, err := parseURL(o.URL)
	if err != nil {
		return nil, nil, err
	}
	tune(u, o)
	shared = redis.NewUniversalClient(u)
	u.MaxRetries = -1
	u.PoolSize = 4 * shards // on a Cluster each stream has a reader of its own
	return shared, redis.NewUniversalClient(u), nil
}

// tune sets what all connections have in common. Every command has a deadline: its context's, or else the one of the read.
func tune(u *redis.UniversalOptions, o Options) {
	u.Protocol = 2
	u.DialTimeout = 2 * time.Second
	u.DialerRetries = 1 // commands are tried again anyway
	u.MaxRetries = 2
	u.ReadTimeout = o.Timeout * 3 / 5 // so that a call that gets no answer is tried again within its time
	u.WriteTimeout = u.ReadTimeout
	u.PoolTimeout = 4 * time.Second
	u.ContextTimeoutEnabled = true
	u.PoolSize = o.Pool
	if o.Pool <= 0 {
		u.PoolSize = max(20, 10*runtime.GOMAXPROCS(0))
	}
	u.DisableIdentity = true
	u.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

// parseURL reads the forms that Options.URL names.
func parseURL(text string) (*redis.UniversalOptions, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return nil, errors.New("store URL: it must begin with redis://, rediss://, redis+sentinel:// or rediss+sentinel://")
	}
	base, sentinel := strings.CutSuffix(scheme, "+sentinel")
	if base != "redis" && base != "rediss" {
		return nil, fmt.Errorf("store URL: scheme %q is not known", scheme)
	}
	authority, tail, _ := strings.Cut(rest, "/")
	user, hosts := "", authority
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		user, hosts = authority[:at+1], authority[at+1:]
	}
	addrs := strings.Split(hosts, ",")
	for i, a := range addrs {
		if a == "" || strings.ContainsAny(a, "?#@") {
			return nil, fmt.Errorf("store URL: address %d is not valid", i+1)
		}
		if !strings.Contains(a, ":") {
			port := ":6379"
			if sentinel {
				port = ":26379"
			}
			addrs[i] = a + port
		}
	}
	master := ""
	if sentinel {
		master, tail, _ = strings.Cut(tail, "/")
		if master == "" {
			return nil, errors.New("store URL: the master's name is missing after the sentinels' addresses")
		}
		if master, ok = unescape(master); !ok {
			return nil, errors.New("store URL: the master's name is not valid")
		}
	}
	one := base + "://" + user + addrs[0]
	if tail != "" {
		one += "/" + tail
	}
	p, err := redis.ParseURL(one)
	if err != nil {
		var parse *url.Error // its text has the password
		if errors.As(err, &parse) {
			err = parse.Err
		}
		return nil, fmt.Errorf("store URL: %w", err)
	}
	u := &redis.UniversalOptions{
		Addrs: addrs, MasterName: master, DB: p.DB, Username: p.Username, Password: p.Password, TLSConfig: p.TLSConfig,
	}
	if len(addrs) > 1 && !sentinel {
		if p.DB != 0 {
			return nil, errors.New("store URL: a Cluster has no databases but 0")
		}
		u.IsClusterMode = true
		if u.TLSConfig != nil {
			u.TLSConfig.ServerName = "" // each node has its own
		}
	}
	return u, nil
}

func unescape(s string) (string, bool) {
	s, err := url.PathUnescape(s)
	return s, err == nil
}

// check reaches the server, loads the scripts, and warns of settings that lose data.
func (s *Store) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*s.opts.Timeout)
	defer cancel()
	if err := s.client.Ping(ctx).Err(); err != nil {
		return fault("reach the server", err)
	}
	s.replicas = max(s.opts.Replicas, 0)
	info, err := s.client.Info(ctx).Result()
	if err != nil {
		s.log.Warn("the store does not say how it keeps its data: see to it that maxmemory-policy is noeviction and that " +
			"append-only persistence is on")
		return nil
	}
	fields := map[string]string{}
	for line := range strings.Lines(info) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[k] = v
		}
	}
	if policy, told := fields["maxmemory_policy"]; told && policy != "noeviction" {
		s.log.Warn("the store's maxmemory-policy must be noeviction: records will be lost when memory is short", "is", policy)
	} else if !told {
		s.log.Warn("the store does not say its maxmemory-policy: it must be noeviction")
	}
	if aof, told := fields["aof_enabled"]; told && aof != "1" {
		s.log.Warn("the store's append-only persistence is off: a crash of the server loses what was answered since its " +
			"last snapshot; set appendonly yes")
	} else if !told {
		s.log.Warn("the store does not say whether append-only persistence is on")
	}
	if s.opts.Replicas == 0 && fields["role"] == "master" && fields["connected_slaves"] != "" && fields["connected_slaves"] != "0" {
		s.replicas = 1
	}
	return nil
}

// redirectLog sends what the Redis client says of itself to log. The client has one logger for the whole process.
func redirectLog(log *slog.Logger) { redis.SetLogger(clientLog{log}) }

type clientLog struct{ log *slog.Logger }

// Printf takes a line of the client's. They tell of connections that come and go, which the callers' errors tell better.
func (l clientLog) Printf(ctx context.Context, format string, v ...any) {
	l.log.DebugContext(ctx, "redis client", "message", fmt.Sprintf(format, v...))
}

// notYet begins the errors by which a server says that it cannot answer now.
var notYet = []string{"LOADING", "MASTERDOWN", "CLUSTERDOWN", "READONLY", "TRYAGAIN", "NOREPLICAS", "BUSY ", "MISCONF", "ERR max number of clients"}

// fault says what failed. Problems of the connection wrap instrumentation.ErrNotReady.
func fault(doing string, err error) error {
	if err == nil {
		return nil
	}
	var reply redis.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, instrumentation.ErrNotReady):
	case errors.As(err, &reply):
		for _, p := range notYet {
			if strings.HasPrefix(reply.Error(), p) {
				return fmt.Errorf("%s: %w: %w", doing, instrumentation.ErrNotReady, err)
			}
		}
	default:
		return fmt.Errorf("%s: %w: %w", doing, instrumentation.ErrNotReady, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
