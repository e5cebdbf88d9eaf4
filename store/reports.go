package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"iapi/instrumentation"
)

var (
	reportScript  = load("counts", "try", "report")
	sessionScript = load("changes", "try", "session")
	touchScript   = load("touch")
	revokeScript  = load("changes", "revoke")
)

// maxMessage is how much of an agent's text is kept, in bytes.
const maxMessage = 4 << 10

// statusJSON is what is kept of a status beside its head.
type statusJSON struct {
	Message    string                      `json:"m,omitempty"`
	LastSample time.Time                   `json:"l,omitzero"`
	VMs        map[uuid.UUID]sourceFailure `json:"v,omitempty"`
}

type sourceFailure struct {
	Status  instrumentation.Status `json:"s"`
	Message string                 `json:"m,omitempty"`
}

// cut shortens a text to maxMessage bytes, at a character.
func cut(t string) string {
	t = strings.ToValidUTF8(t, "\uFFFD")
	if len(t) <= maxMessage {
		return t
	}
	t = t[:maxMessage]
	for len(t) > 0 && !utf8.ValidString(t) {
		t = t[:len(t)-1]
	}
	return t
}

// class is what a status counts as.
func class(s instrumentation.Status) (byte, error) {
	switch s {
	case instrumentation.StatusRunning:
		return 'r', nil
	case instrumentation.StatusPending, instrumentation.StatusOffline:
		return 'p', nil
	case instrumentation.StatusFailed, instrumentation.StatusUnsupported, instrumentation.StatusDenied, instrumentation.StatusOverBudget:
		return 'f', nil
	}
	return 0, fmt.Errorf("status %q is not known", s)
}

func reportPart(r Report) (part, error) {
	if r.Host == uuid.Nil || r.Session == uuid.Nil || r.Session == revoked || r.Sequence < 0 {
		return part{}, errors.New("host and session must be given, and sequence must not be below zero")
	}
	if r.Applied.Epoch != "" {
		if _, err := parseEpoch(r.Applied.Epoch); err != nil {
			return part{}, fmt.Errorf("applied: %w", err)
		}
	}
	caps, err := json.Marshal(r.Capabilities)
	if err != nil {
		return part{}, fmt.Errorf("encode the capabilities: %w", err)
	}
	targets := slices.Clone(r.Targets)
	for i := range targets {
		targets[i].LastError = cut(targets[i].LastError)
	}
	health, err := json.Marshal(targets)
	if err != nil {
		return part{}, fmt.Errorf("encode the targets: %w", err)
	}
	args := make([]any, 0, 10+3*len(r.Instrumentations))
	args = append(args, r.Host.String(), r.Session.String(), r.Sequence, r.AgentVersion, string(caps),
		r.Applied.Epoch, r.Applied.Generation, r.Applied.Hash, string(health), len(r.Instrumentations))
	for _, st := range r.Instrumentations {
		if _, err := class(st.Status); err != nil {
			return part{}, fmt.Errorf("%s: %w", st.ID, err)
		}
		kept := statusJSON{Message: cut(st.Message), LastSample: st.LastSample.UTC()}
		if st.LastSample.IsZero() {
			kept.LastSample = time.Time{}
		}
		var zones []byte
		for vm, f := range st.VMs {
			c, err := class(f.Status)
			if err != nil {
				return part{}, fmt.Errorf("%s: VM %s: %w", st.ID, vm, err)
			}
			zones = append(append(zones, vm[:]...), c)
			if kept.VMs == nil {
				kept.VMs = make(map[uuid.UUID]sourceFailure, len(st.VMs))
			}
			kept.VMs[vm] = sourceFailure{f.Status, cut(f.Message)}
		}
		b, err := json.Marshal(kept)
		if err != nil {
			return part{}, fmt.Errorf("encode the status of %s: %w", st.ID, err)
		}
		fares := fmt.Appendf(make([]byte, 0, 32+len(zones)), "|%d|%s|%d|%s", st.Revision, st.Status, len(st.VMs), zones)
		args = append(args, string(st.ID), string(fares), string(b))
	}
	return part{host: r.Host, args: args, weight: len(r.Instrumentations)}, nil
}

