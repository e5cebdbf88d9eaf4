package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"iapi/identity"
)

// clientFlags say how the client reaches the API.
type clientFlags struct {
	Server  string `default:"http://127.0.0.1:8080" group:"common" help:"The API's address." placeholder:"URL"`
	Token   string `group:"common" help:"Bearer token. Without: the one that \"iapi dev\" and \"iapi api\" keep in their data directory." placeholder:"TOKEN"`
	DataDir string `default:"${data_dir}" group:"common" type:"path" help:"Where to look for that token." placeholder:"DIR"`
	Timeout period `default:"30s" group:"common" help:"How long one request may take."`
	outputFlags
}

// outputFlags say how what a command tells is printed.
type outputFlags struct {
	Output string `short:"o" enum:"table,json,yaml" default:"table" group:"common" help:"Print as ${enum}."`
}

// client asks the API.
type client struct {
	flags clientFlags
	http  *http.Client
	notes io.Writer // where it says that it waits
}

func (f clientFlags) client() *client {
	return &client{flags: f, http: &http.Client{Timeout: time.Duration(f.Timeout)}, notes: os.Stderr}
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

// address is the API's, checked.
func (f clientFlags) address() (string, error) {
	u, err := url.Parse(f.Server)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return "", usageError("--server %q: want an address such as http://127.0.0.1:8080", f.Server)
	}
	return strings.TrimRight(f.Server, "/"), nil
}

// userError is a mistake that the caller can mend.
type userError struct {
	Message string   `json:"message"`
	Path    []string `json:"path"`
	Code    string   `json:"code"`
}

// refusedError is what userErrors come to.
type refusedError struct {
	errs []userError
	text string
}

func (e *refusedError) Error() string { return e.text }

// has reports whether the API refused with a code because of a member of the input.
func (e *refusedError) has(code, member string) bool {
	return slices.ContainsFunc(e.errs, func(u userError) bool {
		return u.Code == code && len(u.Path) > 0 && u.Path[len(u.Path)-1] == member
	})
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
			line = place(e.Path) + ": " + line
		}
		lines = append(lines, line+" ("+e.Code+")")
		if e.Code == "NOT_FOUND" {
			code = exitNotFound
		}
	}
	return &exitError{code: code, err: &refusedError{errs: errs, text: strings.Join(lines, "\n      ")}}
}

// ownNames are what the command line and manifests call members of inputs that the API calls otherwise.
var ownNames = map[string]string{
	"ttlSeconds": "ttl", "granularitySeconds": "granularity", "decompositions": "by", "predicate": "where", "targets": "target",
	"tags": "tag", "expectedRevision": "revision", "expectedCount": "expect", "previewToken": "preview-token",
	"idempotencyKey": "idempotency-key", "requestId": "request-id",
}

// place is where in the input a mistake is, in the words of the command line: by.0 for input.decompositions.0.
func place(path []string) string {
	path = slices.Clone(path)
	if path[0] == "input" && len(path) > 1 {
		path = path[1:]
	}
	if own, ok := ownNames[path[0]]; ok {
		path[0] = own
	}
	return strings.Join(path, ".")
}

// one runs an operation that asks for one field, and decodes what that is. If it has userErrors, they are the error.
func (c *client) one(ctx context.Context, document string, variables map[string]any, value any) error {
	var data map[string]json.RawMessage
	if err := c.do(ctx, document, variables, &data); err != nil {
		return err
	}
	for _, raw := range data {
		var refused struct {
			UserErrors []userError `json:"userErrors"`
		}
		if raw[0] == '{' {
			if err := json.Unmarshal(raw, &refused); err != nil {
				return fmt.Errorf("decode the API's answer: %w", err)
			}
		}
		if err := refusal(refused.UserErrors); err != nil {
			return err
		}
		if value == nil {
			return nil
		}
		if err := json.Unmarshal(raw, value); err != nil {
			return fmt.Errorf("decode the API's answer: %w", err)
		}
	}
	return nil
}

// page is a part of a list.
type page[T any] struct {
	Nodes    []T `json:"nodes"`
	PageInfo struct {
		HasNextPage bool    `json:"hasNextPage"`
		EndCursor   *string `json:"endCursor"`
	} `json:"pageInfo"`
}

// pages reads a list that is the one field of an operation, page by page, up to a limit; 0: all of it. more is the cursor
// that the rest stands behind, empty where there is none.
func pages[T any](ctx context.Context, c *client, document string, variables map[string]any, limit int) (all []T, more string, err error) {
	const most = 100 // of one page: what is asked for counts towards the rate limit, whether or not there is so much
	variables = maps.Clone(variables)
	all = []T{}
	for {
		variables["first"] = most
		if limit > 0 {
			variables["first"] = min(most, limit-len(all))
		}
		var p page[T]
		if err := c.one(ctx, document, variables, &p); err != nil {
			return nil, "", err
		}
		all = append(all, p.Nodes...)
		if !p.PageInfo.HasNextPage || p.PageInfo.EndCursor == nil {
			return all, "", nil
		}
		if limit > 0 && len(all) >= limit {
			return all, *p.PageInfo.EndCursor, nil
		}
		variables["after"] = *p.PageInfo.EndCursor
	}
}

// apiError is an error of a whole operation.
type apiError struct {
	code, text string
	retryAfter float64 // seconds; 0: not said
}

func (e *apiError) Error() string { return e.text }

// do runs one operation and decodes its data. What the rate limit refuses was not executed, so it is asked again when the
// API says, as long as --timeout lets all the waiting last.
func (c *client) do(ctx context.Context, document string, variables map[string]any, data any) error {
	left := time.Duration(c.flags.Timeout)
	told := false
	for {
		err := c.ask(ctx, document, variables, data)
		var refused *apiError
		if !errors.As(err, &refused) || refused.code != "RATE_LIMITED" || refused.retryAfter <= 0 || refused.retryAfter > left.Seconds() {
			return err
		}
		wait := max(time.Duration(refused.retryAfter*float64(time.Second)), time.Millisecond)
		left -= wait
		if waited := time.Duration(c.flags.Timeout) - left; waited > time.Second && !told {
			fmt.Fprintf(c.notes, "The API's rate limit is reached; waiting %s.\n", wait.Round(100*time.Millisecond))
			told = true
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// ask sends one operation once.
func (c *client) ask(ctx context.Context, document string, variables map[string]any, data any) error {
	body, err := json.Marshal(map[string]any{"query": document, "variables": variables})
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	address, err := c.flags.address()
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/graphql", bytes.NewReader(body))
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
			return &exitError{code: exitFailed, err: errors.New("interrupted before the API answered")}
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
			Path       []any  `json:"path"`
			Extensions struct {
				Code          string  `json:"code"`
				CorrelationID string  `json:"correlationId"`
				RetryAfter    float64 `json:"retryAfterSeconds"`
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
		if len(e.Path) > 1 && e.Path[0] == "variable" { // what does not fit the schema has only a place, for it has no field yet
			path := make([]string, 0, len(e.Path))
			for _, p := range e.Path[1:] {
				path = append(path, fmt.Sprint(p))
			}
			text = place(path) + ": " + text
		}
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
		return &exitError{code: code, err: &apiError{code: e.Extensions.Code, text: text, retryAfter: e.Extensions.RetryAfter}}
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
