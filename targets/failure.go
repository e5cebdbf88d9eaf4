package targets

import (
	"context"
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"iapi/measure"
)

type failureKind int

const (
	retryLater    failureKind = iota // the target is not there or has too much to do
	refused                          // these points will never be taken
	misconfigured                    // no points will be taken until somebody changes something
)

// failure is an error of a wire that knows what follows from it.
type failure struct {
	kind  failureKind
	text  string
	after time.Duration // the target asks for this much patience
}

func (f *failure) Error() string { return f.text }

// httpFailure judges an HTTP status outside of 2xx.
func httpFailure(status int, header http.Header, body string, now time.Time) *failure {
	f := &failure{text: "the target answered " + strconv.Itoa(status) + " " + http.StatusText(status)}
	if body = strings.TrimSpace(body); body != "" {
		f.text += ": " + body
	}
	switch {
	case status == http.StatusRequestTimeout || status == http.StatusTooEarly || status == http.StatusTooManyRequests || status >= 500 && status != http.StatusNotImplemented:
		f.kind = retryLater
		f.after = retryAfter(header.Get("Retry-After"), now)
	case status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge || status == http.StatusUnprocessableEntity:
		f.kind = refused
	default:
		f.kind = misconfigured
	}
	return f
}

// retryAfter reads seconds or an HTTP date; what it cannot read is no wish.
func retryAfter(text string, now time.Time) time.Duration {
	text = strings.TrimSpace(text)
	if s, err := strconv.Atoi(text); err == nil {
		if s > int(maxRetryAfter/time.Second) {
			return maxRetryAfter
		}
		return max(0, time.Duration(s)*time.Second)
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(0, at.Sub(now)), maxRetryAfter)
	}
	return 0
}

// backoff is exponential from 1 s to 60 s, for the given number of failures in a row.
func backoff(failures int) time.Duration {
	if failures > 6 {
		return maxBackoff
	}
	return min(maxBackoff, firstBackoff<<max(0, failures-1))
}

// fullJitter picks anything up to d, so that agents which failed together do not come back together.
func fullJitter(d time.Duration) time.Duration { return rand.N(d) + time.Millisecond }

// secrets are texts that nothing may show.
type secrets []string

func secretsOf(t measure.Target) secrets {
	var s secrets
	add := func(text string) {
		if text != "" {
			s = append(s, text)
		}
	}
	for _, v := range t.Headers {
		add(v)
		add(strings.TrimSpace(v))
		words := strings.Fields(v)
		for _, word := range words {
			if len(word) >= 6 && !strings.EqualFold(word, "Bearer") {
				add(word)
			}
		}
		if len(words) == 2 && strings.EqualFold(words[0], "Basic") {
			if plain, err := base64.StdEncoding.DecodeString(words[1]); err == nil {
				add(string(plain))
				_, password, _ := strings.Cut(string(plain), ":")
				add(password)
			}
		}
	}
	if u, err := url.Parse(t.Address); err == nil && u.User != nil {
		add(u.User.String())
		if p, ok := u.User.Password(); ok {
			add(p)
			add(url.QueryEscape(p))
		}
	}
	slices.SortFunc(s, func(a, b string) int { return len(b) - len(a) }) // a secret within a secret goes with it
	return slices.Compact(s)
}

// ownAddress is how the net package tells both ends of a connection; ours would name the host to tenants.
var ownAddress = regexp.MustCompile(`\S+:\d+->`)

// scrub makes a text fit to be shown: without secrets, without the host's own address, on one line, and short.
func (s secrets) scrub(text string) string {
	for _, secret := range s {
		text = strings.ReplaceAll(text, secret, "[redacted]")
	}
	text = ownAddress.ReplaceAllString(text, "")
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, text)
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "…"
	}
	return text
}

// describe is the text of an error without the parts that repeat the address with its user or name this host's network.
func describe(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "the target did not answer in time"
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		return describe(ue.Err)
	}
	var de *net.DNSError
	if errors.As(err, &de) {
		return "look up " + de.Name + ": " + de.Err
	}
	return err.Error()
}
