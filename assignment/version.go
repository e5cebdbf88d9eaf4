package assignment

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrVersion is wrapped by the errors of ParseVersion and ParseETag.
var ErrVersion = errors.New("not an assignment version")

// FirstEpoch is the epoch of a host whose store has never been proved to have gone back.
const FirstEpoch = "0000000000000001"

// maxEpoch is the greatest epoch that can be. No honest history comes near to it, so that there always is a greater one.
const maxEpoch = "7fffffffffffffff"

const epochDigits = 16

// Compare returns a negative number, zero or a positive one as v is older than o, of the same age, or newer. The hash
// has no part in it: equal (Epoch, Generation) with another hash means that a store went back.
func (v Version) Compare(o Version) int {
	return cmp.Or(strings.Compare(v.Epoch, o.Epoch), cmp.Compare(v.Generation, o.Generation))
}

// Newer reports whether an agent that runs o takes v.
func (v Version) Newer(o Version) bool { return v.Compare(o) > 0 }

// IsZero reports whether it is no version at all.
func (v Version) IsZero() bool { return v == Version{} }

// String returns "epoch.generation.hash".
func (v Version) String() string {
	return v.Epoch + "." + strconv.FormatInt(v.Generation, 10) + "." + v.Hash
}

// ETag returns the version as a strong entity tag, quotes included.
func (v Version) ETag() string { return `"` + v.String() + `"` }

// Validate checks the form: 16 lower-case hex digits that are no more than maxEpoch, a generation of at least 1, a hash of 1 to 64 letters and digits.
// Its errors wrap ErrVersion.
func (v Version) Validate() error {
	if len(v.Epoch) != epochDigits || !only(v.Epoch, "0123456789abcdef") {
		return fmt.Errorf("%w: epoch %q is not 16 lower-case hex digits", ErrVersion, v.Epoch)
	}
	if v.Epoch > maxEpoch {
		return fmt.Errorf("%w: epoch %q is greater than any can be", ErrVersion, v.Epoch)
	}
	if v.Generation < 1 {
		return fmt.Errorf("%w: generation %d is less than 1", ErrVersion, v.Generation)
	}
	if len(v.Hash) < 1 || len(v.Hash) > 64 || !only(v.Hash, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		return fmt.Errorf("%w: hash %q is not 1 to 64 letters and digits", ErrVersion, v.Hash)
	}
	return nil
}

func only(s, of string) bool { return strings.Trim(s, of) == "" }

// ParseVersion reads what String wrote. Its errors wrap ErrVersion.
func ParseVersion(s string) (Version, error) {
	epoch, rest, _ := strings.Cut(s, ".")
	gen, hash, ok := strings.Cut(rest, ".")
	if !ok {
		return Version{}, fmt.Errorf("%w: %.100q is not epoch.generation.hash", ErrVersion, s)
	}
	n, err := strconv.ParseInt(gen, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != gen {
		return Version{}, fmt.Errorf("%w: generation %.40q is not a number", ErrVersion, gen)
	}
	v := Version{Epoch: epoch, Generation: n, Hash: hash}
	if err := v.Validate(); err != nil {
		return Version{}, err
	}
	return v, nil
}

// ParseETag reads one entity tag. A weak one is read too: proxies that compress make strong tags weak. Its errors wrap
// ErrVersion.
func ParseETag(s string) (Version, error) {
	inner, quoted := strings.CutPrefix(strings.TrimPrefix(s, "W/"), `"`)
	inner, closed := strings.CutSuffix(inner, `"`)
	if !quoted || !closed {
		return Version{}, fmt.Errorf("%w: entity tag %.100q is not in quotes", ErrVersion, s)
	}
	return ParseVersion(inner)
}
