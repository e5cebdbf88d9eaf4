package catalog

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// ErrUnsigned: a definition has no signature, and one is wanted.
var ErrUnsigned = errors.New("the definition is not signed")

// Keys are the public keys that definitions and bundles may be signed with, by their ids.
type Keys map[string]ed25519.PublicKey

// KeyID names a key: the first 16 hexadecimal digits of the SHA-256 of its 32 bytes.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// Sign signs the exact bytes of a document.
func Sign(document []byte, key ed25519.PrivateKey) Publication {
	public := key.Public().(ed25519.PublicKey) //nolint:errcheck // it always is one
	return Publication{Document: document, Signature: ed25519.Sign(key, document), KeyID: KeyID(public)}
}

// Verify checks that a document was signed by one of the keys. The error wraps ErrUnsigned, ErrUnknownKey or
// ErrBadSignature.
func (k Keys) Verify(p Publication) error {
	key, ok := k[p.KeyID]
	switch {
	case len(p.Signature) == 0:
		return ErrUnsigned
	case !ok:
		return fmt.Errorf("%w: %q", ErrUnknownKey, p.KeyID)
	case !ed25519.Verify(key, p.Document, p.Signature):
		return ErrBadSignature
	}
	return nil
}

// ParseKeys reads public keys from PEM text, one or more blocks of type PUBLIC KEY that each hold an Ed25519 key, as
// "openssl pkey -pubout" writes them.
func ParseKeys(text []byte) (Keys, error) {
	keys := make(Keys)
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("read the public keys: a block %q is not a public key", block.Type)
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read the public keys: %w", err)
		}
		key, ok := parsed.(ed25519.PublicKey)
		if !ok {
			return nil, fmt.Errorf("read the public keys: a key is %T, not Ed25519", parsed)
		}
		keys[KeyID(key)] = key
	}
	if len(keys) == 0 {
		return nil, errors.New("read the public keys: there is no PEM block PUBLIC KEY")
	}
	return keys, nil
}

// ParsePrivateKey reads an Ed25519 key from PEM text, a block of type PRIVATE KEY as "openssl genpkey -algorithm
// ed25519" writes it.
func ParsePrivateKey(text []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("read the private key: there is no PEM block PRIVATE KEY")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the private key: %w", err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read the private key: it is %T, not Ed25519", parsed)
	}
	return key, nil
}
