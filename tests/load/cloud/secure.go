package cloud

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// secure is how APIs are served and reached over TLS.
type secure struct {
	cert, key string // files of a server's
	roots     *x509.CertPool
	client    *http.Client
}

// Secure has APIs that are started from now on speak TLS, with certificates of an authority that is made here and that nobody
// else trusts.
func (c *Cloud) Secure() error {
	s := &secure{cert: filepath.Join(c.opts.Dir, "server.pem"), key: filepath.Join(c.opts.Dir, "server.key"), roots: x509.NewCertPool()}
	now := time.Now()
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "load"}, NotBefore: now.Add(-time.Hour),
		NotAfter: now.Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	server := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "api"}, NotBefore: authority.NotBefore,
		NotAfter: authority.NotAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	root, rootKey, err := issue(authority, authority, nil)
	if err != nil {
		return err
	}
	s.roots.AddCert(root)
	leaf, leafKey, err := issue(server, root, rootKey)
	if err != nil {
		return err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		return fmt.Errorf("encode a key: %w", err)
	}
	for file, block := range map[string]*pem.Block{s.cert: {Type: "CERTIFICATE", Bytes: leaf.Raw}, s.key: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			return fmt.Errorf("write a certificate: %w", err)
		}
	}
	s.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots},
		MaxIdleConnsPerHost: 32, IdleConnTimeout: 30 * time.Second}}
	c.secure = s
	return nil
}

// TLS is what clients of the APIs believe, nil where connections are plain. Agents that share it do not resume each other's
// sessions: each is a host of its own.
func (c *Cloud) TLS() *tls.Config {
	if c.secure == nil {
		return nil
	}
	return &tls.Config{RootCAs: c.secure.roots, MinVersion: tls.VersionTLS12}
}

// issue makes a key and its certificate, signed by the parent's key; without one, by its own.
func issue(template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	if by == nil {
		by = key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		return nil, nil, fmt.Errorf("issue a certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("issue a certificate: %w", err)
	}
	return cert, key, nil
}
