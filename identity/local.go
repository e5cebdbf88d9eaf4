package identity

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// Local takes a request without credentials for an operator's, if it can only come from this machine and not from a web
// page that a browser on it shows. It is for development alone, and comes last in a Chain.
//
// The listener, the connection's both ends and the Host header must be loopback: a page whose name was made to resolve
// to 127.0.0.1 still sends its own name as Host. An Origin must be the server's own, and no header may say that the
// request was forwarded, for then it comes from anywhere.
type Local struct{}

// NewLocal refuses a listener that other machines can reach.
func NewLocal(listener net.Addr) (Local, error) {
	if !loopbackAddr(listener.String()) {
		return Local{}, fmt.Errorf("calls without credentials are allowed on loopback listeners only, not on %s", listener)
	}
	return Local{}, nil
}

// Authenticate implements Authenticator.
func (Local) Authenticate(r *http.Request) (Caller, error) {
	if len(r.Header.Values("Authorization")) > 0 || r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return Caller{}, ErrNoCredentials // there are some; they are not for Local to read
	}
	if why := foreign(r); why != "" {
		return Caller{}, fmt.Errorf("%w, and it is not a local request: %s", ErrNoCredentials, why)
	}
	return Caller{ID: "operator:local", Kind: Operator}, nil
}

// foreign says why a request may come from elsewhere than this machine, "" if it cannot.
func foreign(r *http.Request) string {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	switch {
	case local == nil || !loopbackAddr(local.String()):
		return "it did not arrive on loopback"
	case !loopbackAddr(r.RemoteAddr):
		return "it was not sent from loopback"
	case !loopbackHost(r.Host):
		return "its Host is not loopback"
	}
	for name := range r.Header {
		if forwarding(name) {
			return "it was forwarded"
		}
	}
	// Browsers set this where they leave out Origin, and no page can change it.
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		return "it was made by a page from elsewhere"
	}
	for _, origin := range r.Header.Values("Origin") {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || !strings.EqualFold(u.Host, r.Host) {
			return "its Origin is foreign"
		}
	}
	return ""
}

// forwarding reports whether a header is one that proxies add. The name is in canonical form.
func forwarding(name string) bool {
	switch name {
	case "Forwarded", "Via", "X-Real-Ip", "X-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip", "X-Cluster-Client-Ip", "X-Original-Host", "X-Host":
		return true
	}
	return strings.HasPrefix(name, "X-Forwarded")
}

// loopbackAddr reports whether IP:port is loopback.
func loopbackAddr(text string) bool {
	addr, err := netip.ParseAddrPort(text)
	return err == nil && addr.Addr().Unmap().IsLoopback()
}

// loopbackHost reports whether a Host header names this machine in a way that no name server decides.
func loopbackHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	} else {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
