//go:build !illumos

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"iapi/catalog"
	"iapi/delivery"
	"iapi/graph"
	"iapi/graph/ratelimit"
	"iapi/identity"
	"iapi/instrumentation"
	"iapi/store"
	"iapi/wiring"
)

type apiCmd struct {
	logging
	redisFlags
	inventoryFlags
	policyFlags `kong:"set='allow_private=false',set='default_target=Without: such a create is refused.'"`
	trafficFlags
	trustFlags `kong:"set='trusting=Publish only definitions that one of these public keys (Ed25519, PEM) has signed. Without: all that operators publish.'"`
	Listen     string   `default:"127.0.0.1:8080" help:"Serve here." placeholder:"ADDR"`
	DataDir    string   `default:"${data_dir}" type:"path" help:"Keeps the operators' token, and the last good bundle."`
	TLSCert    string   `type:"existingfile" help:"Serve TLS with this certificate." placeholder:"FILE"`
	TLSKey     string   `type:"existingfile" help:"Its key." placeholder:"FILE"`
	ClientCA   string   `type:"existingfile" help:"Agents may come with a certificate from these authorities that names their host as urn:uuid:…" placeholder:"FILE"`
	JWTKeys    string   `name:"jwt-keys" type:"existingfile" help:"Believe tokens signed by the keys of this JWK Set." placeholder:"FILE"`
	Issuer     string   `help:"Believe tokens of this issuer; without --jwt-keys an OIDC one, whose keys are fetched." placeholder:"URL"`
	Audience   string   `default:"iapi" help:"The audience that tokens must name."`
	Origin     []string `help:"A web page from here may use the API. Again: others too." placeholder:"URL"`
	Drain      period   `default:"10s" help:"On a stop, spread the return of the agents over this time."`
}

// Help is what "iapi api --help" adds.
func (apiCmd) Help() string {
	return `Run as many as you like: any of them answers for every host.

  iapi api --redis redis://127.0.0.1:6379/0 --vmapi http://127.0.0.1:8088
  iapi api --redis redis+sentinel://a:26379,b:26379/main --vmapi http://vmapi --listen 0.0.0.0:8080 --issuer https://id.example.com`
}

func (c apiCmd) Run(ctx context.Context, s streams) error {
	log := c.logger(s.err)
	policy, err := c.policy()
	if err != nil {
		return err
	}
	tlsConfig, err := c.tls()
	if err != nil {
		return err
	}
	if err := writableDir(c.DataDir); err != nil {
		return err
	}
	tokens, err := identity.OpenTokenFile(c.DataDir)
	if err != nil {
		return err
	}
	st, err := c.open(ctx, c.AuditEntries, log)
	if err != nil {
		return err
	}
	defer st.Close()
	authenticators, err := c.authenticators(ctx, tokens, st, log)
	if err != nil {
		return err
	}
	vms, hosts, err := c.clients(log)
	if err != nil {
		return err
	}
	own, keys, err := c.catalog(c.DataDir, log)
	if err != nil {
		return err
	}
	published, err := openPublications(ctx, st, own, log)
	if err != nil {
		return err
	}
	l, err := listen("listen", c.Listen)
	if err != nil {
		return err
	}
	scheme := "http"
	if tlsConfig != nil {
		l, scheme = tls.NewListener(l, tlsConfig), "https"
	}
	registry := newRegistry()
	// The API runs no worker; it evaluates previews by the same code, and exports what waits for workers.
	previewer, err := newWorker(workerFlags{}, st, vms, hosts, published, registry, log)
	if err != nil {
		return err
	}
	part := apiPart{
		store: st, published: published, keys: keys, policy: policy, previewer: previewer,
		authenticator: identity.Chain(log, authenticators...), drain: time.Duration(c.Drain), origins: c.Origin, log: log,
		registry: registry,
	}
	if c.Admit > 0 {
		part.admission = delivery.NewAdmission(float64(c.Admit), int(math.Ceil(float64(c.Admit))), nil)
	}
	if c.Rate > 0 {
		part.limiter = ratelimit.New(st.Client(), int(c.Rate), int(c.RateBurst))
	}
	fmt.Fprintf(s.out, "IAPI at %s://%s, operators' token in %s\n", scheme, l.Addr(), tokens.Path())
	return part.run(ctx, l, nil)
}

