package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
)

const (
	maxKeySet  = 1 << 20
	minRSABits = 2048
)

// KeyFile is a JWK Set in a file: public RSA, EC and Ed25519 keys. It is read again when it changes, so that keys are
// rotated by replacing the file. While it cannot be parsed the keys read before stay; when it is gone, nothing holds.
type KeyFile struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex
	seen fs.FileInfo
	keys []jose.JSONWebKey
}

// OpenKeyFile reads a key set.
func OpenKeyFile(path string, log *slog.Logger) (*KeyFile, error) {
	f := &KeyFile{path: path, log: log}
	if err := f.load(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *KeyFile) load() error {
	info, err := os.Stat(f.path)
	if err != nil {
		return fmt.Errorf("read the key set: %w", err)
	}
	if info.Size() > maxKeySet {
		return fmt.Errorf("read the key set: %s is larger than %d bytes", f.path, maxKeySet)
	}
	text, err := os.ReadFile(f.path)
	if err != nil {
		return fmt.Errorf("read the key set: %w", err)
	}
	f.seen = info // also if it is bad: it is complained about once
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(text, &set); err != nil {
		return fmt.Errorf("read the key set %s: %w", f.path, err)
	}
	if len(set.Keys) == 0 {
		return fmt.Errorf("read the key set %s: it has no keys", f.path)
	}
	for i, k := range set.Keys {
		if err := usable(k); err != nil {
			return fmt.Errorf("read the key set %s: key %d (kid %q): %w", f.path, i, k.KeyID, err)
		}
	}
	f.keys = set.Keys
	return nil
}

// usable refuses keys that must not be in a public key set or are too weak.
func usable(k jose.JSONWebKey) error {
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < minRSABits {
			return fmt.Errorf("RSA keys need %d bits", minRSABits)
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return errors.New("it is not a public RSA, EC or Ed25519 key")
	}
	if k.Use != "" && k.Use != "sig" {
		return fmt.Errorf("its use is %q, not sig", k.Use)
	}
	return nil
}

// current returns the keys of the file as it is now.
func (f *KeyFile) current() ([]jose.JSONWebKey, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err != nil {
		return nil, fmt.Errorf("read the key set: %w", err)
	}
	if !os.SameFile(info, f.seen) || !info.ModTime().Equal(f.seen.ModTime()) || info.Size() != f.seen.Size() {
		if err := f.load(); err != nil {
			f.log.Error("the new key set is not used; the one before stays", "error", err)
		} else {
			f.log.Info("key set read", "path", f.path, "keys", len(f.keys))
		}
	}
	return f.keys, nil
}

func (f *KeyFile) verify(_ context.Context, raw string, algorithms []string) ([]byte, error) {
	keys, err := f.current()
	if err != nil {
		return nil, err
	}
	token, err := jwt.NewParser(jwt.WithValidMethods(algorithms), jwt.WithoutClaimsValidation()).
		Parse(raw, func(t *jwt.Token) (any, error) { return pick(keys, t) })
	if err != nil || !token.Valid {
		return nil, bad("a token whose signature does not hold: %v", err)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if err != nil {
		return nil, bad("a malformed token")
	}
	return payload, nil
}

// pick finds the one key that a token names. A token that names none can only mean the only key there is.
func pick(keys []jose.JSONWebKey, t *jwt.Token) (any, error) {
	kid, named := t.Header["kid"].(string)
	if !named && len(keys) != 1 {
		return nil, errors.New("it does not name its key")
	}
	for _, k := range keys {
		if named && k.KeyID != kid {
			continue
		}
		if k.Algorithm != "" && k.Algorithm != t.Method.Alg() {
			return nil, fmt.Errorf("its key is for %s", k.Algorithm)
		}
		return k.Key, nil // the method refuses a key of another type
	}
	return nil, errors.New("its key is not known")
}

// The bounds of talking to an OIDC issuer.
const (
	oidcTimeout  = 10 * time.Second
	oidcInterval = 2 * time.Second
)

// OIDCKeys are the keys that an OIDC issuer publishes. Those of tokens signed with a key that is not known are looked
// for at the issuer, at most once in two seconds.
type OIDCKeys struct{ set *oidc.RemoteKeySet }

// OpenOIDC asks the issuer for its configuration. client may be nil. ctx bounds this call only.
func OpenOIDC(ctx context.Context, issuer string, client *http.Client) (*OIDCKeys, error) {
	if client == nil {
		client = &http.Client{}
	}
	polite := &http.Client{Timeout: oidcTimeout, Transport: client.Transport, CheckRedirect: client.CheckRedirect}
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, polite), issuer)
	if err != nil {
		return nil, fmt.Errorf("ask the OIDC issuer %s: %w", issuer, err)
	}
	var about struct {
		Keys string `json:"jwks_uri"`
	}
	if err := provider.Claims(&about); err != nil || about.Keys == "" {
		return nil, fmt.Errorf("ask the OIDC issuer %s: it publishes no keys: %w", issuer, err)
	}
	rare := &http.Client{Timeout: oidcTimeout, Transport: &throttle{next: polite.Transport}}
	// The key set outlives ctx; each fetch has the client's deadline.
	keys := oidc.NewRemoteKeySet(oidc.ClientContext(context.WithoutCancel(ctx), rare), about.Keys)
	return &OIDCKeys{set: keys}, nil
}

func (k *OIDCKeys) verify(ctx context.Context, raw string, _ []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, oidcTimeout)
	defer cancel()
	// The caller has pinned the algorithm already, which VerifySignature leaves to it.
	payload, err := k.set.VerifySignature(ctx, raw)
	switch {
	case err == nil:
		return payload, nil
	case errors.Is(err, errThrottled):
		return nil, bad("a token whose key is not known")
	case isFetch(err):
		return nil, fmt.Errorf("fetch the issuer's keys: %w", err)
	}
	return nil, bad("a token whose signature does not hold: %v", err)
}

// isFetch tells keys that could not be fetched from signatures that do not hold.
func isFetch(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || strings.HasPrefix(err.Error(), "fetching keys")
}

var errThrottled = errors.New("keys were fetched a moment ago")

// throttle lets tokens with made-up key names not turn into a stream of requests to the issuer.
type throttle struct {
	next http.RoundTripper

	mu     sync.Mutex
	last   time.Time
	failed bool // the last request
}

func (t *throttle) RoundTrip(r *http.Request) (*http.Response, error) {
	t.mu.Lock()
	soon, failed := time.Since(t.last) < oidcInterval, t.failed
	if !soon {
		t.last = time.Now()
	}
	t.mu.Unlock()
	switch {
	case soon && failed: // nobody knows whether the token is good
		return nil, errors.New("they could not be fetched a moment ago")
	case soon:
		return nil, errThrottled
	}
	next := t.next
	if next == nil {
		next = http.DefaultTransport
	}
	answer, err := next.RoundTrip(r)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed = err != nil || answer.StatusCode != http.StatusOK
	return answer, err
}
