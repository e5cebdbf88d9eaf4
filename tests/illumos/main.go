// Command illumos checks a program that was built for illumos without cgo: that the loader will find libkstat for it, and
// in libkstat the functions that package kstat calls.
package main

import (
	"debug/elf"
	"fmt"
	"os"
	"slices"
)

const library = "libkstat.so.1"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: illumos PROGRAM")
		os.Exit(2)
	}
	if err := check(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("open the program: %w", err)
	}
	defer f.Close()
	needed, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("read what the program needs: %w", err)
	}
	if !slices.Contains(needed, library) {
		return fmt.Errorf("the program needs %v, and not %s", needed, library)
	}
	imported, err := f.ImportedSymbols()
	if err != nil {
		return fmt.Errorf("read what the program imports: %w", err)
	}
	for _, name := range []string{"kstat_open", "kstat_close", "kstat_chain_update", "kstat_read"} {
		if !slices.ContainsFunc(imported, func(s elf.ImportedSymbol) bool { return s.Name == name }) {
			return fmt.Errorf("the program does not import %s", name)
		}
	}
	return nil
}
