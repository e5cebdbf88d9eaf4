package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"iapi/identity"
)

// clientFlags say how the client reaches the API.
type clientFlags struct {
	Server  string        `default:"http://127.0.0.1:8080" help:"The API's address." placeholder:"URL"`
	Token   string        `help:"Bearer token. By default the one that \"iapi dev\" and \"iapi api\" keep in their data directory." placeholder:"TOKEN"`
	DataDir string        `help:"Where to look for that token. [${default}]" default:"${data_dir}" hidden:"" type:"path"`
	Timeout time.Duration `default:"30s" help:"For one request."`
	Output  string        `short:"o" enum:"table,json,yaml" default:"table" help:"Print as ${enum}."`
}

// client asks the API.
type client struct {
	flags clientFlags
	http  *http.Client
}

func (f clientFlags) client() *client {
	return &client{flags: f, http: &http.Client{Timeout: f.Timeout}}
}

// token is the one given, else the one in the data directory, else none.
func (f clientFlags) token() (string, error) {
	if f.Token != "" {
		return f.Token, nil
	}
	token, err := identity.ReadTokenFile(f.DataDir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return "", nil
	}
	return token, err
}

// userError is a mistake that the caller can mend.
type userError struct {
	Message string   `json:"message"`
	Path    []string `json:"path"`
	Code    string   `json:"code"`
}

// refusal is an API's answer that a mutation was not done.
func refusal(errs []userError) error {
	if len(errs) == 0 {
		return nil
	}
	lines := make([]string, 0, len(errs))
	code := exitFailed
	for _, e := range errs {
		line := e.Message
		if len(e.Path) > 0 {
			line = strings.TrimPrefix(strings.Join(e.Path, "."), "input.") + ": " + line
		}
		lines = append(lines, line+" ("+e.Code+")")
		if e.Code == "NOT_FOUND" {
			code = exitNotFound
		}
	}
	return &exitError{code: code, err: errors.New(strings.Join(lines, "\n      "))}
}

// do runs one operation and decodes its data.
func (c *client) do(ctx context.Context, document string, variables map[string]any, data any) error {
	body, err := json.Marshal(map[string]any{"query": document, "variables": variables})
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(c.flags.Server, "/")+"/graphql", bytes.NewReader(body))
	if err != nil {
		return usageError("--server %q: %w", c.flags.Server, err)
	}
	token, err := c.flags.token()
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/graphql-response+json, application/json;q=0.9")
	r.Header.Set("User-Agent", "iapi/"+version())
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &exitError{code: exitUnreachable,
			err: fmt.Errorf("cannot reach the API at %s (is \"iapi dev\" running? --server names another address): %w", c.flags.Server, err)}
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return &exitError{code: exitUnreachable, err: fmt.Errorf("read the API's answer: %w", err)}
	}
	return decodeAnswer(resp, raw, data)
}

func decodeAnswer(resp *http.Response, raw []byte, data any) error {
	var answer struct {
		Data   json.RawMessage `json:"data"`
		Errors []struct {
			Message    string `json:"message"`
			Extensions struct {
				Code          string `json:"code"`
				CorrelationID string `json:"correlationId"`
			} `json:"extensions"`
		} `json:"errors"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return &exitError{code: exitFailed, err: fmt.Errorf("the server answered %s and no GraphQL; is %s an IAPI?", resp.Status, resp.Request.URL)}
	}
	if len(answer.Errors) > 0 {
		e := answer.Errors[0]
		code := exitFailed
		text := e.Message
		switch e.Extensions.Code {
		case "NOT_READY", "RATE_LIMITED":
			code = exitUnreachable
		case "NOT_FOUND":
			code = exitNotFound
		case "UNAUTHENTICATED":
			text = strings.TrimSuffix(text, ".") + " (--token gives one, --data-dir names where the server keeps its own)"
		case "INTERNAL":
			text += " (correlation id " + e.Extensions.CorrelationID + ")"
		}
		return &exitError{code: code, err: errors.New(text)}
	}
	if err := json.Unmarshal(answer.Data, data); err != nil {
		return fmt.Errorf("decode the API's answer: %w", err)
	}
	return nil
}

// defaultDataDir is where "iapi dev" keeps its data and the client looks for the token.
func defaultDataDir() string {
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "iapi")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join(os.TempDir(), "iapi")
	}
	return filepath.Join(home, ".local", "share", "iapi")
}
