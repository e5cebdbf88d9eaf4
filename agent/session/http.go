package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"iapi/graph/agentdoc"
)

func (s *Session) header() http.Header {
	h := make(http.Header)
	if token := s.opts.Token(); token != "" {
		h.Set("Authorization", "Bearer "+token)
	}
	if s.opts.UserAgent != "" {
		h.Set("User-Agent", s.opts.UserAgent)
	}
	return h
}

// post runs one operation over HTTP and returns the response's body.
func (s *Session) post(ctx context.Context, request []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base()+"/graphql", bytes.NewReader(request))
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	r.Header = s.header()
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/graphql-response+json, application/json;q=0.9")
	resp, err := s.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask the API: %w", err)
	}
	defer resp.Body.Close()
	if later := retryAfter(resp); later != nil {
		return nil, later
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxFrame))
	if err != nil {
		return nil, fmt.Errorf("read the API's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK && !json.Valid(raw) {
		return nil, fmt.Errorf("the API answered %s", resp.Status)
	}
	return raw, nil
}

// pollFor fetches the assignment again and again, for the given time at most, because websockets do not pass.
func (s *Session) pollFor(ctx context.Context, most time.Duration, receive func(Assignment)) error {
	select {
	case <-s.superseded: // from before
	default:
	}
	s.log.Info("websockets do not pass; polling instead", "server", s.base(), "every", s.opts.PollEvery)
	// The first request makes this session the host's agent, as a subscription would.
	query := "?session=" + s.name.String()
	for until := time.Now().Add(most); time.Now().Before(until); query = "" {
		if err := s.poll(ctx, query, receive); err != nil {
			return err
		}
		if query != "" {
			s.begin()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.superseded: // who polls is told by the answer to a report
			return ErrSuperseded
		case <-time.After(Jitter(s.opts.PollEvery)):
		}
	}
	return nil
}

func (s *Session) poll(ctx context.Context, query string, receive func(Assignment)) error {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base()+"/agents/"+s.opts.Host.String()+"/assignment"+query, nil)
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	r.Header = s.header()
	r.Header.Set("Accept", "application/json")
	if v := s.version(); v != (Version{}) {
		r.Header.Set("If-None-Match", v.ETag())
	}
	resp, err := s.http.Do(r)
	if err != nil {
		return fmt.Errorf("poll: %w", err)
	}
	defer resp.Body.Close()
	begun := time.Now()
	if resp.StatusCode == http.StatusConflict {
		return ErrSuperseded
	}
	if later := retryAfter(resp); later != nil {
		return later
	}
	switch resp.StatusCode {
	case http.StatusNotModified:
		return nil
	case http.StatusOK:
	default:
		return fmt.Errorf("poll: the API answered %s", resp.Status)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxFrame+1))
	if err != nil {
		return fmt.Errorf("poll: %w", err)
	}
	if len(raw) > maxFrame {
		return fmt.Errorf("poll: the assignment is larger than %d bytes", maxFrame)
	}
	a, err := s.last.readAssignment(raw)
	if err != nil {
		return fmt.Errorf("poll: %w", err)
	}
	s.offer(arrived(a, begun), receive)
	return nil
}

// Join trades a one-time join token for the right to use a token that the agent has made, for this host only. It needs no session,
// and may be repeated when it is not known what came of it.
func Join(ctx context.Context, o Options, joinToken, agentToken string) error {
	o.Token = nil
	s, err := New(o)
	if err != nil {
		return err
	}
	request, err := json.Marshal(operation{Query: agentdoc.ExchangeJoinToken, Variables: map[string]any{
		"input": map[string]any{"token": joinToken, "host": o.Host, "credential": agentToken},
	}})
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	raw, err := s.post(ctx, request)
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	var data struct {
		Result struct {
			Token      string `json:"token"`
			UserErrors []struct {
				Message string `json:"message"`
			} `json:"userErrors"`
		} `json:"exchangeJoinToken"`
	}
	if err := decode(raw, &data); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if len(data.Result.UserErrors) > 0 {
		return fmt.Errorf("join: %s", data.Result.UserErrors[0].Message)
	}
	if data.Result.Token != agentToken {
		return errors.New("join: the API answered with another token than the agent's")
	}
	return nil
}
