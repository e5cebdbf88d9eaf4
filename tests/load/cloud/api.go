package cloud

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"iapi/identity"
)

// API is a running API.
type API struct {
	*Process
	URL    string
	token  string
	client *http.Client
}

// StartAPI starts an API, at an address of its own or, for a restart, at the given one.
func (c *Cloud) StartAPI(ctx context.Context, address string) (*API, error) {
	if address == "" {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		address = "127.0.0.1:" + port
	}
	dir := filepath.Join(c.opts.Dir, "api")
	args := append([]string{"api", "--listen", address, "--redis", c.url, "--vmapi", c.inventory, "--data-dir", dir, "--log-level", "warn",
		"--max-instrumentations", "100000", "--allow-private-targets", "--default-target", "statsd://127.0.0.1:9"}, c.opts.APIFlags...)
	of := client
	if c.secure != nil {
		args = append(args, "--tls-cert", c.secure.cert, "--tls-key", c.secure.key)
		of = c.secure.client
	}
	p, err := Start("api", c.debugFile("api"), c.opts.Binary, args...)
	if err != nil {
		return nil, err
	}
	a := &API{Process: p, client: of}
	if a.URL, err = p.Expect(ctx, `IAPI at (https?://[0-9.]+:[0-9]+)`); err != nil {
		p.Kill()
		return nil, err
	}
	token, err := os.ReadFile(filepath.Join(dir, identity.TokenName))
	if err != nil {
		p.Kill()
		return nil, fmt.Errorf("read the operators' token: %w", err)
	}
	a.token = strings.TrimSpace(string(token))
	return a, nil
}

// AddAPI starts another API.
func (c *Cloud) AddAPI(ctx context.Context) (*API, error) {
	a, err := c.StartAPI(ctx, "")
	if err == nil {
		c.APIs = append(c.APIs, a)
	}
	return a, err
}

// Restart starts the i-th API again where it was.
func (c *Cloud) Restart(ctx context.Context, i int) error {
	u, err := url.Parse(c.APIs[i].URL)
	if err != nil {
		return fmt.Errorf("restart an API: %w", err)
	}
	a, err := c.StartAPI(ctx, u.Host)
	if err == nil {
		c.APIs[i] = a
	}
	return err
}

// Servers are the URLs of the APIs.
func (c *Cloud) Servers() []string {
	out := make([]string, len(c.APIs))
	for i, a := range c.APIs {
		out[i] = a.URL
	}
	return out
}

// Connected is how many agents are connected to this API.
func (a *API) Connected(ctx context.Context) (int, error) {
	body, err := send(ctx, a.client, http.MethodGet, a.URL+"/metrics", a.token, nil)
	if err != nil {
		return 0, fmt.Errorf("read the API's metrics: %w", err)
	}
	_, rest, found := strings.Cut(string(body), "\niapi_agents_connected ")
	if !found {
		return 0, errors.New("read the API's metrics: iapi_agents_connected is missing")
	}
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseFloat(line, 64)
	if err != nil {
		return 0, fmt.Errorf("read the API's metrics: %w", err)
	}
	return int(n), nil
}

// Do runs a GraphQL operation as an operator and decodes its data.
func (a *API) Do(ctx context.Context, query string, variables map[string]any, data any) error {
	request, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	if err != nil {
		return fmt.Errorf("encode an operation: %w", err)
	}
	body, err := send(ctx, a.client, http.MethodPost, a.URL+"/graphql", a.token, request)
	if err != nil {
		return err
	}
	var response struct {
		Data   json.RawMessage
		Errors []struct{ Message string }
	}
	if err := json.Unmarshal(body, &response); err != nil {
		return fmt.Errorf("decode an answer: %w", err)
	}
	if len(response.Errors) > 0 {
		return errors.New(response.Errors[0].Message)
	}
	if data == nil {
		return nil
	}
	if err := json.Unmarshal(response.Data, data); err != nil {
		return fmt.Errorf("decode an answer: %w", err)
	}
	return nil
}

// client keeps more connections than one goroutine needs, for those who ask in parallel.
var client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 32, IdleConnTimeout: 30 * time.Second}}

func send(ctx context.Context, client *http.Client, method, url, token string, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 && !json.Valid(answer) {
		err = fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(answer)))
	}
	return answer, err
}
