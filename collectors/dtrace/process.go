package dtrace

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a tracer that runs.
type process struct {
	pid  int
	cmd  *exec.Cmd
	done chan struct{} // closed when it is gone and its output is read
	err  error         // how it ended; to be read after done
	says *tail
}

// launchProcess starts a program, with nothing of this process's environment, whose output goes to read as far as it is not
// too much. The tracer is killed when this process dies, by any signal: the kernel does it when the thread ends that has started it, so that
// thread does nothing else until the tracer is gone.
func launchProcess(path string, args, env []string, limit *flow, read func(io.Reader) error) (*process, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start the tracer: %w", err)
	}
	p := &process{cmd: exec.Command(path, args...), done: make(chan struct{}), says: &tail{flow: limit}}
	p.cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}, env...)
	p.cmd.Dir = "/"
	p.cmd.Stdout, p.cmd.Stderr = in, p.says
	p.cmd.WaitDelay = time.Second
	p.cmd.SysProcAttr = diesWithParent()
	started := make(chan error)
	heard := make(chan struct{}) // closed when its output has ended
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		in.Close()
		started <- err
		if err != nil {
			return
		}
		err = p.cmd.Wait()
		<-heard
		p.err = err
		close(p.done)
	}()
	if err := <-started; err != nil {
		out.Close()
		return nil, fmt.Errorf("start the tracer: %w", err)
	}
	p.pid = p.cmd.Process.Pid
	limitProcess(p.pid)
	go func() {
		defer close(heard)
		defer out.Close()
		// What it prints after an error of reading is not read: it dies of its next line.
		if err := read(limit.of(out)); err != nil {
			p.says.note("its output could not be read: " + err.Error() + "\n")
		}
	}()
	return p, nil
}

// end interrupts the tracer, kills it when it has not ended after the timeout, and waits until it is gone.
func (p *process) end(timeout time.Duration) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the tracer: %w", err)
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the tracer: %w", err)
	}
	<-p.done
	return nil
}

// tail keeps the end of what a tracer says about itself.
type tail struct {
	flow *flow
	mu   sync.Mutex
	text []byte
}

const maxTail = 4 << 10

// Write implements io.Writer. It fails when that is too much; then nothing more is read.
func (t *tail) Write(p []byte) (int, error) {
	if err := t.flow.take(len(p)); err != nil {
		return 0, err
	}
	t.note(string(p))
	return len(p), nil
}

func (t *tail) note(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, text...)
	if n := len(t.text); n > 2*maxTail {
		t.text = append(t.text[:0], t.text[n-maxTail:]...)
	}
}

// harmless is said by every bpftrace on a kernel that accounts memory by cgroup.
const harmless = "couldn't set RLIMIT_MEMLOCK"

// String gives what was said in lines of text, without what is of no concern.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for line := range strings.Lines(string(t.text[max(0, len(t.text)-maxTail):])) {
		line = strings.TrimSpace(strings.ToValidUTF8(line, "�"))
		if line != "" && !strings.Contains(line, harmless) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}
