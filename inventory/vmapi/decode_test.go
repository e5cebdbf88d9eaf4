package vmapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/inventory"
)

// naivePage is what a page means, said with encoding/json.
func naivePage(body []byte) (vms []inventory.VM, rows int, err error) {
	if !json.Valid(body) {
		return nil, 0, errors.New("not JSON")
	}
	var list []json.RawMessage
	if err := json.Unmarshal(body, &list); err != nil || list == nil {
		return nil, 0, errors.New("not a list")
	}
	for _, raw := range list {
		var fields map[string]json.RawMessage
		if json.Unmarshal(raw, &fields) != nil {
			continue
		}
		vm := inventory.VM{
			UUID: naiveUUID(fields["uuid"]), Owner: naiveUUID(fields["owner_uuid"]), Host: naiveUUID(fields["server_uuid"]),
			Alias: naiveText(fields["alias"]), State: naiveText(fields["state"]), Tags: naiveTags(fields["tags"]),
		}
		if vm.UUID != uuid.Nil {
			vms = append(vms, vm)
		}
	}
	return vms, len(list), nil
}

func naiveText(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

func naiveUUID(raw json.RawMessage) uuid.UUID {
	s := naiveText(raw)
	id, err := uuid.Parse(s)
	if err != nil || len(s) != 36 {
		return uuid.Nil
	}
	return id
}

func naiveTags(raw json.RawMessage) map[string]string {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return nil
	}
	var tags map[string]string
	for key, value := range fields {
		text := string(value)
		switch text[0] {
		case 'n', '{', '[':
			continue
		case '"':
			text = naiveText(value)
		}
		if tags == nil {
			tags = make(map[string]string)
		}
		tags[key] = text
	}
	return tags
}

func samePage(t *testing.T, d *decoder, body []byte) {
	t.Helper()
	want, rows, wantErr := naivePage(body)
	got, err := d.page(body, nil)
	if wantErr != nil {
		require.Error(t, err, "%s", body)
		return
	}
	require.NoError(t, err, "%s", body)
	require.Equal(t, rows, d.rows)
	require.Len(t, got, len(want), "%s", body)
	for i := range want {
		require.Equal(t, want[i], got[i], "%s", body)
	}
}

const (
	someUUID  = "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d"
	otherUUID = "0C5B2444-70A0-4932-980C-B4DC0D3F02B5"
)

var pages = []string{
	`[]`, ` [ ] `, `null`, `{}`, `[`, `[}`, `[,]`, `[{}]`, `[null,5,"x",[],{"a":[{"b":[1,2.5e-3,true,false,null]}]}]`, `[] x`, "",
	`[{"uuid":"` + someUUID + `","owner_uuid":"` + otherUUID + `","server_uuid":null,"alias":"a\u00e9\n\ud83d\ude00\ud83d","state":"running","tags":{"a":"b","n":5,"m":-1.50,"t":true,"x":null,"o":{},"l":[1]}}]`,
	`[{"uuid":"` + someUUID + `","uuid":null}]`, `[{"uuid":5}]`, `[{"uuid":"x"}]`, `[{"uuid":"` + someUUID + `","tags":5,"alias":{},"state":[],"owner_uuid":7}]`,
	`[{"uuid":"` + someUUID + `","tags":{"a":1,"a":null,"a":"z"}}]`, `[{"uu\u0069d":"` + someUUID + `"}]`,
	`[{"uuid":"` + someUUID + `","tags":{}},{"uuid":"` + otherUUID + `","tags":null,"x":"` + strings.Repeat("long ", 50) + `"}]`,
	"[{\"uuid\":\"" + someUUID + "\",\"alias\":\"\xff\xfe\",\"state\":\"\xc3\x28\",\"tags\":{\"\xff\":\"\xff\"}}]",
	"[{\"uuid\":\"" + someUUID + "\",\"alias\":\"a\tb\"}]", `[{"uuid":"` + someUUID + `" "a":1}]`, `[{"a":01}]`, `[{"a":1.}]`, `[{"a":-}]`, `[{"a":1e}]`,
	`[{"a":"\x"}]`, `[{"a":"\u12g4"}]`, `[{"a":tru}]`, `[{"a":nul}]`, `[{"a"}]`, `[{a:1}]`, `[{"a":1,}]`, `[1,]`, `[1 2]`,
	"[{\"uuid\":\"" + someUUID + "\"}]\x00", "[\u00a0]", "\ufeff[]",
	// Rows that begin alike, and then do not.
	`[{"uuid":"` + someUUID + `","state":"running","tags":{"a":"b"}},{"uuid":"` + otherUUID + `","state":"running","tags":{"a":"b"}},{"state":"stopped","uuid":"` + otherUUID + `"},` +
		`{"uuid":"` + someUUID + `","state":"running","tags":{"a":"b"},"alias":"x"},{"uuid":"` + someUUID + `","state":"running"},{"uuid":"` + someUUID + `"},{}]`,
	`[ { "uuid" : "` + someUUID + `" , "tags" : { "a" : [ "}" ] , "b":"}" } } ,{"uuid":"` + someUUID + `","tags":{"a":["}"],"b":"}"}},{ "uuid" : "` + otherUUID + `" , "tags" : { "a" : [ "}" ] , "b":"}" } , "uuid" : null } ]`,
	`[{"uuid":"` + someUUID + `","tags":{"a":{"b":1}}},{"uuid":"` + someUUID + `","tags":{"a":{"b":1}}},{"uuid":"` + someUUID + `","tags":{"a":"b"}x}]`,
	`[{"uuid":"` + strings.ReplaceAll(someUUID, "9", `\u0039`) + `"}]`, `[{"tags":{"a":"` + strings.Repeat("x", 2000) + `"},"uuid":"` + someUUID + `"}]`,
}

