package identity

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
)

// MTLS knows agents by the client certificates that TLS has verified. The certificate names its host by a URI
// urn:uuid:… or by a DNS name that is the uuid or begins with it as a label, in its subject alternative names.
type MTLS struct {
	// Revoked returns when the certificates of a host's agent were last voided, zero for never: those that are valid from
	// before that are refused. nil: none ever were.
	Revoked func(ctx context.Context, host uuid.UUID) (time.Time, error)
}

// Authenticate implements Authenticator.
func (m MTLS) Authenticate(r *http.Request) (Caller, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return Caller{}, ErrNoCredentials
	}
	if len(r.TLS.VerifiedChains) == 0 {
		return Caller{}, bad("a client certificate that nothing has verified")
	}
	leaf := r.TLS.PeerCertificates[0]
	host, err := certificateHost(leaf)
	if err != nil {
		return Caller{}, err
	}
	if m.Revoked != nil {
		at, err := m.Revoked(r.Context(), host)
		if err != nil {
			return Caller{}, fmt.Errorf("look up the agent of a certificate: %w", err)
		}
		if leaf.NotBefore.Before(at) {
			return Caller{}, bad("the certificates of host %s from before %s are revoked", host, at)
		}
	}
	caller := agentCaller(host)
	caller.Expires = leaf.NotAfter
	return caller, nil
}

// certificateHost returns the one host that a certificate names.
func certificateHost(cert *x509.Certificate) (uuid.UUID, error) {
	var host uuid.UUID
	name := func(text string) error {
		id, err := uuid.Parse(text)
		switch {
		case len(text) != len(uuid.Nil.String()) || err != nil || id == uuid.Nil:
			return nil // a name of something else
		case host != uuid.Nil && host != id:
			return bad("a client certificate that names two hosts, %s and %s", host, id)
		}
		host = id
		return nil
	}
	for _, u := range cert.URIs {
		if strings.EqualFold(u.Scheme, "urn") && len(u.Opaque) > 5 && strings.EqualFold(u.Opaque[:5], "uuid:") {
			if err := name(u.Opaque[5:]); err != nil {
				return uuid.Nil, err
			}
		}
	}
	for _, dns := range cert.DNSNames {
		label, _, _ := strings.Cut(dns, ".")
		if err := name(label); err != nil {
			return uuid.Nil, err
		}
	}
	if host == uuid.Nil {
		return uuid.Nil, bad("a client certificate that names no host")
	}
	return host, nil
}
