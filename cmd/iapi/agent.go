package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"iapi/agent/session"
	"iapi/collectors/zone"
	"iapi/identity"
)

type agentCmd struct {
	logging
	hostPolicyFlags `kong:"set='trusting=Run only definitions that one of these public keys (Ed25519, PEM) has signed, beside those that come with the agent. Without: all that the API serves.'"`
	Server          []string `default:"http://127.0.0.1:8080" help:"An API's address. Again: others to try." placeholder:"URL"`
	Host            string   `help:"This host's uuid. Without: the one kept in the data directory, else one made from the machine's id." placeholder:"UUID"`
	DataDir         string   `default:"${data_dir}/agent" type:"path" help:"Keeps the credential, the last assignment, definitions and spools."`
	JoinToken       string   `help:"One-time token of \"iapi join\"; needed once, until the agent has its own." placeholder:"TOKEN"`
	TLSCert         string   `type:"existingfile" help:"Certificate that says who this host is, for mutual TLS." placeholder:"FILE"`
	TLSKey          string   `type:"existingfile" help:"Its key." placeholder:"FILE"`
	TLSCA           string   `type:"existingfile" help:"Authorities that the API's certificate must come from." placeholder:"FILE"`
	Zones           string   `type:"existingfile" help:"Zones that this host has beside those that are found: {\"UUID\":{\"cgroup\":\"/PATH\",\"owner\":\"UUID\"}}." placeholder:"FILE"`
	ZoneUnit        []string `help:"Services of systemd that are zones: a pattern such as postgresql@*.service. Again: others." placeholder:"PATTERN"`
}

// Help is what "iapi agent --help" adds.
func (agentCmd) Help() string {
	return `It measures what it is assigned, and goes on with that when no API can be reached. A join whose answer was lost is tried again
with the same token.

  iapi agent --host b0910f1d-bf8d-5599-b260-2852684a7e6b --join-token TOKEN --server https://iapi-1:8080 --server https://iapi-2:8080
  iapi agent --server https://iapi-1:8080 --tls-cert host.pem --tls-key host.key`
}

func (c agentCmd) Run(ctx context.Context, s streams) error {
	log := c.logger(s.err)
	if err := writableDir(c.DataDir); err != nil {
		return err
	}
	host, err := c.host()
	if err != nil {
		return err
	}
	tlsConfig, err := c.tls()
	if err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	options := session.Options{Servers: c.Server, Host: host, TLS: tlsConfig, Logger: log, UserAgent: "iapi-agent/" + version()}
	token, err := agentToken(ctx, c.DataDir, options, c.JoinToken)
	if err != nil {
		return err
	}
	options.Token = func() string { return token }
	sess, err := session.New(options)
	if err != nil {
		return usageError("--server: %w", err)
	}
	zones, err := zone.New(zone.Options{Host: host, Static: c.Zones, Units: c.ZoneUnit, Logger: log})
	if err != nil {
		return usageError("--zone-unit: %w", err)
	}
	if err := zones.Refresh(ctx); err != nil {
		log.Warn("this host's zones cannot be listed yet", "error", err)
	}
	a, err := newAgent(ctx, agentParts{host: host, dir: c.DataDir, zones: zones, log: log, policy: c.hostPolicyFlags}, sess)
	if err != nil {
		return err
	}
	log.Info("the agent is running", "host", host, "servers", strings.Join(c.Server, " "))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return zones.Run(ctx) })
	g.Go(func() error { return settle(ctx) })
	g.Go(func() error { return pruneSpools(ctx, c.DataDir, log) })
	g.Go(func() error { return a.Run(ctx) })
	return g.Wait()
}

func (c agentCmd) host() (uuid.UUID, error) {
	if c.Host == "" {
		return hostID(c.DataDir)
	}
	id, err := uuid.Parse(c.Host)
	if err != nil {
		return uuid.Nil, usageError("--host %q: not a uuid", c.Host)
	}
	return id, nil
}

func (c agentCmd) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return nil, usageError("--tls-cert and --tls-key go together")
	}
	if c.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
		if err != nil {
			return nil, usageError("--tls-cert: %w", err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	if c.TLSCA != "" {
		pem, err := os.ReadFile(c.TLSCA)
		if err != nil {
			return nil, usageError("--tls-ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usageError("--tls-ca: %s holds no certificate", c.TLSCA)
		}
	}
	return config, nil
}

// agentToken is the credential kept in the directory, or the one that a join token is traded for, which is then kept.
func agentToken(ctx context.Context, dir string, o session.Options, joinToken string) (string, error) {
	path := filepath.Join(dir, "agent.token")
	raw, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(raw)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the agent's token: %w", err)
	}
	if joinToken == "" {
		if o.TLS != nil && len(o.TLS.Certificates) > 0 {
			return "", nil
		}
		return "", usageError("this host has no credential yet: run \"iapi join %s\" where the API is, and give what it prints as --join-token", o.Host)
	}
	token, err := proposedToken(path + ".new")
	if err != nil {
		return "", fmt.Errorf("keep the agent's token: %w", err)
	}
	if err := session.Join(ctx, o, joinToken, token); err != nil {
		return "", err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return "", fmt.Errorf("keep the agent's token: %w", err)
	}
	o.Logger.Info("this host has joined", "host", o.Host)
	return token, nil
}

// proposedToken makes the token that a join shall make valid, and keeps it: when the answer is lost, the join is tried again with
// the same one, also after a restart.
func proposedToken(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if token := strings.TrimSpace(string(raw)); err == nil && identity.IsAgentToken(token) {
		return token, nil
	}
	token, _ := identity.NewAgentToken()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(token + "\n")
	return token, errors.Join(err, f.Sync(), f.Close())
}
