package delivery

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// batcher makes one call out of many that are made at the same time. A call goes out at once while fewer than flights are
// under way; what is asked in the meantime leaves together with the next one. So nothing waits longer than for one call.
type batcher[Q, A any] struct {
	call    func(context.Context, []Q) ([]A, error)
	size    int
	flights int
	timeout time.Duration

	mu      sync.Mutex
	waiting []request[Q, A]
	flying  int
}

type request[Q, A any] struct {
	question Q
	answer   chan answer[A] // capacity 1
}

type answer[A any] struct {
	value A
	err   error
}

func newBatcher[Q, A any](size, flights int, timeout time.Duration, call func(context.Context, []Q) ([]A, error)) *batcher[Q, A] {
	return &batcher[Q, A]{call: call, size: size, flights: flights, timeout: timeout}
}

// do asks one question. The call that carries it does not end with ctx, for others share it.
func (b *batcher[Q, A]) do(ctx context.Context, question Q) (A, error) {
	r := request[Q, A]{question: question, answer: make(chan answer[A], 1)}
	b.mu.Lock()
	b.waiting = append(b.waiting, r)
	lead := b.flying < b.flights
	if lead {
		b.flying++
	}
	b.mu.Unlock()
	if lead {
		go b.fly(context.WithoutCancel(ctx))
	}
	select {
	case a := <-r.answer:
		return a.value, a.err
	case <-ctx.Done():
		var none A
		return none, ctx.Err()
	}
}

// fly makes calls until nobody waits. Each call has a deadline, so it always ends.
func (b *batcher[Q, A]) fly(ctx context.Context) {
	for {
		b.mu.Lock()
		n := min(len(b.waiting), b.size)
		if n == 0 {
			b.flying--
			b.mu.Unlock()
			return
		}
		batch := b.waiting[:n:n]
		b.waiting = b.waiting[n:]
		b.mu.Unlock()
		b.one(ctx, batch)
	}
}

func (b *batcher[Q, A]) one(ctx context.Context, batch []request[Q, A]) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	questions := make([]Q, len(batch))
	for i, r := range batch {
		questions[i] = r.question
	}
	answers, err := b.call(ctx, questions)
	if err == nil && len(answers) != len(batch) {
		err = fmt.Errorf("%d answers to %d questions", len(answers), len(batch))
	}
	for i, r := range batch {
		if err != nil {
			r.answer <- answer[A]{err: err}
			continue
		}
		r.answer <- answer[A]{value: answers[i]}
	}
}
