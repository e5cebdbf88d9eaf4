package vmapitest

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFleetErrorsNameTheEntryAndTheField(t *testing.T) {
	host := `{"uuid":"00000001-bbbb-4000-8000-000000000000","hostname":"cn1"}`
	vm := `{"uuid":"00000001-0000-4000-8000-000000000000"`
	for text, want := range map[string]string{
		`{`:                            "fleet: ",
		`{"hosts":[]} x`:               "text after",
		`{"bogus":[]}`:                 `unknown field "bogus"`,
		`{"hosts":[{"hostname":"x"}]}`: "hosts[0]: uuid: missing",
		`{"hosts":[{"uuid":"00000001-bbbb-4000-8000-000000000000"}]}`:                "hosts[0]: hostname: missing",
		`{"hosts":[` + host + `,` + host + `]}`:                                      "hosts[1]: uuid: 00000001-bbbb-4000-8000-000000000000 is also that of hosts[0]",
		`{"hosts":[{"colour":1}]}`:                                                   "hosts[0]: colour: unknown key",
		`{"vms":[{"uuid":"nope"}]}`:                                                  `vms[0]: uuid: "nope" is not a uuid`,
		`{"vms":[` + vm + `},` + vm + `}]}`:                                          "vms[1]: uuid: 00000001-0000-4000-8000-000000000000 is also that of vms[0]",
		`{"vms":[` + vm + `,"server_uuid":"00000009-bbbb-4000-8000-000000000000"}]}`: "vms[0]: server_uuid: the fleet has no host",
		`{"vms":[` + vm + `,"state":"asleep"}]}`:                                     `vms[0]: state: "asleep" is none of`,
		`{"vms":[` + vm + `,"tags":{"a":null}}]}`:                                    `vms[0]: tags: "a" must be`,
		`{"vms":[` + vm + `,"alias":5}]}`:                                            "vms[0]: alias: 5 is not of the right type",
		`{"vms":[` + vm + `,"ram":-5}]}`:                                             "vms[0]: ram: -5 is negative",
		`{"vms":[5]}`:                                                                "vms[0]: not a JSON object",
	} {
		_, err := ParseFleet([]byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

func TestGeneratedFleetsAreRepeatableAndSurviveTheFile(t *testing.T) {
	o := GenerateOptions{Seed: 3, Hosts: 12, VMs: 500, Owners: 8}
	f, err := Generate(o)
	require.NoError(t, err)
	again, err := Generate(o)
	require.NoError(t, err)
	require.Equal(t, f, again)
	text, err := json.Marshal(f)
	require.NoError(t, err)
	parsed, err := ParseFleet(text)
	require.NoError(t, err)
	a, b := New(Options{}), New(Options{})
	defer a.Close()
	defer b.Close()
	require.NoError(t, a.Load(parsed))
	require.NoError(t, b.Fill(o))
	require.Equal(t, a.VMs(), b.VMs())
	require.Len(t, a.VMs(), 500)
	perOwner := make(map[string]int)
	for _, v := range f.VMs {
		perOwner[v.Owner.String()]++
	}
	require.Greater(t, perOwner[o.Owner(0).String()], 2*perOwner[o.Owner(7).String()], "owners follow Zipf's law")
}

func TestSampleFleet(t *testing.T) {
	f, err := LoadFleet("../../examples/fleet.json")
	require.NoError(t, err)
	require.Len(t, f.Hosts, 12)
	require.Greater(t, len(f.VMs), 200)
}

func FuzzParseFleet(f *testing.F) {
	f.Add([]byte(`{"hosts":[{"uuid":"00000001-bbbb-4000-8000-000000000000","hostname":"cn1","traits":{"a":1}}],"vms":[{"uuid":"00000001-0000-4000-8000-000000000000","tags":{"a":true,"b":1.5},"server_uuid":"00000001-bbbb-4000-8000-000000000000"}]}`))
	f.Add([]byte(`{"vms":[{"uuid":null}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		fleet, err := ParseFleet(text)
		if err != nil {
			return
		}
		s := New(Options{})
		defer s.Close()
		require.NoError(t, s.Load(fleet), "what is parsed can be loaded")
		again, err := json.Marshal(fleet)
		require.NoError(t, err)
		_, err = ParseFleet(again)
		require.NoError(t, err, "what is parsed can be written and parsed")
	})
}
