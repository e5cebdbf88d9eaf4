package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
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

// encode encodes it as encoding/json does, only sooner where all is well, as it mostly is.
func (s *statusJSON) encode() (string, error) {
	if s.Message == "" && s.VMs == nil {
		switch year := s.LastSample.Year(); {
		case s.LastSample.IsZero():
			return "{}", nil
		case year > 0 && year <= 9999:
			return string(append(s.LastSample.AppendFormat(append(make([]byte, 0, 48), `{"l":"`...), time.RFC3339Nano), `"}`...)), nil
		}
	}
	b, err := json.Marshal(s)
	return string(b), err
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
		b, err := kept.encode()
		if err != nil {
			return part{}, fmt.Errorf("encode the status of %s: %w", st.ID, err)
		}
		args = append(args, string(st.ID), "|"+strconv.Itoa(st.Revision)+"|"+string(st.Status)+"|"+strconv.Itoa(len(st.VMs))+"|"+string(zones), b)
	}
	return part{host: r.Host, args: args, weight: len(r.Instrumentations)}, nil
}

// Report stores how a host fares. Reports that come too late change nothing.
func (s *Store) Report(ctx context.Context, r Report) (ReportResult, error) {
	results, err := s.ReportBatch(ctx, []Report{r})
	if err != nil {
		return ReportResult{}, err
	}
	return results[0], results[0].Err
}

// judgeWithin bounds how long the answer to a report may wait until what has changed is marked to be judged, which is a hint.
const judgeWithin = time.Second

// ReportBatch stores reports in one round trip for each server, in their order for each host, and returns one result for
// each. A report that is not valid, which changes nothing, and one that could not be stored have their own errors, and spoil none
// of the others. What has changed is marked to be judged.
func (s *Store) ReportBatch(ctx context.Context, reports []Report) ([]ReportResult, error) {
	results := make([]ReportResult, len(reports))
	var parts []part
	var of []int
	for i, r := range reports {
		p, err := reportPart(r)
		if results[i].Err = err; err != nil {
			results[i].Err = fmt.Errorf("report of host %s: %w", r.Host, err)
			continue
		}
		parts, of = append(parts, p), append(of, i)
	}
	replies, errs := s.doParts(ctx, reportScript, parts, s.opts.OfflineAfter.Milliseconds())
	judge := make(map[instrumentation.ID]bool)
	for k, reply := range replies {
		r := &results[of[k]]
		r.Err = errs[k] // one that was stored all the same is answered as old when it comes again
		r.Accepted, r.Superseded = number(at(reply, 0)) == 1, number(at(reply, 1)) == 1
		r.Judge = toIDs(texts(at(reply, 2)))
		for _, id := range r.Judge {
			judge[id] = true
		}
	}
	if len(judge) > 0 {
		ctx, cancel := context.WithTimeout(ctx, judgeWithin)
		defer cancel()
		s.judgeLater(ctx, slices.Sorted(maps.Keys(judge)))
	}
	return results, nil
}

// Part tells which part of the store has a host, and how many parts there are: what concerns one part needs one server only, and
// another that does not answer does not hold it up. Only a Cluster has more than one.
func (s *Store) Part(host uuid.UUID) (part, of int) {
	if !s.clustered() {
		return 0, 1
	}
	return int(shardOf(host)), shards
}

// BeginSession makes a session the host's agent: reports of others are refused, and those that serve agents are told. Sessions
// that begin at the same time do so in one round trip for each server, in the order in which they were asked to. It returns a
// number that is greater than those of all beginnings before it. A session that was given one, held above 0, begins again only
// where the store has lost that and nothing that began later stands; else the answer is 0.
func (s *Store) BeginSession(ctx context.Context, host, session uuid.UUID, held int64) (number int64, err error) {
	if host == uuid.Nil || session == uuid.Nil || session == revoked {
		return 0, errors.New("begin a session: host and session must be given")
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	of, _ := s.Part(host)
	b, err := s.sessions[of].Do(ctx, part{host: host, args: []any{host.String(), session.String(), held}})
	return b.number, cmp.Or(fault("begin a session", err), b.err)
}

// beginning is what became of a session that should begin.
type beginning struct {
	number int64
	err    error
}

// beginSessions begins all, and answers each with its own error.
func (s *Store) beginSessions(ctx context.Context, sessions []part) ([]beginning, error) {
	replies, errs := s.doParts(ctx, sessionScript, sessions)
	out := make([]beginning, len(sessions))
	for i := range out {
		out[i] = beginning{number(replies[i]), errs[i]}
	}
	return out, nil
}

// revoked is kept in place of the session of an agent whose credential was revoked.
var revoked = uuid.Max

// Sessions returns the session that is each host's agent, in their order: its ID is Nil where none is known, uuid.Max where the
// agent's credential was revoked since. Damage is told as by Documents.
func (s *Store) Sessions(ctx context.Context, hosts ...uuid.UUID) ([]Session, error) {
	cmds := make([]*redis.SliceCmd, len(hosts))
	err := s.undamaged(ctx, "read sessions", func(p redis.Pipeliner) {
		for i, h := range hosts {
			cmds[i] = p.HMGet(ctx, shardOf(h).key("fact:"+h.String()), "session", "begun")
		}
	})
	if err != nil {
		return nil, err
	}
	out, bad := make([]Session, len(hosts)), Damage{}
	for i, c := range cmds {
		if bad.add(hosts[i], c.Err()) {
			continue
		}
		v := c.Val()
		out[i].Number = number(v[1])
		if text(v[0]) == "" {
			continue
		}
		if out[i].ID, err = uuid.Parse(text(v[0])); err != nil {
			bad[hosts[i]] = fmt.Errorf("read the session: %w", err)
		}
	}
	return out, bad.err()
}

// Touch notes that the agents of the hosts were heard of now. It returns those of which that could not be noted, and why.
func (s *Store) Touch(ctx context.Context, hosts ...uuid.UUID) (missed []uuid.UUID, err error) {
	var calls []*call
	var of [][]uuid.UUID
	for sh, hosts := range byShard(hosts) {
		for chunk := range slices.Chunk(hosts, 1000) {
			args := make([]any, len(chunk))
			for i, h := range chunk {
				args[i] = h.String()
			}
			calls, of = append(calls, &call{script: touchScript, key: sh.prefix(), args: args}), append(of, chunk)
		}
	}
	err = s.doAll(ctx, calls)
	for i, c := range calls {
		if c.err != nil {
			missed = append(missed, of[i]...)
		}
	}
	return missed, err
}
