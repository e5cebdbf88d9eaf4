package measure

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// The bounds of a target.
const (
	maxAddressBytes     = 1024
	maxPrefixBytes      = 200
	maxHeaders          = 16
	maxHeaderNameBytes  = 128
	maxHeaderValueBytes = 4096
)

// ParseTarget reads a target's text:
//
//	dataapi+http://HOST[:PORT]/PATH   also +https, and +ws, +wss for the websocket transport
//	dataapi+udp://HOST:PORT           one datagram for each event; meant for receivers on the same host
//	statsd://HOST:PORT[/PREFIX]
//	graphite://HOST:PORT[/PREFIX]
//	otlp+http://HOST[:PORT][/PATH]    also +https
//	otlp+grpc://HOST:PORT             also +grpcs, with TLS
//
// Text has no place for headers. What ParseTarget returns is valid.
func ParseTarget(text string) (Target, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return Target{}, errors.New("a target is written KIND://ADDRESS, for example statsd://127.0.0.1:8125/prefix")
	}
	kind, inner, _ := strings.Cut(scheme, "+")
	t := Target{Kind: TargetKind(kind)}
	switch t.Kind {
	case DataAPI, OTLP:
		if inner == "" {
			return Target{}, fmt.Errorf("target %s: write %s+http://… or another of its schemes", shorten(scheme), kind)
		}
		t.Address = inner + "://" + rest
		if t.Kind == DataAPI {
			t.Transport = transportOf(inner)
		}
	case Statsd, Graphite:
		if inner != "" {
			return Target{}, fmt.Errorf("target %s: write %s://HOST:PORT/PREFIX", shorten(scheme), kind)
		}
		t.Address, t.Prefix, _ = strings.Cut(rest, "/")
	default:
		return Target{}, fmt.Errorf("there is no kind of target %q; there are dataapi, statsd, graphite and otlp", shorten(kind))
	}
	if err := t.Validate(); err != nil {
		return Target{}, err
	}
	return t, nil
}

func transportOf(scheme string) Transport {
	switch scheme {
	case "ws", "wss":
		return WebSocket
	case "udp":
		return UDP
	}
	return HTTP
}

// Text writes the target as ParseTarget reads it, without its headers.
func (t Target) Text() string {
	switch t.Kind {
	case DataAPI, OTLP:
		return string(t.Kind) + "+" + t.Address
	}
	text := string(t.Kind) + "://" + t.Address
	if t.Prefix != "" {
		text += "/" + t.Prefix
	}
	return text
}

// String is Text, so that printing a target never shows its headers.
func (t Target) String() string { return t.Text() }

// GoString is Text, for the same reason.
func (t Target) GoString() string { return t.Text() }

// LogValue is Text, for the same reason.
func (t Target) LogValue() slog.Value { return slog.StringValue(t.Text()) }

// Validate checks the target's form and says what is wrong with it; it never shows the value of a header. Which
// addresses may be used is not a question of form: that is for whoever sends the data to decide.
func (t Target) Validate() error {
	var err error
	switch t.Kind {
	case DataAPI:
		err = t.validateDataAPI()
	case OTLP:
		err = t.validateOTLP()
	case Statsd, Graphite:
		err = t.validateSocket()
	default:
		return fmt.Errorf("there is no kind of target %q; there are dataapi, statsd, graphite and otlp", shorten(string(t.Kind)))
	}
	if err == nil {
		err = t.validateHeaders()
	}
	if err != nil {
		return fmt.Errorf("%s target: %w", t.Kind, err)
	}
	return nil
}

func (t Target) validateDataAPI() error {
	if t.Prefix != "" {
		return errors.New("it has no prefix")
	}
	switch t.Transport {
	case HTTP:
		return validateURL(t.Address, "http", "https")
	case WebSocket:
		return validateURL(t.Address, "ws", "wss")
	case UDP:
		host, ok := strings.CutPrefix(t.Address, "udp://")
		if !ok {
			return fmt.Errorf("address %q: with transport UDP it is udp://HOST:PORT", shorten(t.Address))
		}
		return validateHostPort(host, true)
	default:
		return fmt.Errorf("there is no transport %q; there are HTTP, WEBSOCKET and UDP", shorten(string(t.Transport)))
	}
}

func (t Target) validateOTLP() error {
	if t.Prefix != "" || t.Transport != "" {
		return errors.New("it has neither a prefix nor a transport")
	}
	scheme, host, _ := strings.Cut(t.Address, "://")
	if scheme == "grpc" || scheme == "grpcs" {
		return validateHostPort(host, true)
	}
	return validateURL(t.Address, "http", "https", "grpc", "grpcs")
}

