package agent

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/assignment"
)

func (f *fakeSession) asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fetches
}

// All that need the same definition wait for one request, and who comes later finds it on disk, unless it is damaged there.
func TestADefinitionIsFetchedOnce(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		path := disk{dir: r.dir}.definitionPath(r.digest)
		r.start()
		items := make([]assignment.Item, 50)
		for i := range items {
			items[i] = r.item(fmt.Sprint("i-", i))
		}
		r.assign(1, items[:40]...)
		r.eventually("they measure", func() bool { open, _ := r.probes.counts(); return open == 40 })
		require.Equal(t, 1, r.session.asked())
		r.assign(2, items...)
		r.eventually("those that came later measure", func() bool { open, _ := r.probes.counts(); return open == 50 })
		require.Equal(t, 1, r.session.asked())
		document, err := os.ReadFile(path)
		require.NoError(t, err)
		for n, damage := range []func(){
			func() { require.NoError(t, os.WriteFile(path, document[:len(document)/2], 0o600)) },
			func() { require.NoError(t, os.WriteFile(path, append(document, ' '), 0o600)) },
			func() {
				require.NoError(t, os.Remove(path))
				require.NoError(t, os.Symlink("/etc/hostname", path))
			},
		} {
			damage()
			opened, _ := r.probes.counts()
			r.assign(int64(3+n), append(items, r.item(fmt.Sprint("j-", n)))...)
			r.eventually("it is fetched again", func() bool { return r.session.asked() == 2+n })
			r.eventually("it measures", func() bool { now, _ := r.probes.counts(); return now >= opened })
			r.eventually("it is kept again", func() bool { kept, err := os.ReadFile(path); return err == nil && string(kept) == string(document) })
		}
	})
}
