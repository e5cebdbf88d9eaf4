package targets

import (
	"errors"
	"slices"

	"github.com/google/uuid"

	"iapi/measure"
)

// origin is what a rendering may say about where a point comes from.
type origin struct {
	vm     string // "": a whole host
	host   string // operators' points only
	hostID string // operators' points only
}

var errNoZone = errors.New("a tenant's point has no zone")

// originOf decides what a point's reader may see. It is the only place that knows host names.
func (o Options) originOf(p measure.Point) (origin, error) {
	var from origin
	if p.VM != uuid.Nil {
		from.vm = p.VM.String()
	}
	if p.Owner != uuid.Nil {
		if p.VM == uuid.Nil {
			return origin{}, errNoZone
		}
		return from, nil
	}
	from.host = o.Hostname
	id := o.HostID
	if id == uuid.Nil {
		id = p.Host
	}
	if id != uuid.Nil {
		from.hostID = id.String()
	}
	if from.host == "" {
		from.host = from.hostID
	}
	return from, nil
}

// fieldsOf are the fields that a point's reader may see: a tenant's never tell the host.
func (o Options) fieldsOf(p measure.Point) []measure.Field {
	if p.Owner == uuid.Nil {
		return p.Fields
	}
	hidden := func(f measure.Field) bool {
		return f.Name == "hostname" || f.Name == "host" || f.Value != "" && (f.Value == o.HostID.String() || f.Value == p.Host.String())
	}
	if !slices.ContainsFunc(p.Fields, hidden) {
		return p.Fields
	}
	return slices.DeleteFunc(slices.Clone(p.Fields), hidden)
}

// quantile names a percentile of a distribution.
type quantile struct {
	name  string
	value int64
}

// quantiles are the upper ends of the buckets in which the 50th, 95th and 99th percentile (by nearest rank) and the
// greatest value lie; none for an empty distribution. Values of log-linear buckets are at most a tenth too high.
func quantiles(d *measure.Distribution) []quantile {
	var total int64
	for _, b := range d.Buckets {
		total += b.Count
	}
	if total <= 0 {
		return nil
	}
	at := func(percent int64) int64 {
		rank := total/100*percent + (total%100*percent+99)/100
		var seen int64
		for _, b := range d.Buckets {
			if seen += b.Count; seen >= rank {
				return b.High
			}
		}
		return d.Buckets[len(d.Buckets)-1].High
	}
	return []quantile{{"p50", at(50)}, {"p95", at(95)}, {"p99", at(99)}, {"max", at(100)}}
}
