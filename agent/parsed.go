package agent

import (
	"sync"
	"weak"

	"iapi/catalog"
)

// parsed keeps definitions once for all that measure by them, for as long as anything does. The zero parsed is ready for use.
type parsed struct {
	mu  sync.Mutex
	all map[string]weak.Pointer[catalog.Definition] // by digest
}

// parse gives the definition that a document, whose digest has been verified, holds. It must not be changed.
func (p *parsed) parse(digest string, document []byte) (*catalog.Definition, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.all[digest].Value(); d != nil {
		return d, nil
	}
	d, err := catalog.Parse(document)
	if err != nil {
		return nil, err
	}
	for old, pointer := range p.all {
		if pointer.Value() == nil {
			delete(p.all, old)
		}
	}
	if p.all == nil {
		p.all = make(map[string]weak.Pointer[catalog.Definition])
	}
	p.all[digest] = weak.Make(d)
	return d, nil
}
