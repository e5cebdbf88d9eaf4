//go:build !(illumos && amd64)

package kstat

func openLibkstat() (calls, error) { return nil, errNoLibrary }
