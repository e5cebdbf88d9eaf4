//go:build race

package faults

// raced: the program is built as the tests are.
const raced = true
