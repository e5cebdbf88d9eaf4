package delivery_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/delivery/deliverytest"
)

// Whoever is called back may use the hub and every subscription, and wait for others who do: no lock is held. It is tried for
// everything that calls back.
func TestNothingIsCalledBackUnderALock(t *testing.T) {
	w := start(t, deliverytest.New())
	host, other := uuid.New(), uuid.New()
	w.source.Commit(other, `[]`)
	bystander := w.subscribe(t, other, uuid.New(), assignment.Version{})
	event(t, bystander)
	var calls atomic.Int64
	use := func(s *delivery.Subscription) func() {
		return func() {
			done := make(chan struct{})
			go func() { // whoever holds a lock waits for this one, which waits for the lock
				defer close(done)
				_, stop := w.Observe(host)
				stop()
				_, _, _ = bystander.Take()
				bystander.Alive()
				s.Alive()
				_ = w.Stats()
				_ = w.Heartbeat()
				_, _ = w.Current(t.Context(), other)
				visitor, err := w.Subscribe(t.Context(), uuid.New(), uuid.New(), assignment.Version{})
				if err == nil { // the hub may have ended
					visitor.Close()
				}
			}()
			select {
			case <-done:
				calls.Add(1)
			case <-time.After(patience):
				t.Error("a lock is held while somebody is called back")
			}
		}
	}
	called := func(what string, do func()) {
		t.Helper()
		before := calls.Load()
		do()
		require.Eventually(t, func() bool { return calls.Load() > before }, patience, time.Millisecond, what)
	}
	follow := func(known assignment.Version) *delivery.Subscription {
		s := w.subscribe(t, host, uuid.New(), known)
		s.OnReady(use(s))
		return s
	}
	v := w.source.Commit(host, `[1]`)
	var s *delivery.Subscription
	called("a document", func() { s = follow(assignment.Version{}) })
	called("a bookmark", func() { s = follow(v) })
	called("a change", func() { v = w.source.Commit(host, `[2]`) })
	called("a gap", func() {
		w.source.Silence(true)
		v = w.source.Commit(host, `[3]`)
		w.source.Silence(false)
		w.source.Gap()
	})
	called("another session here", func() { follow(v) })
	called("the end of the one before", func() { follow(v) })
	w.OnRevoke(func(uuid.UUID) { use(s)() })
	called("a revocation", func() { w.source.Publish(delivery.Change{Host: host, Kind: delivery.Revoke}) })
	w.OnRevoke(nil)
	called("another session there", func() {
		follow(v)
		_, err := w.source.BeginSession(t.Context(), host, uuid.New(), 0)
		require.NoError(t, err)
	})
	called("a close", func() { follow(v).Close() })
	follow(v)
	called("the end of the hub", w.Close)
}

// In the whole way of an assignment, from the stream to the peer, nobody waits for anybody while holding a lock: what is called
// there takes no time of others, and what is sent or received there can be sent or received at once.
func TestNobodyWaitsUnderALock(t *testing.T) {
	locked := 0
	for _, dir := range []string{".", "../graph", "../graph/ws", "../graph/ws/poll", "../internal/batch"} {
		c := lockChecker{t: t, files: token.NewFileSet(), waits: map[string]bool{
			"Documents": true, "Versions": true, "Rebase": true, "WatchDocuments": true, "WatchRecords": true, "BeginSession": true, // a source
			"Sessions": true, "Knows": true, "Touch": true, "ReportBatch": true, "Do": true, "call": true, "Authenticate": true,
			"Read": true, "Write": true, "WriteTo": true, "Flush": true, "write": true, // a peer
			"Wait": true, "Sleep": true, "ready": true, "revoked": true, // somebody
		}}
		paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
		require.NoError(t, err)
		var functions []*ast.FuncDecl
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(c.files, path, nil, 0)
			require.NoError(t, err)
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
					functions = append(functions, fn)
				}
			}
		}
		for grows := true; grows; { // who calls somebody that waits, waits
			grows = false
			for _, fn := range functions {
				if name := fn.Name.Name; !c.waits[name] && c.waiting(fn.Body) != token.NoPos {
					c.waits[name], grows = true, true
				}
			}
		}
		for _, fn := range functions {
			c.list(fn.Body.List, false)
		}
		locked += c.locked
	}
	require.Greater(t, locked, 60, "what is looked for is there")
}

// lockChecker looks for what waits under a lock. Functions are told apart by their names alone.
type lockChecker struct {
	t      *testing.T
	files  *token.FileSet
	waits  map[string]bool
	locked int
}

// list checks statements that follow each other, and returns whether a lock is held behind them.
func (c *lockChecker) list(list []ast.Stmt, held bool) bool {
	for _, s := range list {
		held = c.statement(s, held)
	}
	return held
}

