package faults

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/tests/load/cloud"
)

// The validator is worth nothing if it finds nothing.
func TestTheValidatorFindsEachViolation(t *testing.T) {
	host := uuid.New()
	v := func(epoch string, generation int64, hash string) assignment.Version {
		return assignment.Version{Epoch: epoch, Generation: generation, Hash: hash}
	}
	at := func(k kind, version assignment.Version, ids ...string) entry {
		return entry{kind: k, host: host, version: version, ids: ids}
	}
	end := standing{host: v("1", 3, "c")}
	quiet := size{keys: 1000, goroutines: 100, descriptors: 100, memory: 32 << 20}
	lawful := []entry{
		{kind: sized, size: quiet},
		{kind: created, id: "x"},
		at(subscribed, assignment.Version{}),
		at(sent, v("1", 1, "a")), at(received, v("1", 1, "a")), at(applied, v("1", 1, "a")), at(acknowledged, v("1", 1, "a")),
		at(sent, v("1", 2, "b"), "x"), at(received, v("1", 2, "b"), "x"), at(applied, v("1", 2, "b"), "x"), at(acknowledged, v("1", 2, "b"), "x"),
		{kind: counted, id: "x", coverage: cloud.Coverage{Expected: 4, Running: 1, Pending: 1, Failed: 1, Offline: 1}},
		at(sent, v("1", 3, "c")), at(received, v("1", 3, "c")), at(applied, v("1", 3, "c")), at(acknowledged, v("1", 3, "c")),
		{kind: deleted, id: "x"}, {kind: gone, id: "x"},
		{kind: sized, size: size{keys: 1040, goroutines: 120, descriptors: 120, memory: 40 << 20}},
	}
	require.Empty(t, violations(lawful, end))
	grown := func(change func(*size)) []entry {
		after := quiet
		change(&after)
		return []entry{{kind: sized, size: after}}
	}
	again := []entry{at(received, v("1", 4, "d")), at(restarted, v("1", 3, "c")), at(received, v("1", 4, "d")), at(applied, v("1", 4, "d"))}
	require.Empty(t, violations(append(lawful[:len(lawful):len(lawful)], again...), end), "a restart forgets what was not applied")

	for name, c := range map[string]struct {
		entries []entry
		rule    string
	}{
		"an agent goes back":              {[]entry{at(applied, v("1", 2, "b"))}, "I2: an agent went back"},
		"an agent goes back in its epoch": {[]entry{at(applied, v("2", 1, "d")), at(applied, v("1", 4, "e"))}, "I2: an agent went back"},
		"an agent is handed the same":     {[]entry{at(received, v("1", 3, "c"))}, "I2: an agent was handed"},
		"an agent forgets in a restart":   {[]entry{at(restarted, v("1", 2, "b"))}, "I2: an agent begins again"},
		"one version, two documents":      {[]entry{at(sent, v("1", 3, "z"))}, "I2: two documents"},
		"answered, and lost":              {[]entry{{kind: created, id: "y"}, {kind: gone, id: "y"}}, "I3: y was answered"},
		"its delete is forgotten":         {[]entry{{kind: counted, id: "x"}}, "I3: x was gone"},
		"deleted, acknowledged, and back": {[]entry{at(applied, v("1", 4, "d"), "x")}, "I6: x runs again"},
		"gone, and still there": {[]entry{{kind: created, id: "y", moves: true}, at(applied, v("1", 4, "d"), "y"),
			{kind: deleted, id: "y"}, {kind: gone, id: "y"}}, "I6: host"},
		"gone, and it comes": {[]entry{{kind: created, id: "y", moves: true}, {kind: deleted, id: "y"}, {kind: gone, id: "y"},
			at(applied, v("1", 4, "d"), "y")}, "I6: y runs after it was gone"},
		"a source is not counted":          {[]entry{{kind: counted, coverage: cloud.Coverage{Expected: 2, Running: 1}}}, "I8"},
		"a source is counted twice":        {[]entry{{kind: counted, coverage: cloud.Coverage{Expected: 1, Running: 1, Pending: 1}}}, "I8"},
		"keys are left behind":             {grown(func(s *size) { s.keys = 1161 }), "I10: keys"},
		"goroutines are left behind":       {grown(func(s *size) { s.goroutines = 141 }), "I10: goroutines"},
		"descriptors are left behind":      {grown(func(s *size) { s.descriptors = 161 }), "I10: descriptors"},
		"memory is left behind":            {grown(func(s *size) { s.memory = 81 << 20 }), "I10: bytes"},
		"the same is sent again and again": {[]entry{at(sent, v("1", 3, "c")), at(sent, v("1", 3, "c"))}, "I9"},
	} {
		found := violations(append(lawful[:len(lawful):len(lawful)], c.entries...), end)
		require.NotEmpty(t, found, name)
		require.Contains(t, found[0], c.rule, name)
	}
}
