package graph

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/graph/model"
)

func FuzzCursor(f *testing.F) {
	f.Add(cursor(byInstrumentation, "i-0"))
	f.Add(cursor(byVM, "00000000-0000-4000-8000-000000000b0b"))
	f.Add("")
	f.Add("MWk=")
	f.Add("MWlh\r")
	f.Fuzz(func(t *testing.T, text string) {
		for _, kind := range []byte{byInstrumentation, byVM, byHost, byEntry} {
			key, err := parseCursor(kind, text)
			if err != nil {
				continue
			}
			require.NotEmpty(t, key)
			require.Equal(t, text, cursor(kind, key), "each place has exactly one cursor")
		}
	})
}

func FuzzGlobalID(f *testing.F) {
	f.Add("i-00000000000000000001")
	f.Add(model.GlobalID(model.MetricPrefix, []byte("disk.physio_ops")))
	f.Add(model.GlobalID(model.HostPrefix, make([]byte, 16)))
	f.Add("v-AA")
	f.Add("m-\r")
	f.Fuzz(func(t *testing.T, text string) {
		prefix, key, err := model.ParseGlobalID(text)
		if err != nil {
			return
		}
		require.True(t, strings.HasPrefix(text, prefix))
		if prefix != model.InstrumentationPrefix {
			require.Equal(t, text, model.GlobalID(prefix, key), "each thing has exactly one id")
		}
		if prefix == model.VMPrefix || prefix == model.HostPrefix {
			require.Len(t, key, 16)
		}
	})
}

func FuzzIfNoneMatch(f *testing.F) {
	f.Add(`"0000000000000001.7.abc"`)
	f.Add(`W/"a.b.c", "0000000000000001.7.abc"`)
	f.Add(`*`)
	f.Fuzz(func(t *testing.T, header string) {
		v := knownVersion([]string{header})
		if v.Epoch != "" {
			require.Equal(t, v, knownVersion([]string{etag(v)}))
		}
	})
}

func FuzzAccept(f *testing.F) {
	f.Add("application/json;q=0.5, application/graphql-response+json")
	f.Add("*/*")
	f.Fuzz(func(t *testing.T, header string) {
		require.Contains(t, []string{"", mediaJSON, mediaGraphQL}, negotiate([]string{header}))
	})
}