func (c *lockChecker) statement(s ast.Stmt, held bool) bool {
	branch := func(body []ast.Stmt) {
		after := c.list(body, held)
		if n := len(body); n > 0 {
			switch body[n-1].(type) {
			case *ast.ReturnStmt, *ast.BranchStmt:
				return
			}
		}
		held = held && after
	}
	switch s := s.(type) {
	case *ast.ExprStmt:
		switch name := called(s.X); name {
		case "Lock", "RLock":
			c.locked++
			return true
		case "Unlock", "RUnlock":
			return false
		}
		c.check(s, held)
	case *ast.BlockStmt:
		return c.list(s.List, held)
	case *ast.LabeledStmt:
		return c.statement(s.Stmt, held)
	case *ast.IfStmt:
		c.check(s.Init, held)
		c.check(s.Cond, held)
		before := held
		branch(s.Body.List)
		if s.Else != nil {
			now := held
			held = before
			branch([]ast.Stmt{s.Else})
			held = held && now
		}
	case *ast.ForStmt:
		c.check(s.Init, held)
		c.check(s.Cond, held)
		c.check(s.Post, held)
		branch(s.Body.List)
	case *ast.RangeStmt:
		c.check(s.X, held)
		branch(s.Body.List)
	case *ast.SwitchStmt, *ast.TypeSwitchStmt, *ast.SelectStmt:
		if is, ok := s.(*ast.SelectStmt); ok && held && !atOnce(is) {
			c.t.Errorf("%s: it waits for a channel under a lock", c.files.Position(s.Pos()))
		}
		var clauses *ast.BlockStmt
		switch s := s.(type) {
		case *ast.SwitchStmt:
			c.check(s.Init, held)
			c.check(s.Tag, held)
			clauses = s.Body
		case *ast.TypeSwitchStmt:
			c.check(s.Assign, held)
			clauses = s.Body
		case *ast.SelectStmt:
			clauses = s.Body
		}
		before, after := held, held
		for _, clause := range clauses.List {
			held = before
			switch clause := clause.(type) {
			case *ast.CaseClause:
				for _, e := range clause.List {
					c.check(e, held)
				}
				branch(clause.Body)
			case *ast.CommClause:
				branch(clause.Body)
			}
			after = after && held
		}
		return after
	default:
		c.check(s, held)
	}
	return held
}

// check looks at what has no statements with locks of its own, and at the functions in it.
func (c *lockChecker) check(n ast.Node, held bool) {
	if empty(n) {
		return
	}
	if held {
		if at := c.waiting(n); at != token.NoPos {
			c.t.Errorf("%s: it may wait under a lock", c.files.Position(at))
		}
	}
	ast.Inspect(n, func(n ast.Node) bool {
		if fn, ok := n.(*ast.FuncLit); ok {
			c.list(fn.Body.List, false)
			return false
		}
		return true
	})
}

// waiting finds what may wait; NoPos: nothing.
func (c *lockChecker) waiting(n ast.Node) (at token.Pos) {
	free := map[ast.Node]bool{} // of selects that do not wait
	ast.Inspect(n, func(n ast.Node) bool {
		if at != token.NoPos || free[n] {
			return false
		}
		switch n := n.(type) {
		case *ast.GoStmt:
			return false
		case *ast.SelectStmt:
			if !atOnce(n) {
				at = n.Pos()
				return false
			}
			for _, clause := range n.Body.List {
				free[clause.(*ast.CommClause).Comm] = true
			}
		case *ast.SendStmt:
			at = n.Pos()
		case *ast.UnaryExpr:
			if n.Op == token.ARROW {
				at = n.Pos()
			}
		case *ast.CallExpr:
			switch name := called(n); {
			case name == "Go" || name == "AfterFunc": // it begins, and nobody waits for it
				return false
			case c.waits[name]:
				at = n.Pos()
			}
		}
		return at == token.NoPos
	})
	return at
}

// atOnce reports whether a select has something to do when nobody is ready.
func atOnce(s *ast.SelectStmt) bool {
	for _, clause := range s.Body.List {
		if clause.(*ast.CommClause).Comm == nil {
			return true
		}
	}
	return false
}

// called is the name of what an expression calls, "" for nothing that has one.
func called(e ast.Node) string {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return ""
	}
	switch fn := call.Fun.(type) {
	case *ast.Ident:
		return fn.Name
	case *ast.SelectorExpr:
		return fn.Sel.Name
	}
	return ""
}

// empty reports whether there is nothing, in whichever interface.
func empty(n ast.Node) bool { return n == nil || reflect.ValueOf(n).IsNil() }