// Report stores how a host fares. Reports that come too late change nothing.
func (s *Store) Report(ctx context.Context, r Report) (ReportResult, error) {
	results, err := s.ReportBatch(ctx, []Report{r})
	if err != nil {
		return ReportResult{}, err
	}
	return results[0], nil
}

// ReportBatch stores reports in one round trip for each server, in their order for each host, and returns one result for
// each. A report that is not valid changes nothing, counts as not accepted, and is logged: it does not spoil the others.
// What has changed is marked to be judged.
func (s *Store) ReportBatch(ctx context.Context, reports []Report) ([]ReportResult, error) {
	results := make([]ReportResult, len(reports))
	var parts []part
	var of []int
	for i, r := range reports {
		p, err := reportPart(r)
		if err != nil {
			if len(reports) == 1 {
				return nil, fmt.Errorf("report of host %s: %w", r.Host, err)
			}
			s.log.Warn("a report is not valid", "host", r.Host, "error", err)
			continue
		}
		parts, of = append(parts, p), append(of, i)
	}
	replies, errs := s.doParts(ctx, reportScript, parts, s.opts.OfflineAfter.Milliseconds())
	judge := make(map[instrumentation.ID]bool)
	for k, reply := range replies {
		r := &results[of[k]]
		r.Accepted, r.Superseded = number(at(reply, 0)) == 1, number(at(reply, 1)) == 1
		r.Judge = toIDs(texts(at(reply, 2)))
		for _, id := range r.Judge {
			judge[id] = true
		}
	}
	if len(judge) > 0 {
		s.judgeLater(ctx, slices.Sorted(maps.Keys(judge)))
	}
	if err := cmp.Or(errs...); err != nil {
		return nil, err // those that were stored before are answered as old when they come again
	}
	return results, nil
}

// BeginSession makes a session the host's agent: reports of others are refused, and those that serve agents are told. Sessions
// that begin at the same time do so in one round trip, in the order in which they were asked to.
func (s *Store) BeginSession(ctx context.Context, host, session uuid.UUID) error {
	if host == uuid.Nil || session == uuid.Nil || session == revoked {
		return errors.New("begin a session: host and session must be given")
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	failed, err := s.sessions.Do(ctx, part{host: host, args: []any{host.String(), session.String()}})
	return cmp.Or(fault("begin a session", err), failed)
}

// beginSessions begins all, and answers each with its own error.
func (s *Store) beginSessions(ctx context.Context, sessions []part) ([]error, error) {
	_, errs := s.doParts(ctx, sessionScript, sessions)
	return errs, nil
}

// revoked is kept in place of the session of an agent whose credential was revoked.
var revoked = uuid.Max

// Sessions returns the session that is each host's agent, in their order: Nil where none is known, uuid.Max where the agent's
// credential was revoked since.
func (s *Store) Sessions(ctx context.Context, hosts ...uuid.UUID) ([]uuid.UUID, error) {
	cmds := make([]*redis.StringCmd, len(hosts))
	err := s.pipelined(ctx, "read sessions", func(p redis.Pipeliner) {
		for i, h := range hosts {
			cmds[i] = p.HGet(ctx, shardOf(h).key("fact:"+h.String()), "session")
		}
	})
	if err != nil {
		return nil, err
	}
	out := make([]uuid.UUID, len(hosts))
	for i, c := range cmds {
		if c.Val() == "" {
			continue
		}
		if out[i], err = uuid.Parse(c.Val()); err != nil {
			return nil, fmt.Errorf("read the session of host %s: %w", hosts[i], err)
		}
	}
	return out, nil
}

// Touch notes that the agents of the hosts were heard of now.
func (s *Store) Touch(ctx context.Context, hosts ...uuid.UUID) error {
	var calls []*call
	for sh, hosts := range byShard(hosts) {
		for chunk := range slices.Chunk(hosts, 1000) {
			args := make([]any, len(chunk))
			for i, h := range chunk {
				args[i] = h.String()
			}
			calls = append(calls, &call{script: touchScript, key: sh.prefix(), args: args})
		}
	}
	return s.doAll(ctx, calls)
}
