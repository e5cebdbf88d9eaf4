package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/uuid"
)

// The types of flags whose values have bounds. kong names the flag, or its variable, before the message.

// count is a whole number of at least one.
type count int

// Decode implements kong.MapperValue.
func (c *count) Decode(ctx *kong.DecodeContext) error {
	n, err := wholeNumber(ctx)
	if err == nil && n < 1 {
		err = fmt.Errorf("%d is too little: want 1 or more", n)
	}
	*c = count(n)
	return err
}

// bound is a whole number of zero or more; zero means that there is no bound.
type bound int

// Decode implements kong.MapperValue.
func (b *bound) Decode(ctx *kong.DecodeContext) error {
	n, err := wholeNumber(ctx)
	if err == nil && n < 0 {
		err = fmt.Errorf("%d is too little: want 0 (no bound) or more", n)
	}
	*b = bound(n)
	return err
}

func wholeNumber(ctx *kong.DecodeContext) (int, error) {
	text, err := word(ctx, "number")
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number of at most %d", text, math.MaxInt32)
	}
	return int(n), nil
}

// share is a part of a whole: more than 0, up to 1.
type share float64

// Decode implements kong.MapperValue.
func (s *share) Decode(ctx *kong.DecodeContext) error {
	text, err := word(ctx, "share")
	if err != nil {
		return err
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v > 0 && v <= 1) {
		return fmt.Errorf("%q is not a share: want more than 0, up to 1 (for all)", text)
	}
	*s = share(v)
	return nil
}

// rate is a number for each second, of zero or more; zero means that there is no bound.
type rate float64

// Decode implements kong.MapperValue.
func (r *rate) Decode(ctx *kong.DecodeContext) error {
	text, err := word(ctx, "rate")
	if err != nil {
		return err
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v >= 0 && v <= math.MaxInt32) {
		return fmt.Errorf("%q is not a rate: want 0 (no bound) or more", text)
	}
	*r = rate(v)
	return nil
}

// period is a time of more than nothing.
type period time.Duration

// Decode implements kong.MapperValue.
func (p *period) Decode(ctx *kong.DecodeContext) error {
	d, err := duration(ctx)
	if err == nil && d <= 0 {
		err = fmt.Errorf("%s is too short: want more than 0, for example 10s", d)
	}
	*p = period(d)
	return err
}

// pause is a time of zero or more.
type pause time.Duration

// Decode implements kong.MapperValue.
func (p *pause) Decode(ctx *kong.DecodeContext) error {
	d, err := duration(ctx)
	if err == nil && d < 0 {
		err = fmt.Errorf("%s is less than nothing: want 0s or more", d)
	}
	*p = pause(d)
	return err
}

// seconds is a time of whole seconds, at least one, as the API counts times.
type seconds time.Duration

// Decode implements kong.MapperValue.
func (s *seconds) Decode(ctx *kong.DecodeContext) error {
	d, err := duration(ctx)
	if err == nil {
		err = wholeSeconds(d)
	}
	*s = seconds(d)
	return err
}

// count is how many there are.
func (s seconds) count() int { return int(time.Duration(s) / time.Second) }

// String is how people write it: 1h rather than 1h0m0s.
func (s seconds) String() string { return shortDuration(time.Duration(s)) }

// wholeSeconds refuses what the API cannot express.
func wholeSeconds(d time.Duration) error {
	switch {
	case d <= 0 || d%time.Second != 0:
		return fmt.Errorf("%s: want a positive number of whole seconds, for example 1s or 5m", d)
	case d/time.Second > math.MaxInt32:
		return fmt.Errorf("%s is too long: want at most %s", d, shortDuration(math.MaxInt32*time.Second))
	}
	return nil
}

func duration(ctx *kong.DecodeContext) (time.Duration, error) {
	text, err := word(ctx, "duration")
	if err != nil {
		return 0, err
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a time: want a number and a unit, for example 10s, 5m or 24h", text)
	}
	return d, nil
}

// word is the flag's value as it was written.
func word(ctx *kong.DecodeContext, what string) (string, error) {
	var text string
	err := ctx.Scan.PopValueInto(what, &text)
	return text, err
}

// shortDuration leaves out the units that are zero at the end.
func shortDuration(d time.Duration) string {
	text := d.String()
	if d%time.Minute == 0 && d != 0 {
		text = text[:len(text)-len("0s")]
	}
	if d%time.Hour == 0 && d != 0 {
		text = text[:len(text)-len("0m")]
	}
	return text
}

// uuidText is a uuid in lower case.
type uuidText string

// Decode implements kong.MapperValue.
func (u *uuidText) Decode(ctx *kong.DecodeContext) error {
	text, err := word(ctx, "uuid")
	if err != nil {
		return err
	}
	id, err := uuid.Parse(text)
	if err != nil || len(text) != len(id.String()) {
		return fmt.Errorf("%q is not a uuid, such as 930896af-bf8c-48d4-885c-6573a94b1853", text)
	}
	*u = uuidText(id.String())
	return nil
}

// stateName is a state as the schema writes it; people may write it in lower case.
type stateName string

var stateNames = []string{"created", "enabled", "updating", "degraded", "paused", "expired", "deleting"}

// Decode implements kong.MapperValue.
func (s *stateName) Decode(ctx *kong.DecodeContext) error {
	text, err := word(ctx, "state")
	if err != nil {
		return err
	}
	if !slices.Contains(stateNames, strings.ToLower(text)) {
		return fmt.Errorf("%q is not a state: want one of %s", text, strings.Join(stateNames, ", "))
	}
	*s = stateName(strings.ToUpper(text))
	return nil
}
