package catalog

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// shelf is what is published, as a test says.
type shelf struct {
	now   Published
	err   error
	reads int
}

func (s *shelf) PublishedRevision(context.Context) (string, error) { return s.now.Revision, s.err }

func (s *shelf) Published(context.Context) (Published, error) {
	s.reads++
	return s.now, s.err
}

func versionOfSample(version string) []byte {
	return []byte(strings.Replace(sample, "version: 1", "version: "+version, 1))
}

func newShelf(t *testing.T) (*shelf, *Live, *Definition) {
	t.Helper()
	base, err := New([]byte(sample))
	require.NoError(t, err)
	s := &shelf{}
	d, ok := base.DefinitionOf(base.Metrics()[0].Name)
	require.True(t, ok)
	return s, NewLive(base, s, nil), d
}

func (s *shelf) publish(t *testing.T, revision string, document []byte, retired bool) *Definition {
	t.Helper()
	d, err := Parse(document)
	require.NoError(t, err)
	s.now.Revision = revision
	if s.now.Metrics == nil {
		s.now.Metrics, s.now.Definitions = map[string]Standing{}, map[string]Publication{}
	}
	s.now.Metrics[d.Metric.Name] = Standing{Digest: d.Digest, Version: d.Version, Retired: retired}
	s.now.Definitions[d.Digest] = Publication{Document: document, Signature: []byte("s"), KeyID: "k"}
	return d
}

func TestLiveFollowsWhatIsPublished(t *testing.T) {
	s, live, base := newShelf(t)
	name := base.Metric.Name
	require.NoError(t, live.Sync(t.Context()))
	require.Zero(t, s.reads, "nothing was published")
	second := s.publish(t, "a", versionOfSample("2"), false)
	m, ok := live.Metric(name)
	require.True(t, ok)
	require.Equal(t, base.Digest, m.Digest, "it changes by Sync alone")
	require.NoError(t, live.Sync(t.Context()))
	require.NoError(t, live.Sync(t.Context()))
	require.Equal(t, 1, s.reads, "the same revision is read once")
	m, _ = live.Metric(name)
	require.Equal(t, second.Digest, m.Digest)
	for _, d := range []*Definition{base, second} {
		got, ok := live.Definition(d.Digest)
		require.True(t, ok, "old and new are served")
		require.Equal(t, d.Document, got.Document)
	}
	got, _ := live.Definition(second.Digest)
	require.Equal(t, "k", got.KeyID)

	s.publish(t, "b", versionOfSample("2"), true)
	require.NoError(t, live.Sync(t.Context()))
	_, ok = live.Metric(name)
	require.False(t, ok, "a retired metric is not offered")
	require.Empty(t, live.Metrics())
	m, ok = Assigned{live}.Metric(name)
	require.True(t, ok, "but what measures it goes on")
	require.Equal(t, second.Digest, m.Digest)

	s.err = errors.New("away")
	require.Error(t, live.Sync(t.Context()))
	_, ok = live.Definition(second.Digest)
	require.True(t, ok, "what is known stays")
}

func TestLiveKeepsToTheNewerOfProgramAndPublication(t *testing.T) {
	s, _, _ := newShelf(t)
	s.publish(t, "a", versionOfSample("2"), false)
	newer, err := New(versionOfSample("3"))
	require.NoError(t, err)
	live := NewLive(newer, s, nil)
	require.NoError(t, live.Sync(t.Context()))
	d, _, ok := live.Known(newer.Metrics()[0].Name)
	require.True(t, ok)
	require.Equal(t, 3, d.Version)
}

func TestADefinitionOfTheFutureIsAssignedAndServedButNotOffered(t *testing.T) {
	s, live, base := newShelf(t)
	future := []byte("schema: iapi.metric/9\n")
	s.publish(t, "a", versionOfSample("2"), false)
	s.now.Definitions[Digest(future)] = Publication{Document: future}
	s.now.Metrics[base.Metric.Name] = Standing{Digest: Digest(future), Version: 3}
	require.NoError(t, live.Sync(t.Context()))
	_, ok := live.Metric(base.Metric.Name)
	require.False(t, ok)
	m, ok := Assigned{live}.Metric(base.Metric.Name)
	require.True(t, ok)
	require.Equal(t, Digest(future), m.Digest)
	d, ok := live.Definition(m.Digest)
	require.True(t, ok)
	require.Equal(t, future, d.Document)
}

func TestSignaturesHoldForExactlyTheseBytes(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	raw, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(t, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: raw})
	keys, err := ParseKeys(append([]byte("a comment\n"), text...))
	require.NoError(t, err)
	raw, err = x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	private, err = ParsePrivateKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
	require.NoError(t, err)

	good := Sign([]byte(sample), private)
	require.NoError(t, keys.Verify(good))
	for want, change := range map[error]func(*Publication){
		ErrUnsigned:     func(p *Publication) { p.Signature = nil },
		ErrUnknownKey:   func(p *Publication) { p.KeyID = "another" },
		ErrBadSignature: func(p *Publication) { p.Document = append([]byte(nil), sample+" "...) },
	} {
		bad := good
		change(&bad)
		require.ErrorIs(t, keys.Verify(bad), want)
	}
	for _, bad := range []string{"", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))} {
		_, err := ParseKeys([]byte(bad))
		require.Error(t, err)
	}
	_, err = ParsePrivateKey(text)
	require.Error(t, err)
}
