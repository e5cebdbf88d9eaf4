package main

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"iapi/catalog"
)

type metricsBundleCmd struct {
	Bundle  string   `arg:"" type:"path" help:"The bundle to write."`
	Files   []string `arg:"" name:"definition" help:"Definitions, YAML."`
	Key     string   `required:"" type:"existingfile" help:"Sign it with this private key (Ed25519, PEM)." placeholder:"FILE"`
	Expires seconds  `default:"2160h" help:"Nobody takes it up when it is older. Who has taken it keeps it."`
	Number  int64    `help:"The bundle's number, greater than that of the one before. Without: one more than that of the file that is there, else 1." placeholder:"N"`
}

// Help is what "iapi metrics bundle --help" adds.
func (metricsBundleCmd) Help() string {
	return `API, worker and agent take it by --bundle and --trusted-key when they start. A bundle replaces the one before as a whole, and
neither its number nor the version of any of its definitions may go back. Give it to APIs and workers, which offer what is
in it, and to those agents that trust only some keys.

  openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout -out trusted.pem
  iapi metrics bundle site.json my/*.yaml --key key.pem`
}

func (c metricsBundleCmd) Run(s streams) error {
	if c.Number < 0 {
		return usageError("--number %d: at least 1", c.Number)
	}
	key, err := privateKey(c.Key)
	if err != nil {
		return err
	}
	if err := (metricsLintCmd{Files: c.Files}).Run(s); err != nil {
		return err
	}
	documents := make([][]byte, len(c.Files))
	for i, path := range c.Files {
		if documents[i], err = os.ReadFile(path); err != nil {
			return usageError("read the definition: %w", err)
		}
	}
	all, err := catalog.New(documents...)
	if err != nil {
		return &exitError{code: exitFailed, err: fmt.Errorf("make the bundle: %w", err)}
	}
	before, err := c.before()
	if err != nil {
		return err
	}
	number := c.Number
	if number == 0 {
		number = before.Version + 1
	}
	public := key.Public().(ed25519.PublicKey) //nolint:errcheck // it always is one
	now := time.Now()
	made, err := catalog.SignBundle(all, number, now.Add(time.Duration(c.Expires)).Truncate(time.Second), catalog.KeyID(public), key)
	if err != nil {
		return err
	}
	// Whoever has the one before must be able to take this one.
	_, m, _, err := catalog.VerifyBundle(made, catalog.Keys{catalog.KeyID(public): public}, now, before)
	if err != nil {
		return &exitError{code: exitFailed, err: fmt.Errorf("make the bundle: %w", err)}
	}
	if err := catalog.WriteBundle(c.Bundle, made); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%s: bundle %d of %d definition(s), to be taken until %s\n", c.Bundle, m.Version, len(m.Documents), m.Expires.Format(time.RFC3339))
	return nil
}

// before is the manifest of the bundle that the new one replaces, zero for none.
func (c metricsBundleCmd) before() (catalog.Manifest, error) {
	m, err := catalog.ReadManifest(c.Bundle)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return catalog.Manifest{}, nil
	case err != nil:
		return m, &exitError{code: exitFailed, err: fmt.Errorf("replace the bundle that is there: %w", err)}
	}
	return m, nil
}

// privateKey reads the file of --key.
func privateKey(path string) (ed25519.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, usageError("--key: %w", err)
	}
	key, err := catalog.ParsePrivateKey(text)
	if err != nil {
		return nil, usageError("--key: %w", err)
	}
	return key, nil
}
