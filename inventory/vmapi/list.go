package vmapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"iapi/inventory"
)

// Each gives every VM of a query to fn, in pages of up to 1001, in descending order of uuid. A page is fn's until it
// returns; what it holds may be kept. A VM that stands during
// the whole walk is in it exactly once; one that comes, goes or begins to match meanwhile may be missed. An error of fn
// ends the walk and is returned as it is. Any other means that the walk is incomplete: inventory.ErrUnavailable, the
// context's, or a permanent one.
func (c *Client) Each(ctx context.Context, q Query, fn func(page []inventory.VM) error) error {
	return c.EachFrom(ctx, q, uuid.Nil, func(page []inventory.VM, _ uuid.UUID) error { return fn(page) })
}

// EachFrom is Each for the VMs below a marker; uuid.Nil begins at the top. fn gets with each page the marker from which
// a later walk goes on behind it. A page may be empty when nothing on it was usable.
func (c *Client) EachFrom(ctx context.Context, q Query, marker uuid.UUID, fn func(page []inventory.VM, marker uuid.UUID) error) error {
	for _, p := range q.parts(marker) {
		var err error
		if marker, err = c.walk(ctx, p, marker, fn); err != nil {
			return err
		}
	}
	return nil
}

// ChangedSince gives every VM whose record VMAPI has written at or after t, by VMAPI's clock, to fn: a cheap way to see
// what a silent changefeed has missed. Allow for the difference of the clocks.
func (c *Client) ChangedSince(ctx context.Context, t time.Time, fn func(page []inventory.VM) error) error {
	if t.IsZero() {
		return errors.New("listing changed VMs: no time given")
	}
	_, err := c.walk(ctx, part{changedSince: t}, uuid.Nil, func(page []inventory.VM, _ uuid.UUID) error { return fn(page) })
	return err
}

// walk goes down the pages of one part until one is empty: a short page may have more behind it.
func (c *Client) walk(ctx context.Context, p part, marker uuid.UUID, fn func([]inventory.VM, uuid.UUID) error) (uuid.UUID, error) {
	var room []inventory.VM // all pages are made in it
	for {
		page, last, err := c.page(ctx, p, marker, room)
		if err != nil {
			if errors.Is(err, inventory.ErrNotFound) { // the route, not a VM
				return marker, fmt.Errorf("listing VMs: %v", err)
			}
			return marker, fmt.Errorf("listing VMs: %w", err)
		}
		if last == uuid.Nil {
			return marker, nil
		}
		marker, room = last, page[:0]
		if err := fn(page, marker); err != nil {
			return marker, err
		}
		if n := len(p.UUIDs); n > 0 && marker == p.UUIDs[n-1] {
			return marker, nil
		}
	}
}

// page reads the page below the marker, into the room if there is enough. Its last uuid is Nil when the page is empty.
func (c *Client) page(ctx context.Context, p part, marker uuid.UUID, room []inventory.VM) (page []inventory.VM, last uuid.UUID, err error) {
	err = c.rest.Get(ctx, "/vms", p.values(marker), func(body []byte) error {
		return c.decode(func(d *decoder) error {
			rows, err := d.page(body, room)
			if err != nil {
				return err
			}
			if last, err = p.check(rows, d.rows, marker); err != nil {
				return err
			}
			page = slices.DeleteFunc(rows, func(vm inventory.VM) bool { return !p.asked(&vm) })
			d.skippedVMs += int64(len(rows) - len(page))
			return nil
		})
	})
	return page, last, err
}

// check refuses a page from which a walk could go round in circles or lose VMs, and returns its last uuid.
func (p part) check(rows []inventory.VM, total int, marker uuid.UUID) (uuid.UUID, error) {
	if total > pageLimit+1 { // one more comes when the marker's own row has vanished
		return uuid.Nil, fmt.Errorf("the page has %d rows", total)
	}
	if total > 0 && len(rows) == 0 {
		return uuid.Nil, fmt.Errorf("none of the %d rows of the page has a usable uuid", total)
	}
	last := marker
	for i := range rows {
		id := rows[i].UUID
		if last != uuid.Nil && !less(id, last) {
			return uuid.Nil, fmt.Errorf("the page is out of order: VM %s after %s", id, last)
		}
		last = id
	}
	if total == 0 {
		return uuid.Nil, nil
	}
	return last, nil
}
