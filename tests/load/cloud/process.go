package cloud

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"iapi/tests/load/debugport"
)

// maxKept bounds what is kept of a process's output, in bytes. The newest is kept.
const maxKept = 64 << 10

// Process is a child.
type Process struct {
	Name string

	cmd   *exec.Cmd
	debug string        // the file with its debug port's address; "": it has none
	done  chan struct{} // closed when it has ended and its output is read

	mu   sync.Mutex
	out  []byte
	more chan struct{} // closed at the next output
}

// Start runs a program. It ends with this process at the latest, and should be stopped before.
func Start(name, debugFile, program string, args ...string) (*Process, error) {
	p := &Process{Name: name, cmd: exec.Command(program, args...), debug: debugFile, done: make(chan struct{}), more: make(chan struct{})}
	p.cmd.Env = os.Environ()
	if debugFile != "" {
		_ = os.Remove(debugFile) // of the process before it
		p.cmd.Env = append(p.cmd.Env, debugport.AddressFile+"="+debugFile)
	}
	p.cmd.SysProcAttr = apart()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	err = p.cmd.Start()
	_ = w.Close()
	if err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go p.read(r)
	return p, nil
}

func (p *Process) read(r *os.File) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		p.mu.Lock()
		p.out = append(p.out, line...)
		if over := len(p.out) - maxKept; over > 0 {
			p.out = p.out[over:]
		}
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
		if err != nil {
			break
		}
	}
	_ = r.Close()
	_ = p.cmd.Wait() // how it ended is for Output to say
	close(p.done)
}

// Output is the end of what it has said.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.out)
}

// Expect waits until the output matches, and returns the last group.
func (p *Process) Expect(ctx context.Context, pattern string) (string, error) {
	re := regexp.MustCompile(pattern)
	for {
		p.mu.Lock()
		found, more := re.FindSubmatch(p.out), p.more
		p.mu.Unlock()
		if found != nil {
			return string(found[len(found)-1]), nil
		}
		select {
		case <-more:
		case <-p.done:
			return "", fmt.Errorf("%s has ended; it said:\n%s", p.Name, p.Output())
		case <-ctx.Done():
			return "", fmt.Errorf("%s did not say %q: %w; it said:\n%s", p.Name, pattern, ctx.Err(), p.Output())
		}
	}
}

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ended reports whether it has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Pause stops it as SIGSTOP does, until Resume.
func (p *Process) Pause() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume lets it go on.
func (p *Process) Resume() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

// Kill ends it as a crash would, and waits.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// Stop asks it to end, as an operator would, and waits. One that does not end within the time is killed, which is an error.
func (p *Process) Stop(within time.Duration) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
		return nil
	case <-time.After(within):
		p.Kill()
		return fmt.Errorf("%s did not end within %v of SIGTERM", p.Name, within)
	}
}

// Control returns the address of its debug port as a URL.
func (p *Process) Control(ctx context.Context) (string, error) {
	if p.debug == "" {
		return "", errors.New(p.Name + " has no debug port")
	}
	for {
		address, err := os.ReadFile(p.debug)
		if err == nil {
			return "http://" + string(address), nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("find the debug port of %s: %w", p.Name, ctx.Err())
		case <-p.done:
			return "", fmt.Errorf("%s has ended; it said:\n%s", p.Name, p.Output())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Usage is what it uses. query is of debugport's /usage: "free", "reset", both or "".
func (p *Process) Usage(ctx context.Context, query string) (debugport.Usage, error) {
	base, err := p.Control(ctx)
	if err != nil {
		return debugport.Usage{}, err
	}
	return Usage(ctx, base, query)
}

// Usage is what the process with that debug port uses.
func Usage(ctx context.Context, base, query string) (debugport.Usage, error) {
	var u debugport.Usage
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	body, err := get(ctx, base+"/usage?"+query)
	if err == nil {
		err = json.Unmarshal(body, &u)
	}
	if err != nil {
		return u, fmt.Errorf("ask what a process uses: %w", err)
	}
	return u, nil
}

// Profile writes a profile, for example "profile?seconds=5" or "heap?gc=1", to a file.
func (p *Process) Profile(ctx context.Context, kind, file string) error {
	base, err := p.Control(ctx)
	if err != nil {
		return err
	}
	body, err := get(ctx, base+"/debug/pprof/"+kind)
	if err != nil {
		return fmt.Errorf("profile %s: %w", p.Name, err)
	}
	return os.WriteFile(file, body, 0o600)
}

func get(ctx context.Context, url string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body)))
	}
	return body, err
}

// Build builds the program with a debug port into dir. The file that opens the port exists only for this build.
func Build(ctx context.Context, dir string, race bool) (binary string, err error) {
	root, err := output(ctx, "", "go", "list", "-m", "-f", "{{.Dir}}", "iapi")
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	source := filepath.Join(dir, "debugport.go")
	overlay := filepath.Join(dir, "overlay.json")
	names, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, "cmd/iapi/debugport_load.go"): source}})
	if err != nil {
		return "", fmt.Errorf("build the program: %w", err)
	}
	const program = "package main\n\nimport \"iapi/tests/load/debugport\"\n\nfunc init() { debugport.FromEnv() }\n"
	if err := errors.Join(os.WriteFile(source, []byte(program), 0o600), os.WriteFile(overlay, names, 0o600)); err != nil {
		return "", fmt.Errorf("build the program: %w", err)
	}
	binary = filepath.Join(dir, "iapi")
	args := []string{"build", "-overlay", overlay, "-o", binary}
	if race {
		args = append(args, "-race")
	}
	if _, err := output(ctx, root, "go", append(args, "./cmd/iapi")...); err != nil {
		return "", fmt.Errorf("build the program: %w", err)
	}
	return binary, nil
}

func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, args[0], err, errs.String())
	}
	return strings.TrimSpace(string(out)), nil
}
