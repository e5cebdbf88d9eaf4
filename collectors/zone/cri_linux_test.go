package zone_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
)

// cri speaks the few words of Kubernetes' Container Runtime Interface by which a kubelet runs a pod.
type cri struct{ conn *grpc.ClientConn }

func dialCRI(t *testing.T, socket string) cri {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(plainCodec{})))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return cri{conn}
}

// plainCodec passes on messages that are encoded already.
type plainCodec struct{}

func (plainCodec) Name() string                  { return "proto" }
func (plainCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (plainCodec) Unmarshal(text []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), text...)
	return nil
}

func (c cri) call(method string, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var answer []byte
	err := c.conn.Invoke(ctx, "/runtime.v1.RuntimeService/"+method, request, &answer)
	return answer, err
}

// id is the first field of an answer.
func (c cri) id(t *testing.T, method string, request []byte) string {
	t.Helper()
	answer, err := c.call(method, request)
	require.NoError(t, err, method)
	_, _, n := protowire.ConsumeTag(answer)
	require.Positive(t, n)
	text, n := protowire.ConsumeBytes(answer[n:])
	require.Positive(t, n)
	return string(text)
}

// message encodes fields: pairs of a number and a text, a message, or a number.
func message(fields ...any) []byte {
	var b []byte
	for i := 0; i < len(fields); i += 2 {
		number := protowire.Number(fields[i].(int))
		switch v := fields[i+1].(type) {
		case string:
			b = protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), v)
		case []byte:
			b = protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), v)
		case int:
			b = protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), uint64(v))
		}
	}
	return b
}

// runPod runs a pod of one busy container, in the host's network.
func (c cri) runPod(t *testing.T, uid, parent, image string) (sandbox, container string) {
	t.Helper()
	network := message(1, 2)
	pod := message(1, message(1, "web", 2, uid, 3, "shop"), 3, t.TempDir(), 6, message(1, "app", 2, "web"),
		8, message(1, parent, 2, message(1, network)))
	sandbox = c.id(t, "RunPodSandbox", message(1, pod))
	t.Cleanup(func() {
		_, _ = c.call("StopPodSandbox", message(1, sandbox))
		_, _ = c.call("RemovePodSandbox", message(1, sandbox))
	})
	container = c.id(t, "CreateContainer", message(1, sandbox, 2, message(1, message(1, "app"), 2, message(1, image), 3, "/bin/sh", 3, "-c", 3, busy,
		11, "app.log", 15, message(2, message(3, network))), 3, pod))
	_, err := c.call("StartContainer", message(1, container))
	require.NoError(t, err)
	return sandbox, container
}

func (c cri) stopPod(t *testing.T, sandbox string) {
	t.Helper()
	for _, method := range []string{"StopPodSandbox", "RemovePodSandbox"} {
		_, err := c.call(method, message(1, sandbox))
		require.NoError(t, err)
	}
}

// sum is the digest of a file.
func sum(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	digest := sha256.Sum256(text)
	return hex.EncodeToString(digest[:])
}
