package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// JWTOptions say which tokens are believed, and what they say about the caller.
type JWTOptions struct {
	Issuer     string        // iss must be this; required
	Audience   string        // aud must contain this; required
	Algorithms []string      // alg must be one of these; nil: DefaultAlgorithms. Symmetric ones and none never are
	Leeway     time.Duration // for exp, nbf and iat; 0: 30 s
	Claims     ClaimNames
	Clock      func() time.Time // nil: time.Now
}

// DefaultAlgorithms are the signatures that are believed where nothing is configured.
var DefaultAlgorithms = []string{"RS256", "PS256", "ES256", "ES384", "EdDSA"}

// asymmetric are all that may be configured.
var asymmetric = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// ClaimNames say where a token tells what. A dot goes into an object: realm_access.roles.
type ClaimNames struct {
	Kind  string          // the caller's kind itself; "": iapi_kind
	Owner string          // the account's uuid; "": iapi_owner
	Roles string          // names of roles, looked up in Kinds where there is no kind; "": roles
	Kinds map[string]Kind // what the roles are; of several the mightiest counts
}

// The longest token that is read at all.
const maxJWT = 16 << 10

const defaultLeeway = 30 * time.Second

// Keys verify the signature of a token and return its payload.
type Keys interface {
	// verify returns an error that wraps ErrBadCredentials, or another where the keys could not be read.
	verify(ctx context.Context, raw string, algorithms []string) (payload []byte, err error)
}

// JWT reads bearer tokens that are JWTs.
type JWT struct {
	keys      Keys
	options   JWTOptions
	validator *jwt.Validator
}

// NewJWT makes an Authenticator from keys and what must be true of tokens.
func NewJWT(keys Keys, o JWTOptions) (*JWT, error) {
	if keys == nil || o.Issuer == "" || o.Audience == "" {
		return nil, errors.New("tokens need keys, an issuer and an audience to be believed")
	}
	if len(o.Algorithms) == 0 {
		o.Algorithms = DefaultAlgorithms
	}
	for _, alg := range o.Algorithms {
		if !slices.Contains(asymmetric, alg) {
			return nil, fmt.Errorf("tokens signed with %q are never believed; there are %s", alg, strings.Join(asymmetric, ", "))
		}
	}
	for role, kind := range o.Claims.Kinds {
		if !slices.Contains(personal, kind) {
			return nil, fmt.Errorf("role %q cannot be of kind %q", role, kind)
		}
	}
	o.Claims.Kind = orText(o.Claims.Kind, "iapi_kind")
	o.Claims.Owner = orText(o.Claims.Owner, "iapi_owner")
	o.Claims.Roles = orText(o.Claims.Roles, "roles")
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Leeway == 0 {
		o.Leeway = defaultLeeway
	}
	return &JWT{keys: keys, options: o, validator: jwt.NewValidator(
		jwt.WithIssuer(o.Issuer), jwt.WithAudience(o.Audience), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithLeeway(o.Leeway), jwt.WithTimeFunc(o.Clock),
	)}, nil
}

func orText(s, or string) string {
	if s == "" {
		return or
	}
	return s
}

// Authenticate implements Authenticator.
func (j *JWT) Authenticate(r *http.Request) (Caller, error) {
	raw, err := bearer(r)
	if err != nil {
		return Caller{}, err
	}
	if strings.Count(raw, ".") != 2 {
		return Caller{}, ErrNoCredentials // another kind of token
	}
	if len(raw) > maxJWT {
		return Caller{}, bad("a token of %d bytes", len(raw))
	}
	if err := checkHeader(raw, j.options.Algorithms); err != nil {
		return Caller{}, err
	}
	payload, err := j.keys.verify(r.Context(), raw, j.options.Algorithms)
	if err != nil {
		return Caller{}, err
	}
	claims := jwt.MapClaims{}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return Caller{}, bad("a token whose claims cannot be read: %v", err)
	}
	if err := j.validator.Validate(claims); err != nil {
		return Caller{}, bad("a token that does not hold: %v", err)
	}
	return j.caller(claims)
}

// checkHeader pins the algorithm before any key is looked at, and refuses extensions that it would have to understand.
func checkHeader(raw string, algorithms []string) error {
	token, _, err := jwt.NewParser().ParseUnverified(raw, jwt.MapClaims{})
	if err != nil {
		return bad("a malformed token")
	}
	alg, _ := token.Header["alg"].(string)
	if !slices.Contains(algorithms, alg) {
		return bad("a token signed with %q", alg)
	}
	if _, ok := token.Header["crit"]; ok {
		return bad("a token with critical extensions")
	}
	return nil
}

// personal are the kinds that a token may make of its bearer, the mightiest first. Agents have credentials of their own.
var personal = []Kind{Operator, Service, Workflow, Tenant}

// caller makes a Caller of the claims of a token that holds.
func (j *JWT) caller(claims jwt.MapClaims) (Caller, error) {
	names := j.options.Claims
	sub, _ := claims["sub"].(string)
	if sub == "" || len(sub) > 256 {
		return Caller{}, bad("a token without a usable sub")
	}
	kind, err := j.kind(claims)
	if err != nil {
		return Caller{}, err
	}
	c := Caller{ID: string(kind) + ":" + sub, Kind: kind, Scopes: words(lookup(claims, "scope"))}
	if c.Scopes == nil {
		c.Scopes = words(lookup(claims, "scp"))
	}
	if kind == Tenant || kind == Service {
		owner, given := lookup(claims, names.Owner).(string)
		if given {
			if c.Owner, err = uuid.Parse(owner); err != nil || c.Owner == uuid.Nil || len(owner) != len(uuid.Nil.String()) {
				return Caller{}, bad("a token whose %s is not a uuid", names.Owner)
			}
		}
		if kind == Tenant && !given {
			return Caller{}, bad("a tenant's token without %s", names.Owner)
		}
	}
	if exp, err := claims.GetExpirationTime(); err == nil && exp != nil {
		c.Expires = exp.UTC()
	}
	return c, nil
}

func (j *JWT) kind(claims jwt.MapClaims) (Kind, error) {
	names := j.options.Claims
	if told := lookup(claims, names.Kind); told != nil {
		text, _ := told.(string)
		if !slices.Contains(personal, Kind(text)) {
			return "", bad("a token whose %s is %q", names.Kind, text)
		}
		return Kind(text), nil
	}
	var has []Kind
	for _, role := range words(lookup(claims, names.Roles)) {
		if k, ok := names.Kinds[role]; ok {
			has = append(has, k)
		}
	}
	for _, k := range personal {
		if slices.Contains(has, k) {
			return k, nil
		}
	}
	return "", bad("a token that neither names a kind nor has a role that is known")
}

// lookup finds a claim by its name, or by a path with dots.
func lookup(claims map[string]any, name string) any {
	if v, ok := claims[name]; ok {
		return v
	}
	head, rest, ok := strings.Cut(name, ".")
	if !ok {
		return nil
	}
	inner, _ := claims[head].(map[string]any)
	return lookup(inner, rest)
}

// words reads a claim that is a list of strings, or one string with spaces between them.
func words(v any) []string {
	switch t := v.(type) {
	case string:
		return strings.Fields(t)
	case []any:
		var out []string
		for _, item := range t {
			if s, ok := item.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}
