package delivery

import (
	"errors"

	"github.com/google/uuid"
)

// Unreadable is the error of a read of which some hosts could not be read, because what is kept of them is damaged. What was
// read of the others is good.
type Unreadable interface {
	error
	// Of is why the host could not be read, nil for the others.
	Of(host uuid.UUID) error
}

// read is what was read of one host, or why it could not be.
type read[T any] struct {
	is  T
	err error
}

// readsOf gives each host its own part of a read and of its error. The error that is left is of all hosts.
func readsOf[T any](hosts []uuid.UUID, values []T, err error) ([]read[T], error) {
	var some Unreadable
	if err != nil && !errors.As(err, &some) {
		return nil, err
	}
	reads := make([]read[T], len(values))
	for i, v := range values {
		reads[i].is = v
		if some != nil {
			reads[i].err = some.Of(hosts[i])
		}
	}
	return reads, nil
}

// unreadable leaves a host alone of which what is kept is damaged: its agent keeps what it runs, and one that has nothing yet is
// told that we are not ready. The host is looked at again with its next document, and when all are compared.
func (h *Hub) unreadable(s *Subscription, err error) {
	h.failures.Add(1)
	h.log.Error("what is kept of a host cannot be read", "host", s.host, "error", err)
	s.mu.Lock()
	first := s.first
	s.mu.Unlock()
	if first {
		s.finish(ErrNotReady)
	}
}
