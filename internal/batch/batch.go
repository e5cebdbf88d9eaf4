// Package batch makes one call out of many that are made at the same time. Nobody waits for company: a call goes out at once
// while few are under way, and what is asked in the meantime leaves together with the next one.
package batch

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Batcher asks many questions by one call.
type Batcher[Q, A any] struct {
	call    func(context.Context, []Q) ([]A, error)
	size    int
	flights int
	timeout time.Duration

	mu      sync.Mutex
	waiting []request[Q, A]
	flying  int
}

type request[Q, A any] struct {
	ctx      context.Context // of who asks
	question Q
	answer   chan answer[A] // capacity 1
}

type answer[A any] struct {
	value A
	err   error
}

// New makes a Batcher. A call has at most size questions, and timeout to answer them with one answer for each, in their
// order. At most flights calls are under way; with one, questions are asked in the order in which they came.
func New[Q, A any](size, flights int, timeout time.Duration, call func(context.Context, []Q) ([]A, error)) *Batcher[Q, A] {
	return &Batcher[Q, A]{call: call, size: size, flights: flights, timeout: timeout}
}

// Do asks one question. When ctx ends before its call has begun, it is not asked; the call itself does not end with ctx, for
// others share it. An error of the call is that of every question in it.
func (b *Batcher[Q, A]) Do(ctx context.Context, question Q) (A, error) {
	r := request[Q, A]{ctx: ctx, question: question, answer: make(chan answer[A], 1)}
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
func (b *Batcher[Q, A]) fly(ctx context.Context) {
	for {
		b.mu.Lock()
		batch := b.next()
		if len(batch) == 0 {
			b.waiting = nil
			b.flying--
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		b.one(ctx, batch)
	}
}

// next takes the questions of one call. The mutex is held.
func (b *Batcher[Q, A]) next() []request[Q, A] {
	var batch []request[Q, A]
	for len(b.waiting) > 0 && len(batch) < b.size {
		if r := b.waiting[0]; r.ctx.Err() == nil { // or else nobody waits for the answer
			batch = append(batch, r)
		}
		b.waiting = b.waiting[1:]
	}
	return batch
}

func (b *Batcher[Q, A]) one(ctx context.Context, batch []request[Q, A]) {
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
