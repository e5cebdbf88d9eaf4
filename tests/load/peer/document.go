package peer

import (
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"

	"iapi/assignment"
)

// perHost is how many instrumentations a document has, some 1.8 KB in all.
const perHost = 5

// firstEpoch is the only epoch here.
const firstEpoch = "0000000000000001"

// Hosts are the hosts that both kinds of servers know, by their number.
func Hosts(count int) []uuid.UUID {
	hosts := make([]uuid.UUID, count)
	for i := range hosts {
		hosts[i] = id('h', i)
	}
	return hosts
}

// id is a uuid of version 4 in form.
func id(kind byte, n int) (u uuid.UUID) {
	u[0], u[6], u[8] = kind, 0x40, 0x80
	binary.BigEndian.PutUint32(u[12:], uint32(n))
	return u
}

// document is what a host must run in a generation. The first instrumentation is the one that changes; the others stay.
func document(host uuid.UUID, generation int) assignment.Document {
	n := int(binary.BigEndian.Uint32(host[12:]))
	owner := id('o', n%100)
	d := assignment.Document{Host: host, Instrumentations: make([]assignment.Item, perHost)}
	for i := range d.Instrumentations {
		revision := 1
		if i == 0 {
			revision = generation
		}
		transport := "HTTP"
		d.Instrumentations[i] = assignment.Item{
			ID: fmt.Sprintf("i-%020d", n*perHost+i), Revision: revision, Owner: &owner, Metric: "disk.physio_ops",
			DefinitionDigest: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
			Decompositions:   []string{"optype"}, VMs: []assignment.VM{{UUID: id('v', n), Owner: &owner}},
			Targets:     []assignment.Target{{Kind: "dataapi", Address: "http://127.0.0.1:1/data-api", Transport: &transport}},
			Granularity: 1,
		}
	}
	return d
}
