package session

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/graph/agentdoc"
)

// peer is the API's end of one connection, with no more than it takes: what is measured is the session.
type peer struct {
	conn net.Conn
	in   *bufio.Reader
	buf  []byte
}

// accept takes a connection up to the subscription.
func accept(l net.Listener) (*peer, error) {
	conn, err := l.Accept()
	if err != nil {
		return nil, err
	}
	p := &peer{conn: conn, in: bufio.NewReader(conn)}
	r, err := http.ReadRequest(p.in)
	if err != nil {
		return nil, err
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: %s\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		agentdoc.Subprotocol, base64.StdEncoding.EncodeToString(sum[:]))
	if _, err := p.read(); err != nil { // connection_init
		return nil, err
	}
	p.write([]byte(`{"type":"connection_ack"}`))
	_, err = p.read() // subscribe
	return p, err
}

func (p *peer) read() ([]byte, error) {
	var head [14]byte
	if _, err := io.ReadFull(p.in, head[:2]); err != nil {
		return nil, err
	}
	n, more := int(head[1]&0x7f), 4
	switch n {
	case 126:
		more = 6
	case 127:
		more = 12
	}
	if _, err := io.ReadFull(p.in, head[2:2+more]); err != nil {
		return nil, err
	}
	switch n {
	case 126:
		n = int(binary.BigEndian.Uint16(head[2:]))
	case 127:
		n = int(binary.BigEndian.Uint64(head[2:]))
	}
	if cap(p.buf) < n {
		p.buf = make([]byte, n)
	}
	p.buf = p.buf[:n]
	_, err := io.ReadFull(p.in, p.buf)
	mask := head[2+more-4 : 2+more]
	for i := range min(n, 64) { // as much as it takes to find the id
		p.buf[i] ^= mask[i%4]
	}
	return p.buf, err
}

func (p *peer) write(texts ...[]byte) {
	var b []byte
	for _, text := range texts {
		switch n := len(text); {
		case n < 126:
			b = append(b, 0x81, byte(n))
		case n < 1<<16:
			b = binary.BigEndian.AppendUint16(append(b, 0x81, 126), uint16(n))
		default:
			b = binary.BigEndian.AppendUint64(append(b, 0x81, 127), uint64(n))
		}
		b = append(b, text...)
	}
	_, _ = p.conn.Write(b)
}

// answer takes a report, and passes over pings.
func (p *peer) answer() error {
	raw, err := p.read()
	if err != nil {
		return err
	}
	_, rest, operation := bytes.Cut(raw, []byte(`"id":"`))
	if !operation {
		return p.answer()
	}
	id, _, _ := bytes.Cut(rest, []byte(`"`))
	p.write(fmt.Appendf(nil, `{"id":"%s","type":"next","payload":{"data":{"reportAgentStatus":{"accepted":true,"superseded":false,"nextReportSeconds":30}}}}`, id),
		fmt.Appendf(nil, `{"id":"%s","type":"complete"}`, id))
	return nil
}

// benchDocument is a frame with so many instrumentations, and where in it the generation is.
func benchDocument(n int) (text []byte, generation int) {
	var items []string
	for i := range n {
		items = append(items, fmt.Sprintf(`{"id":"6f0c9f3a-0000-4000-8000-%012d","revision":1,"owner":"11111111-2222-4333-8444-555555555555","metric":"cpu.usage",`+
			`"definitionDigest":"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","predicate":{"and":[{"eq":["cpumode","user"]},{"ne":["hostname","x%d"]}]},`+
			`"decompositions":["cpumode"],"wholeHost":false,"vms":[{"uuid":"7b1f2c3d-0000-4000-8000-%012d","owner":"11111111-2222-4333-8444-555555555555"},`+
			`{"uuid":"7b1f2c3d-0000-4000-8001-%012d","owner":"11111111-2222-4333-8444-555555555555"}],"targets":[{"kind":"dataapi","address":"http://127.0.0.1:9090/data-api",`+
			`"prefix":null,"transport":"HTTP","headers":{}}],"granularitySeconds":1,"expiresAt":"2026-11-22T22:00:00.000Z"}`, i, i, i, i))
	}
	text = fmt.Appendf(nil, `{"id":"a","type":"next","payload":{"data":{"assignments":{"__typename":"Assignment","host":%q,`+
		`"version":{"epoch":"0000000000000001","generation":1000000000,"hash":"0123456789abcdef0123456789abcdef"},"sentAt":"2026-11-22T20:00:00.000Z","instrumentations":[%s]}}}}`,
		testHost, strings.Join(items, ","))
	return text, bytes.Index(text, []byte("1000000000"))
}

func benchReport(a Assignment) Report {
	v := a.Version
	r := Report{Sequence: v.Generation % 1_000_000, AgentVersion: "bench", Capabilities: []string{"procfs"}, Applied: &v}
	now := a.SentAt
	for _, item := range a.Instrumentations {
		r.Instrumentations = append(r.Instrumentations, Status{ID: item.ID, Revision: item.Revision, Status: "RUNNING", LastSampleAt: &now})
	}
	return r
}

func processorTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkSession measures the session against a peer that does nothing: a delivery is one assignment and the report of it
// that was taken; a connect is a session from its beginning to that, and its end. cpu-µs is what both ends used.
func BenchmarkSession(b *testing.B) {
	for _, n := range []int{5, 64} {
		b.Run(fmt.Sprintf("deliver/%d", n), func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(b, err)
			defer l.Close()
			s, err := New(Options{Servers: []string{"http://" + l.Addr().String()}, Host: testHost, Token: func() string { return "token" }})
			require.NoError(b, err)
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan struct{})
			got := make(chan Assignment, 1)
			go func() { defer close(done); _ = s.Run(ctx, func(a Assignment) { got <- a }) }()
			p, err := accept(l)
			require.NoError(b, err)
			defer p.conn.Close()
			text, at := benchDocument(n)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			began := processorTime(b)
			for i := int64(0); b.Loop(); i++ {
				copy(text[at:], fmt.Appendf(nil, "%d", 1_000_000_000+i))
				p.write(text)
				a := <-got
				taken := make(chan error, 1)
				go func() { _, err := s.Report(ctx, benchReport(a)); taken <- err }()
				require.NoError(b, p.answer())
				require.NoError(b, <-taken)
			}
			b.ReportMetric(float64((processorTime(b)-began).Microseconds())/float64(b.N), "cpu-µs/op")
			cancel()
			<-done
		})
	}
	b.Run("connect", func(b *testing.B) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(b, err)
		defer l.Close()
		text, _ := benchDocument(5)
		b.ReportAllocs()
		began := processorTime(b)
		for b.Loop() {
			ctx, cancel := context.WithCancel(b.Context())
			s, err := New(Options{Servers: []string{"http://" + l.Addr().String()}, Host: testHost, Token: func() string { return "token" }})
			require.NoError(b, err)
			got, done, taken := make(chan Assignment, 1), make(chan struct{}), make(chan error, 1)
			go func() { defer close(done); _ = s.Run(ctx, func(a Assignment) { got <- a }) }()
			p, err := accept(l)
			require.NoError(b, err)
			p.write(text)
			a := <-got
			go func() { _, err := s.Report(ctx, benchReport(a)); taken <- err }()
			require.NoError(b, p.answer())
			require.NoError(b, <-taken)
			cancel()
			<-done
			p.conn.Close()
		}
		b.ReportMetric(float64((processorTime(b)-began).Microseconds())/float64(b.N), "cpu-µs/op")
	})
}