func (c apiCmd) tls() (*tls.Config, error) {
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return nil, usageError("--tls-cert and --tls-key go together")
	}
	if c.TLSCert == "" {
		if c.ClientCA != "" {
			return nil, usageError("--client-ca needs --tls-cert and --tls-key")
		}
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, usageError("--tls-cert: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}
	if c.ClientCA != "" {
		pem, err := os.ReadFile(c.ClientCA)
		if err != nil {
			return nil, usageError("--client-ca: %w", err)
		}
		config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, usageError("--client-ca: %s holds no certificate", c.ClientCA)
		}
	}
	return config, nil
}

// authenticators are tried in turn.
func (c apiCmd) authenticators(ctx context.Context, tokens *identity.TokenFile, st *store.Store, log *slog.Logger) ([]identity.Authenticator, error) {
	all := []identity.Authenticator{identity.MTLS{Revoked: st.CertificatesRevoked}, tokens, identity.AgentToken{Tokens: wiring.Credentials{Store: st}}}
	if c.Issuer == "" {
		if c.JWTKeys != "" {
			return nil, usageError("--jwt-keys needs --issuer: whose tokens are they?")
		}
		return all, nil
	}
	var keys identity.Keys
	var err error
	if c.JWTKeys != "" {
		keys, err = identity.OpenKeyFile(c.JWTKeys, log)
	} else {
		keys, err = identity.OpenOIDC(ctx, c.Issuer, &http.Client{Timeout: 10 * time.Second})
	}
	if err != nil {
		return nil, err
	}
	jwt, err := identity.NewJWT(keys, identity.JWTOptions{Issuer: c.Issuer, Audience: c.Audience, Clock: st.Time})
	if err != nil {
		return nil, usageError("--issuer: %w", err)
	}
	return append(all, jwt), nil
}

// apiPart is an API on a store; "iapi api" and "iapi dev" run it.
type apiPart struct {
	store         *store.Store
	published     publications
	keys          catalog.Keys // that published definitions must be signed with; nil: they need not be
	policy        instrumentation.Policy
	previewer     instrumentation.Previewer
	authenticator identity.Authenticator
	limiter       graph.Limiter       // nil: no limit
	admission     *delivery.Admission // nil: all are admitted
	drain         time.Duration
	origins       []string
	dev           bool
	log           *slog.Logger
	registry      *prometheus.Registry
}

// run serves until ctx ends. others are served beside it, on the same listener.
func (p apiPart) run(ctx context.Context, l net.Listener, others map[string]http.Handler) error {
	api, err := wiring.New(ctx, wiring.Options{
		Store: p.store, Previewer: p.previewer, Catalog: p.published, Publisher: p.published, TrustedKeys: p.keys, Policy: p.policy, Logger: p.log,
	}, func(door *graph.Options) {
		door.Authenticator, door.Limiter, door.Admission = p.authenticator, p.limiter, p.admission
		door.Dev, door.Origins, door.Registry = p.dev, p.origins, p.registry
		door.Websocket.RestartWindow = p.drain
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/", api)
	for path, handler := range others {
		mux.Handle(path, handler)
	}
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.published.Run(ctx) })
	g.Go(func() error { return api.Run(ctx) })
	g.Go(func() error {
		return serve(ctx, l, server, func(ctx context.Context) {
			if err := api.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				p.log.Warn("not all connections ended in an orderly way", "error", err)
			}
		})
	})
	return g.Wait()
}
