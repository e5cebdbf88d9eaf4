package model

import "sync"

// List is what was read together. Whatever a field of one item needs is read for all of them at once, when the first is
// asked for it, wherever in the answer the items are. It may be used by several goroutines.
type List[T any] struct {
	Items []T

	mu    sync.Mutex
	asked map[any]*asked
}

type asked struct {
	once    sync.Once
	answers any
	err     error
}

// Ask returns the answer for the item at a place. key says what is asked, and must be comparable; read answers it for all
// items and is called once.
func Ask[T, R any](l *List[T], at int, key any, read func(items []T) ([]R, error)) (R, error) {
	l.mu.Lock()
	if l.asked == nil {
		l.asked = make(map[any]*asked)
	}
	a := l.asked[key]
	if a == nil {
		a = &asked{}
		l.asked[key] = a
	}
	l.mu.Unlock()
	a.once.Do(func() { a.answers, a.err = read(l.Items) })
	answers, _ := a.answers.([]R)
	if a.err != nil || at >= len(answers) {
		var none R
		return none, a.err
	}
	return answers[at], nil
}