func (t Target) validateSocket() error {
	if t.Transport != "" {
		return errors.New("it has no transport")
	}
	if err := validateHostPort(t.Address, true); err != nil {
		return err
	}
	if len(t.Prefix) > maxPrefixBytes {
		return fmt.Errorf("its prefix is longer than %d bytes", maxPrefixBytes)
	}
	for _, r := range t.Prefix {
		if !isNameRune(r) && r != '.' {
			return fmt.Errorf("prefix %q: it consists of letters, digits, _, . and -", shorten(t.Prefix))
		}
	}
	return nil
}

// validateURL checks a URL with one of the schemes. Credentials belong into headers, which nobody is shown; so do the
// secrets that people put into queries.
func validateURL(address string, schemes ...string) error {
	if len(address) > maxAddressBytes {
		return fmt.Errorf("its address is longer than %d bytes", maxAddressBytes)
	}
	for _, r := range address {
		if r <= ' ' || r >= 0x7f {
			return fmt.Errorf("address %q: spaces, control characters and what is not ASCII must be percent-encoded", shorten(address))
		}
	}
	u, err := url.Parse(address)
	if err != nil {
		return errors.New("its address is not a URL") // the error's own text would show a password
	}
	switch {
	case u.User != nil:
		return errors.New("its address holds a user name or password; use a header instead")
	case !slices.Contains(schemes, u.Scheme) || !strings.HasPrefix(address, u.Scheme+"://"):
		return fmt.Errorf("scheme %q: it is one of %s", shorten(u.Scheme), strings.Join(schemes, ", "))
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(address, "#"):
		return errors.New("its address has a query or a fragment; use a header instead")
	}
	return validateHostPort(u.Host, false)
}

// validateHostPort checks HOST:PORT, the port being optional unless needPort.
func validateHostPort(text string, needPort bool) error {
	if len(text) > maxAddressBytes {
		return fmt.Errorf("its address is longer than %d bytes", maxAddressBytes)
	}
	host, port := text, ""
	hasPort := false
	if i := strings.LastIndexByte(text, ':'); i > strings.LastIndexByte(text, ']') {
		host, port, hasPort = text[:i], text[i+1:], true
	}
	if needPort && !hasPort {
		return fmt.Errorf("address %q: it needs a port", shorten(text))
	}
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || port[0] == '+' {
			return fmt.Errorf("port %q: it is a number from 1 to 65535", shorten(port))
		}
	}
	return validateHost(host)
}

func validateHost(host string) error {
	if inner, ok := strings.CutPrefix(host, "["); ok {
		addr, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		if err != nil || !strings.HasSuffix(inner, "]") || !addr.Is6() || addr.Zone() != "" {
			return fmt.Errorf("host %q: in brackets it is an IPv6 address without a zone", shorten(host))
		}
		return nil
	}
	if host == "" {
		return errors.New("its address has no host")
	}
	if len(host) > 253 {
		return errors.New("its host's name is longer than 253 bytes")
	}
	for _, r := range host {
		if !isNameRune(r) && r != '.' {
			return fmt.Errorf("host %q: it is a name or an IP address, IPv6 in brackets", shorten(host))
		}
	}
	return nil
}

func isNameRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-'
}

// reservedHeaders are those that the sender itself writes.
var reservedHeaders = []string{
	"connection", "content-encoding", "content-length", "content-type", "host", "te", "trailer", "transfer-encoding", "upgrade",
}

func (t Target) validateHeaders() error {
	if len(t.Headers) == 0 {
		return nil
	}
	if t.Kind == Statsd || t.Kind == Graphite || t.Transport == UDP {
		return errors.New("it cannot carry headers")
	}
	if len(t.Headers) > maxHeaders {
		return fmt.Errorf("it has more than %d headers", maxHeaders)
	}
	seen := make(map[string]bool, len(t.Headers))
	for name, value := range t.Headers {
		lower := strings.ToLower(name)
		switch {
		case !isHeaderName(name):
			return fmt.Errorf("header %q is not a header's name", shorten(name))
		case slices.Contains(reservedHeaders, lower) || strings.HasPrefix(lower, "sec-websocket-"):
			return fmt.Errorf("header %s is written by the agent and cannot be given", name)
		case seen[lower]:
			return fmt.Errorf("header %s is given twice", name)
		case len(value) > maxHeaderValueBytes:
			return fmt.Errorf("header %s is longer than %d bytes", name, maxHeaderValueBytes)
		case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r >= 0x7f }):
			return fmt.Errorf("header %s holds control characters or what is not ASCII", name)
		}
		seen[lower] = true
	}
	return nil
}

func isHeaderName(s string) bool {
	if s == "" || len(s) > maxHeaderNameBytes {
		return false
	}
	for _, r := range s {
		if !isNameRune(r) && !strings.ContainsRune("!#$%&'*+.^`|~", r) {
			return false
		}
	}
	return true
}
