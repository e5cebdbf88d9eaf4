//go:build !linux && !illumos

package targets

import (
	"errors"
	"os"
)

// Agents run on SmartOS and Linux; elsewhere, as on a developer's laptop, nothing is spooled.
func lockDir(string) (*os.File, error) { return nil, errors.New("spools need Linux or illumos") }

func freeFraction(string) (float64, error) { return 1, nil }
