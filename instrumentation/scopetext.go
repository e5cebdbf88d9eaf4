package instrumentation

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// maxListed bounds how much of a list Text shows.
const maxListed = 8

// Text shows the scope to people: vm tag role in (db, web) and not vm alias "x".
func (s Scope) Text() string {
	switch {
	case s.All:
		return "every zone"
	case s.EveryHost:
		return "every host"
	case s.VMs != nil:
		return "vm " + uuidsText(s.VMs)
	case s.VMAlias != "":
		return "vm alias " + strconv.Quote(s.VMAlias)
	case s.VMTag != nil:
		return "vm " + s.VMTag.text()
	case s.Hosts != nil && len(s.Hosts) == 0:
		return "hosts chosen by the operators"
	case s.Hosts != nil:
		return "host " + uuidsText(s.Hosts)
	case s.HostTag != nil:
		return "host " + s.HostTag.text()
	case s.And != nil:
		return joinTerms(s.And, " and ")
	case s.Or != nil:
		return joinTerms(s.Or, " or ")
	case s.Not != nil:
		return "not " + s.Not.atom()
	}
	return "nothing"
}

func joinTerms(terms []Scope, by string) string {
	if len(terms) == 1 {
		return terms[0].Text()
	}
	texts := make([]string, len(terms))
	for i, t := range terms {
		texts[i] = t.atom()
	}
	return strings.Join(texts, by)
}

// atom is the text of a term among others. Lists of terms always get parentheses: few readers know by heart what binds
// tighter.
func (s Scope) atom() string {
	if len(s.And) > 1 || len(s.Or) > 1 {
		return "(" + s.Text() + ")"
	}
	for _, single := range [][]Scope{s.And, s.Or} {
		if len(single) == 1 {
			return single[0].atom()
		}
	}
	return s.Text()
}

func (t TagMatch) text() string {
	text := "tag " + word(t.Key)
	if t.In == nil {
		return text
	}
	values := make([]string, len(t.In))
	for i, v := range t.In {
		values[i] = word(v)
	}
	return text + " in " + listText(values)
}

func uuidsText(ids []uuid.UUID) string {
	if len(ids) == 1 {
		return ids[0].String()
	}
	texts := make([]string, min(len(ids), maxListed+1))
	for i := range texts {
		texts[i] = ids[i].String()
	}
	return "in " + listOf(texts, len(ids))
}

func listText(texts []string) string { return listOf(texts, len(texts)) }

// listOf shows the first of n texts.
func listOf(texts []string, n int) string {
	if n > maxListed {
		texts = append(texts[:maxListed:maxListed], fmt.Sprintf("… %d more", n-maxListed))
	}
	return "(" + strings.Join(texts, ", ") + ")"
}

// word quotes what could be mistaken for something else.
func word(s string) string {
	plain := s != ""
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_.:/@+-", r) {
			plain = false
		}
	}
	switch s {
	case "and", "or", "not", "in":
		plain = false
	}
	if plain {
		return s
	}
	return strconv.Quote(s)
}