func TestDecoderAgreesWithEncodingJSON(t *testing.T) {
	d := newDecoder()
	for _, page := range pages {
		samePage(t, d, []byte(page))
		for cut := range min(len(page), 300) {
			samePage(t, d, []byte(page[:cut]))
		}
	}
	for _, depth := range []int{maxDepth - 2, maxDepth - 1, maxDepth, maxDepth + 1} {
		samePage(t, d, []byte(strings.Repeat("[", depth)+strings.Repeat("]", depth)))
		samePage(t, d, []byte(`[{"x":`+strings.Repeat("[", depth)+strings.Repeat("]", depth)+`}]`))
	}
}

// Random pages of random values, then the same pages with a byte changed.
func TestDecoderAgreesWithEncodingJSONOnRandomPages(t *testing.T) {
	dice := rand.New(rand.NewPCG(7, 7))
	d := newDecoder()
	for range 1500 {
		var page bytes.Buffer
		page.WriteByte('[')
		for i := range dice.IntN(4) {
			if i > 0 {
				page.WriteByte(',')
			}
			randomObject(dice, &page, 2)
		}
		page.WriteByte(']')
		body := page.Bytes()
		samePage(t, d, body)
		body[dice.IntN(len(body))] = `{}[]",:\0a-.e`[dice.IntN(13)]
		samePage(t, d, body)
	}
}

func randomObject(dice *rand.Rand, out *bytes.Buffer, depth int) {
	keys := []string{`"uuid"`, `"owner_uuid"`, `"server_uuid"`, `"alias"`, `"state"`, `"tags"`, `"other"`, `"t\u0061gs"`}
	out.WriteByte('{')
	for i := range dice.IntN(6) {
		if i > 0 {
			out.WriteString(" , ")
		}
		out.WriteString(keys[dice.IntN(len(keys))])
		out.WriteByte(':')
		randomValue(dice, out, depth)
	}
	out.WriteByte('}')
}

func randomValue(dice *rand.Rand, out *bytes.Buffer, depth int) {
	simple := []string{
		`"` + someUUID + `"`, `"` + otherUUID + `"`, `null`, `true`, `-0.5e+10`, `12`, `""`, `"running"`, `"a \"q\" \\ \/ \u00e9"`,
		`"naïve ☃"`, `[]`, `{}`,
	}
	if depth == 0 || dice.IntN(3) > 0 {
		out.WriteString(simple[dice.IntN(len(simple))])
		return
	}
	randomObject(dice, out, depth-1)
}

func TestOddTypesAreCounted(t *testing.T) {
	d := newDecoder()
	body := []byte(`[5,{"uuid":"x"},{"uuid":"` + someUUID + `","owner_uuid":"nope","alias":7,"state":null,"tags":{"a":[],"b":"c"}}]`)
	for n := int64(1); n <= 2; n++ { // the second time from what is remembered
		vms, err := d.page(body, nil)
		require.NoError(t, err)
		require.Equal(t, []inventory.VM{{UUID: uuid.MustParse(someUUID), Tags: map[string]string{"b": "c"}}}, vms)
		require.Equal(t, 2*n, d.skippedVMs)
		require.Equal(t, 4*n, d.skippedFields, "the unusable uuid too")
	}
}

