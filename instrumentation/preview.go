package instrumentation

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"iapi/identity"
	"iapi/inventory"
)

// previewValid is how long a preview binds.
const previewValid = 10 * time.Minute

// PreviewInput is what to preview.
type PreviewInput struct {
	Scope    Scope
	Metric   string     // "": whatever is measured; the token then binds no create
	Owner    *uuid.UUID // nil: a tenant's own, else the operators' own
	Mistakes UserErrors // as in CreateInput
}

// Previewed is what a scope comes to now, as the caller may see it.
type Previewed struct {
	Preview
	Zones bool   // the places are zones; else whole hosts
	Token string // binds a create of the metric to what was shown
}

// Preview evaluates a scope now, by the same code as a create. Tenants get no hosts.
func (s *Service) Preview(ctx context.Context, c identity.Caller, in PreviewInput) (*Previewed, error) {
	owner, err := actsFor(c, in.Owner)
	if err != nil {
		return nil, err
	}
	r := s.rules(c, owner, in.Mistakes)
	if in.Metric != "" {
		r.metric(s.catalog, in.Metric)
	}
	r.scope(in.Scope)
	if err := r.found.orNil(); err != nil {
		return nil, err
	}
	p, err := s.preview(ctx, owner, in.Scope, in.Metric)
	if err != nil {
		return nil, err
	}
	zones := in.Scope.Zones(owner)
	out := &Previewed{Preview: p, Zones: zones, Token: s.previewToken(c, owner, in.Scope, in.Metric, places(zones, p))}
	problems, err := s.showProblems(ctx, c, []uuid.UUID{owner}, [][]Problem{p.Problems})
	if err != nil {
		return nil, err
	}
	out.Problems = problems[0]
	if !isOperator(c) {
		out.Hosts = nil
		out.VMs = make([]inventory.VM, len(p.VMs))
		for i, vm := range p.VMs {
			out.VMs[i] = showVM(c, vm)
		}
	}
	return out, nil
}

// preview evaluates a scope. What is not the owner's is not shown even if the evaluation were wrong.
func (s *Service) preview(ctx context.Context, owner uuid.UUID, scope Scope, metric string) (Preview, error) {
	p, err := s.previewer.Preview(ctx, owner, scope, metric)
	if err != nil {
		return p, fmt.Errorf("preview a scope: %w", err)
	}
	if owner != uuid.Nil {
		p.VMs = slices.DeleteFunc(slices.Clone(p.VMs), func(vm inventory.VM) bool { return vm.Owner != owner })
	}
	return p, nil
}

// places returns what would be measured.
func places(zones bool, p Preview) []uuid.UUID {
	var out []uuid.UUID
	if zones {
		for _, vm := range p.VMs {
			out = append(out, vm.UUID)
		}
	} else {
		for _, h := range p.Hosts {
			out = append(out, h.UUID)
		}
	}
	return out
}

// A preview token is base64url of: version, time, a digest of what was asked and by whom, the kind of list, the list,
// and an HMAC over all of that. The list has a short keyed hash of each place, sorted, so that a place that was not
// shown is found and one that has gone is not missed; the chance that a new place is taken for one that was shown is
// below 10⁻¹¹. For more places than maxShown it is one hash of all, and any difference makes the token stale.
const (
	tokenVersion = 1
	tokenHead    = 1 + 8 + sha256.Size + 1
	placeHash    = 6
	maxShown     = 2048

	listEach = 0
	listSum  = 1
)

func (s *Service) previewToken(c identity.Caller, owner uuid.UUID, scope Scope, metric string, shown []uuid.UUID) string {
	b := make([]byte, 0, tokenHead+min(len(shown), maxShown)*placeHash+2*sha256.Size)
	b = append(b, tokenVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(s.now().UnixMilli()))
	b = append(b, s.asked(c, owner, scope, metric)...)
	if len(shown) > maxShown {
		b = append(append(b, listSum), s.sum(shown)...)
	} else {
		b = append(b, listEach)
		hashes := make([][]byte, len(shown))
		for i, id := range shown {
			hashes[i] = s.placeHash(id)
		}
		slices.SortFunc(hashes, slices.Compare)
		b = append(b, slices.Concat(hashes...)...)
	}
	return base64.RawURLEncoding.EncodeToString(append(b, s.mac("token", b)...))
}

// asked is a digest of what a preview was asked for, and by whom.
func (s *Service) asked(c identity.Caller, owner uuid.UUID, scope Scope, metric string) []byte {
	return s.mac("asked", []byte(digest([]string{c.ID, owner.String(), metric, scope.Canonical().json()})))
}

func (s *Service) placeHash(id uuid.UUID) []byte { return s.mac("place", id[:])[:placeHash] }

func (s *Service) sum(ids []uuid.UUID) []byte {
	ids = canonicalUUIDs(ids)
	all := make([]byte, 0, 16*len(ids))
	for _, id := range ids {
		all = append(all, id[:]...)
	}
	return s.mac("places", all)
}

// mac signs for one purpose, so that what is signed for one never passes for another.
func (s *Service) mac(purpose string, data []byte) []byte {
	h := hmac.New(sha256.New, s.secret)
	h.Write([]byte(purpose))
	h.Write([]byte{0})
	h.Write(data)
	return h.Sum(nil)
}

// checkPreview refuses a record that would measure a place that the preview did not show.
func (s *Service) checkPreview(ctx context.Context, c identity.Caller, rec Instrumentation, token string) error {
	stale := func(format string, args ...any) error {
		return mistake(CodePreviewStale, "previewToken", format, args...)
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) < tokenHead+sha256.Size || b[0] != tokenVersion {
		return stale("it is not the token of a preview")
	}
	b, mac := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if !hmac.Equal(mac, s.mac("token", b)) {
		return stale("it is not the token of a preview")
	}
	at := time.UnixMilli(int64(binary.BigEndian.Uint64(b[1:9])))
	if age := s.now().Sub(at); age > previewValid || age < -previewValid {
		return stale("it is older than %v", previewValid)
	}
	asked := b[9 : 9+sha256.Size]
	if !hmac.Equal(asked, s.asked(c, rec.Owner, rec.Scope, rec.Metric)) {
		if hmac.Equal(asked, s.asked(c, rec.Owner, rec.Scope, "")) {
			return stale("the preview was of no metric; preview the scope with %s", rec.Metric)
		}
		return stale("the preview was of something else")
	}
	p, err := s.preview(ctx, rec.Owner, rec.Scope, rec.Metric)
	if err != nil {
		return err
	}
	now := places(rec.Scope.Zones(rec.Owner), p)
	list := b[tokenHead:]
	if b[tokenHead-1] == listSum {
		if !hmac.Equal(list, s.sum(now)) {
			return stale("the places have changed since the preview")
		}
		return nil
	}
	shown := make(map[[placeHash]byte]bool, len(list)/placeHash)
	for h := range slices.Chunk(list, placeHash) {
		shown[[placeHash]byte(h)] = true
	}
	added := 0
	for _, id := range now {
		if !shown[[placeHash]byte(s.placeHash(id))] {
			added++
		}
	}
	if added > 0 {
		return stale("%d places would be measured that the preview did not show", added)
	}
	return nil
}
