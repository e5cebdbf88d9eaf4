package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
)

// The kinds of tokens that this program makes itself. What follows the prefix is 256 random bits in lower-case base32,
// so that a leaked token can be recognised by its form, and its hash needs no salt.
const (
	operatorPrefix = "iapio_"
	agentPrefix    = "iapia_"
	joinPrefix     = "iapij_"
	tokenBytes     = 32
)

var tokenEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// IsAgentToken reports whether a text has the form of an agent's token.
func IsAgentToken(token string) bool { return isToken(token, agentPrefix) }

func newToken(prefix string) string {
	var b [tokenBytes]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the program instead
	return prefix + strings.ToLower(tokenEncoding.EncodeToString(b[:]))
}

func isToken(token, prefix string) bool {
	rest, ok := strings.CutPrefix(token, prefix)
	return ok && len(rest) == tokenEncoding.EncodedLen(tokenBytes) && strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// NewAgentToken makes the credential of one host's agent. Keep only its hash.
func NewAgentToken() (token, hash string) {
	token = newToken(agentPrefix)
	return token, HashToken(token)
}

// NewJoinToken makes a token that is exchanged for an agent token, once. Keep only its hash.
func NewJoinToken() (token, hash string) {
	token = newToken(joinPrefix)
	return token, HashToken(token)
}

// HashToken returns what is stored of a token: its sha256, in hex.
func HashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// AgentTokens knows the tokens of agents by their hashes.
type AgentTokens interface {
	// Lookup returns the host that a token is bound to. ok is false for a hash that is unknown or revoked.
	Lookup(ctx context.Context, tokenHash string) (host uuid.UUID, ok bool, err error)
}

// AgentToken reads agent tokens.
type AgentToken struct{ Tokens AgentTokens }

// Authenticate implements Authenticator.
func (a AgentToken) Authenticate(r *http.Request) (Caller, error) {
	token, err := bearer(r)
	if err != nil {
		return Caller{}, err
	}
	if !strings.HasPrefix(token, agentPrefix) {
		return Caller{}, ErrNoCredentials
	}
	if !isToken(token, agentPrefix) {
		return Caller{}, bad("a malformed agent token")
	}
	host, ok, err := a.Tokens.Lookup(r.Context(), HashToken(token))
	if err != nil {
		return Caller{}, fmt.Errorf("look up an agent token: %w", err)
	}
	if !ok || host == uuid.Nil {
		return Caller{}, bad("an unknown or revoked agent token")
	}
	return agentCaller(host), nil
}

func agentCaller(host uuid.UUID) Caller {
	return Caller{ID: "agent:" + host.String(), Kind: Agent, Host: host}
}

// JoinTokens exchanges tokens by their hashes.
type JoinTokens interface {
	// Redeem voids the join token of a host and makes the agent token the one of that host, in one step. ok is false, and
	// nothing has changed, for a hash that is unknown, used, has lapsed or is of another host. Where the agent token is the one of
	// that host already, ok is true, and nothing has changed.
	Redeem(ctx context.Context, host uuid.UUID, joinHash, agentHash string) (ok bool, err error)
}

// Join exchanges a host's join token for the token of its agent: for the one that the agent has made, or for a new one where that
// is "". The error wraps ErrBadCredentials where the join token does not hold; one of another host is not used up by that. An
// exchange for a token that the agent has made can be repeated, for nobody else knows it; whoever has the join token alone cannot.
func Join(ctx context.Context, tokens JoinTokens, host uuid.UUID, joinToken, agentToken string) (string, error) {
	if agentToken == "" {
		agentToken, _ = NewAgentToken()
	}
	if host == uuid.Nil || !isToken(joinToken, joinPrefix) || !IsAgentToken(agentToken) {
		return "", bad("a malformed join token or agent token")
	}
	ok, err := tokens.Redeem(ctx, host, HashToken(joinToken), HashToken(agentToken))
	if err != nil {
		return "", fmt.Errorf("redeem a join token: %w", err)
	}
	if !ok {
		return "", bad("an unknown, used or lapsed join token, or one of another host than %s", host)
	}
	return agentToken, nil
}

// TokenName is the file in a data directory that holds the operators' token.
const TokenName = "operator.token"

// TokenFile is the operators' token in a data directory. Whoever can read the file is an operator.
type TokenFile struct {
	path string
	hash [sha256.Size]byte
}

// OpenTokenFile reads the token in a data directory, and makes one if there is none. It refuses a file that others than
// its user can read.
func OpenTokenFile(dir string) (*TokenFile, error) {
	path := filepath.Join(dir, TokenName)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := createToken(dir, path); err != nil {
			return nil, fmt.Errorf("create the operators' token: %w", err)
		}
	}
	token, err := ReadTokenFile(dir)
	if err != nil {
		return nil, err
	}
	return &TokenFile{path: path, hash: sha256.Sum256([]byte(token))}, nil
}

// createToken makes the file appear with its whole content, and leaves one alone that another process has made first.
func createToken(dir, path string) error {
	tmp, err := os.CreateTemp(dir, TokenName+".*") // 0600 by its documentation
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(newToken(operatorPrefix) + "\n")
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// ReadTokenFile reads the token in a data directory, as the command line does.
func ReadTokenFile(dir string) (string, error) {
	f, err := os.Open(filepath.Join(dir, TokenName))
	if err != nil {
		return "", fmt.Errorf("read the operators' token: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("read the operators' token: %w", err)
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o077 != 0 {
		return "", fmt.Errorf("read the operators' token: %s must be a file that only its user can read (0600), and is %v", f.Name(), mode)
	}
	text := make([]byte, 256)
	n, _ := f.Read(text) // what is missing fails the check of the form
	token := strings.TrimSpace(string(text[:n]))
	if !isToken(token, operatorPrefix) {
		return "", fmt.Errorf("read the operators' token: %s does not hold one; remove it to have it made anew", f.Name())
	}
	return token, nil
}

// Path returns where the token is.
func (t *TokenFile) Path() string { return t.path }

// Authenticate implements Authenticator.
func (t *TokenFile) Authenticate(r *http.Request) (Caller, error) {
	token, err := bearer(r)
	if err != nil {
		return Caller{}, err
	}
	if !strings.HasPrefix(token, operatorPrefix) {
		return Caller{}, ErrNoCredentials
	}
	// Hashes have one length, so that the comparison tells nothing of the token's.
	got := sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(got[:], t.hash[:]) != 1 {
		return Caller{}, bad("a wrong operators' token")
	}
	return Caller{ID: "operator:token", Kind: Operator}, nil
}
