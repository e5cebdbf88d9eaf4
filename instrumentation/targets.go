package instrumentation

import (
	"net/netip"
	"net/url"
	"strings"

	"iapi/measure"
)

// private reports whether a target is the host that measures, or a service that trusts it: loopback, link-local (and so
// the metadata service), unspecified and multicast addresses, and names that always mean those. What other names
// resolve to is known only where the data is sent from.
func private(t measure.Target) bool {
	host := t.Address
	if _, rest, ok := strings.Cut(host, "://"); ok {
		host = rest
	}
	u, err := url.Parse("//" + host)
	if err != nil {
		return true
	}
	return privateHost(u.Hostname())
}

func privateHost(host string) bool {
	host = strings.ToLower(strings.TrimRight(host, "."))
	if addr, err := netip.ParseAddr(host); err == nil {
		return privateAddr(addr)
	}
	labels := strings.Split(host, ".")
	last := labels[len(labels)-1]
	switch {
	case last == "" || last == "localhost" || last == "localdomain":
		return true
	case !strings.Contains(host, "."):
		// A name without a domain is one of the host's own: its /etc/hosts, its search path.
		return true
	case host == "metadata.google.internal":
		return true
	}
	// Resolvers of the C library take 127.1, 0x7f.1 and 2130706433 for addresses.
	return strings.HasPrefix(last, "0x") || strings.Trim(last, "0123456789") == ""
}

// metadata is where clouds keep the secrets of a host, beside the link-local addresses.
var metadata = []netip.Addr{netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("168.63.129.16")}

// embedding are the IPv6 prefixes whose last 32 bits are an IPv4 address.
var embedding = []netip.Prefix{netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("::/96")}

func privateAddr(addr netip.Addr) bool {
	addr = addr.WithZone("").Unmap()
	if addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsUnspecified() || addr.IsMulticast() {
		return true
	}
	for _, m := range metadata {
		if addr == m {
			return true
		}
	}
	if addr.Is4() {
		return addr.As4()[0] == 0 || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	for _, p := range embedding {
		if p.Contains(addr) {
			b := addr.As16()
			return privateAddr(netip.AddrFrom4([4]byte(b[12:])))
		}
	}
	return false
}
