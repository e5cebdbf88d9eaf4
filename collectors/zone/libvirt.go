package zone

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/google/uuid"
)

const maxDomain = 4 << 20

// domain is what libvirt keeps of a running virtual machine.
type domain struct {
	Domain struct {
		Number string `xml:"id,attr"`
		Name   string `xml:"name"`
		UUID   string `xml:"uuid"`
	} `xml:"domain"`
}

// domainsOf reads libvirt's status files, usually in /run/libvirt/qemu. There is one for each machine that runs.
func domainsOf(root string) ([]listed, error) {
	files, err := filepath.Glob(filepath.Join(escapeGlob(root), "*.xml"))
	if err != nil {
		return nil, fmt.Errorf("read libvirt's machines: %w", err)
	}
	var all []listed
	for _, file := range files {
		text, err := readFile(file, maxDomain)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the machine has stopped
		}
		var l listed
		if err == nil {
			l, err = parseDomain(text)
		}
		if err != nil {
			return nil, fmt.Errorf("read libvirt's machine %s: %w", file, err)
		}
		all = append(all, l)
	}
	return all, nil
}

func parseDomain(text []byte) (listed, error) {
	var d domain
	if err := xml.Unmarshal(text, &d); err != nil {
		return listed{}, err
	}
	id, err := uuid.Parse(d.Domain.UUID)
	if err != nil {
		return listed{}, fmt.Errorf("its uuid: %w", err)
	}
	if d.Domain.Name == "" {
		return listed{}, errors.New("it has no name")
	}
	return listed{uuid: id, runtime: "libvirt", id: d.Domain.Name, alias: d.Domain.Name, number: d.Domain.Number}, nil
}
