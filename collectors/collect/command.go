package collect

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// commandDirs is where systems keep the programs that collectors run, whatever the environment's PATH is.
var commandDirs = []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"}

// Command finds a program of the system by its name; "" if it is not installed.
func Command(name string) string {
	if name == "" || name != filepath.Base(name) {
		return ""
	}
	for _, dir := range commandDirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// Output runs a program without any of this process's environment and gives what it prints. The program is killed when
// ctx ends, after the timeout, or when it prints more than the limit in bytes.
func Output(ctx context.Context, timeout time.Duration, limit int, path string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second
	cmd.Env = []string{"PATH=" + strings.Join(commandDirs, ":"), "LC_ALL=C"}
	out, problems := bounded{left: limit}, bounded{left: 64 << 10}
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		text := strings.TrimSpace(problems.String())
		return nil, fmt.Errorf("run %s %s: %w: %s", filepath.Base(path), strings.Join(args, " "), err, text[:min(len(text), 500)])
	}
	return out.Bytes(), nil
}

// bounded refuses more output than it has room for, which ends the program that writes it.
type bounded struct {
	bytes.Buffer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, fmt.Errorf("it printed too much")
	}
	return b.Buffer.Write(p)
}