func TestDecoderForgetsAtItsBounds(t *testing.T) {
	d := newDecoder()
	for i := range maxWords + 10 {
		body := fmt.Appendf(nil, `[{"uuid":%q,"state":"s%d","tags":{"k%d":"v"}}]`, someUUID, i, i)
		vms, err := d.page(body, nil)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("s%d", i), vms[0].State)
	}
	require.LessOrEqual(t, len(d.words), maxWords)
	require.LessOrEqual(t, len(d.tags), maxTagSets)
}

func FuzzDecodePage(f *testing.F) {
	for _, page := range pages {
		f.Add([]byte(page))
	}
	d := newDecoder()
	f.Fuzz(func(t *testing.T, body []byte) { samePage(t, d, body) })
}

func FuzzParseUUID(f *testing.F) {
	f.Add(someUUID)
	f.Add(otherUUID)
	for i := range 36 {
		for _, c := range []string{"g", "G", "/", ":", "@", "`", "\x16", "\xb0", "\xff", "-", "w"} {
			f.Add(someUUID[:i] + c + someUUID[i+1:])
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		want, err := uuid.Parse(text)
		var got uuid.UUID
		ok := parseUUID([]byte(text), &got)
		if ok != (err == nil && len(text) == 36) {
			t.Fatalf("%q: %v, %v", text, ok, err)
		}
		if ok && got != want {
			t.Fatalf("%q: %s", text, got)
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"changeKind":{"resource":"vm","subResources":["destroyed"]},"changedResourceId":"` + someUUID + `","resourceObject":{"uuid":"` + someUUID + `","state":"destroyed"}}`))
	f.Add([]byte(`{"changedResourceId":5,"changeKind":null}`))
	c, err := New(Options{URL: "http://127.0.0.1:1"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		id, ch, ok := c.message(frame)
		if ok && id == uuid.Nil {
			t.Fatal("a message without a VM")
		}
		if ok && ch.seen != nil && ch.seen.UUID != id {
			t.Fatal("a message with another VM")
		}
	})
}

// benchPage is a trimmed page as VMAPI sends it: about 300 bytes for each of 1,000 VMs.
func benchPage(tagSets int) []byte {
	dice := rand.New(rand.NewPCG(1, 1))
	id := func() string {
		var u uuid.UUID
		for i := range u {
			u[i] = byte(dice.Uint32())
		}
		return u.String()
	}
	var page bytes.Buffer
	page.WriteByte('[')
	for i := range 1000 {
		if i > 0 {
			page.WriteByte(',')
		}
		fmt.Fprintf(&page, `{"uuid":%q,"owner_uuid":%q,"alias":"shop-web-%d","state":"running","tags":{"role":"web","env":"prod","service":"shop-%d","triton.cns.services":"shop"},"server_uuid":%q}`,
			id(), id(), i, dice.IntN(tagSets), id())
	}
	page.WriteByte(']')
	return page.Bytes()
}

// BenchmarkDecodePage decodes a page of 1,000 VMs: by this decoder with tags that repeat and with tags that never do,
// by encoding/json into a struct, and merely read. ns/VM is per VM.
func BenchmarkDecodePage(b *testing.B) {
	run := func(name string, page []byte, decode func(page []byte)) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(page)))
			b.ReportAllocs()
			for b.Loop() {
				decode(page)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/VM")
		})
	}
	d := newDecoder()
	by := func(page []byte) {
		if vms, err := d.page(page, nil); err != nil || len(vms) != 1000 {
			b.Fatal(err)
		}
	}
	page := benchPage(500)
	run("scanner/tags repeat", page, by)
	run("scanner/tags mostly unique", benchPage(1_000_000_000), func(page []byte) {
		clear(d.tags)
		by(page)
	})
	run("encoding json", page, func(page []byte) {
		var rows []struct {
			UUID  uuid.UUID      `json:"uuid"`
			Owner *uuid.UUID     `json:"owner_uuid"`
			Alias string         `json:"alias"`
			State string         `json:"state"`
			Tags  map[string]any `json:"tags"`
			Host  *uuid.UUID     `json:"server_uuid"`
		}
		if err := json.Unmarshal(page, &rows); err != nil {
			b.Fatal(err)
		}
	})
	var buf bytes.Buffer
	run("read only", page, func(page []byte) {
		buf.Reset()
		if _, err := buf.ReadFrom(bytes.NewReader(page)); err != nil {
			b.Fatal(err)
		}
	})
}
